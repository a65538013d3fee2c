"""What a comparison found: one row an output (or a set of variables), one report a form."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from tasks.records.base import Record
from tasks.records.forms import LIVE_SESSION


class ParityTest(StrEnum):
    """Which of the three tests applied (DESIGN.md, "Equal means")."""

    VALUES = "values"
    EXACT = "exact"
    SERVED = "served"


Bound = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Tolerance(Record):
    """|a-b| <= absolute + relative*|b|, for floats that were served or computed on another machine.

    `outputs` overrides both for single outputs, by `signature/output` or `output`.
    """

    absolute: Bound = 1e-5
    relative: Bound = 1e-5
    outputs: dict[str, tuple[Bound, Bound]] = Field(default_factory=dict)

    def of(self, signature: str, output: str) -> tuple[float, float]:
        """(absolute, relative) for one output."""
        for name in (f"{signature}/{output}", output):
            if name in self.outputs:
                return self.outputs[name]
        return self.absolute, self.relative


class Difference(Record):
    """Where two tensors differ most, or the fact that made a comparison of values pointless."""

    index: tuple[int, ...] = ()
    expected: str
    got: str


class ParityRow(Record):
    """One comparison that was made, or one that was not and why.

    `passed` is None for a comparison that was not made: `note` says why, and nothing counts it as passed.
    `output` names an output, a variable or an asset; `signature` is empty for values.
    """

    candidate: str
    signature: str
    output: str
    test: ParityTest
    compared: int = 0
    max_abs: float = 0.0
    max_rel: float = 0.0
    mismatched: int = 0
    passed: bool | None
    note: str = ""
    worst: Difference | None = None

    @classmethod
    def not_made(cls, candidate: str, note: str) -> ParityRow:
        """A row that says why nothing was compared."""
        return cls(candidate=candidate, signature="", output="*", test=ParityTest.VALUES, passed=None, note=note)

    @property
    def form(self) -> str:
        """The form that the candidate is one way of asking."""
        return form_of(self.candidate)


class ParityReport(Record):
    """All rows of one form against the baseline; `notes` say what a reader of the rows should know."""

    baseline: str = LIVE_SESSION
    rows: tuple[ParityRow, ...]
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """True if something was compared and nothing that was compared differs."""
        judged = [row.passed for row in self.rows if row.passed is not None]
        return bool(judged) and all(judged)

    @property
    def failures(self) -> tuple[ParityRow, ...]:
        """The rows that differ, in the order in which they were looked at."""
        return tuple(row for row in self.rows if row.passed is False)


def form_of(candidate: str) -> str:
    """The form in a candidate's name: `served (gRPC), batch 7` is one way to ask `served (gRPC)`."""
    head, bracket, _ = candidate.partition("), ")
    return f"{head})" if bracket else head


def worst_of(rows: Iterable[ParityRow]) -> list[ParityRow]:
    """One row for each output of each form: the worst of its answers, and how many values were compared in all."""
    worst: dict[tuple[str, str, str], ParityRow] = {}
    for row in rows:
        place = (row.candidate, row.signature, row.output)
        other = worst.get(place)
        if other is None:
            worst[place] = row
            continue
        badly = max(
            other, row, key=lambda one: (one.passed is False, one.passed is not None, one.mismatched, one.max_abs)
        )
        worst[place] = badly.model_copy(update={"compared": other.compared + row.compared})
    return list(worst.values())
