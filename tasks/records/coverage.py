"""What restoring a checkpoint writes, variable by variable."""

from __future__ import annotations

from typing import Literal

from tasks.records.base import Record

Status = Literal["matched", "missing", "changed"]


class VariableStatus(Record):
    """One variable of the graph: how the checkpoint answers for it, and whether the outputs need it."""

    name: str
    key: str | None
    status: Status
    needed: bool
    expected: str
    found: str | None


class Coverage(Record):
    """Every variable of a graph, and the tensors of the checkpoint (`extra`) that none of them asks for.

    `other_state` is what the outputs read that is no variable, such as a mutable table: no restore brings it back.
    """

    variables: tuple[VariableStatus, ...]
    extra: tuple[str, ...]
    other_state: tuple[str, ...] = ()

    @property
    def refused(self) -> tuple[VariableStatus, ...]:
        """What a strict restore cannot accept: needed variables missing or changed, and any variable changed."""
        return tuple(
            variable
            for variable in self.variables
            if variable.status == "changed" or (variable.status == "missing" and variable.needed)
        )
