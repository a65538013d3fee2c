"""Results of a comparison: one row per output (or set of variables), one report per form."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from tasks.records.base import Record
from tasks.records.forms import LIVE_SESSION
from tasks.records.signature import OutputRef


class ParityTest(StrEnum):
    """The test that a comparison applied (README.md, "Four tests")."""

    VALUES = "values"
    EXACT = "exact"
    SERVED = "served"
    STRUCTURE = "structure"


Bound = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Tolerance(Record):
    """The limit |a-b| <= absolute + relative*|b| for floats that were served or computed on another machine.

    `outputs` overrides both for single outputs, by `signature/output` or `output`.
    """

    absolute: Bound = 1e-5
    relative: Bound = 1e-5
    outputs: dict[str, tuple[Bound, Bound]] = Field(default_factory=dict)

    def of(self, signature: str, output: str) -> tuple[float, float]:
        """Return (absolute, relative) for one output."""
        for name in (str(OutputRef(signature, output)), output):
            if name in self.outputs:
                return self.outputs[name]
        return self.absolute, self.relative


@dataclass(frozen=True)
class NotMade:
    """The reason why a form cannot be made of a model. It is no verdict against the model, and no pass."""

    reason: str


class Difference(Record):
    """The place where two tensors differ most, or the difference in dtype or shape that prevents a comparison."""

    index: tuple[int, ...] = ()
    expected: str
    got: str


class ParityRow(Record):
    """One comparison, or the reason why it was not made.

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
    def not_made(cls, candidate: str, why: NotMade) -> ParityRow:
        """Return the only row of a form that cannot be made."""
        note = f"not made: {why.reason}"
        return cls(candidate=candidate, signature="", output="*", test=ParityTest.VALUES, passed=None, note=note)

    @property
    def is_not_made(self) -> bool:
        """True for the row of a form that cannot be made."""
        return self.passed is None and self.output == "*" and not self.signature

    @property
    def form(self) -> str:
        """Return the form to which the candidate belongs."""
        return form_of(self.candidate)


class ParityReport(Record):
    """All rows of one form against the baseline; `notes` are remarks for the reader."""

    baseline: str = LIVE_SESSION
    rows: tuple[ParityRow, ...]
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Return True if something was compared and nothing that was compared differs."""
        judged = [row.passed for row in self.rows if row.passed is not None]
        return bool(judged) and all(judged)

    @property
    def failures(self) -> tuple[ParityRow, ...]:
        """Return the rows that differ, in the order of comparison."""
        return tuple(row for row in self.rows if row.passed is False)


def form_of(candidate: str) -> str:
    """Return the form in the name of a candidate: `served (gRPC)` for `served (gRPC), batch 7`."""
    head, bracket, _ = candidate.partition("), ")
    return f"{head})" if bracket else head


def worst_of(rows: Iterable[ParityRow]) -> list[ParityRow]:
    """Reduce rows to one for each output of each candidate: the worst one, with the total number of compared values."""
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
