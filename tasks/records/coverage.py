"""The coverage of a restore, variable by variable."""

from __future__ import annotations

from typing import Literal

from tasks.records.base import Record

Status = Literal["matched", "missing", "changed"]


class VariableStatus(Record):
    """One variable of the graph: its status in the checkpoint, and whether the outputs need it."""

    name: str
    key: str | None
    status: Status
    needed: bool
    expected: str
    found: str | None


class Coverage(Record):
    """Every variable of a graph, and the tensors of the checkpoint (`extra`) that no variable takes.

    `other_state` is state other than variables that the outputs read, such as a mutable table: no restore brings it back.
    """

    variables: tuple[VariableStatus, ...]
    extra: tuple[str, ...]
    other_state: tuple[str, ...] = ()

    @property
    def refused(self) -> tuple[VariableStatus, ...]:
        """Return what a strict restore cannot accept: changed variables, and missing ones that the outputs need."""
        return tuple(
            variable
            for variable in self.variables
            if variable.status == "changed" or (variable.status == "missing" and variable.needed)
        )
