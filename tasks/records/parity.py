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
Columns = tuple[Bound, ...]
"""One number for a whole output, or one for each index of its last axis."""

FIXED = 1e-5
"""The absolute and the relative limit of an output whose noise was not measured."""
MULTIPLE = 8
"""The limit of an output is so many times its measured noise ..."""
ROUNDINGS = 16
"""... but never below so many roundings of the output's scale (2 of a float of 16 bits or fewer) ..."""
CEILING = 1e-3
"""... nor above this part of the scale, or `FIXED` if that is more: so much is never taken for noise."""


class Limit(Record):
    """The limit |a-b| <= absolute + relative*|a| of one output, a the expected value; `noise` is what was measured of it.

    Where nothing was measured or declared, `ceiling` is the most that a noise could allow, absolute and relative.
    """

    absolute: Columns
    relative: Columns
    noise: tuple[Columns, Columns] | None = None
    ceiling: tuple[Columns, Columns] | None = None

    @property
    def smallest(self) -> Limit:
        """Return the smallest limit of any column, for tensors of other shapes."""
        return Limit(absolute=(min(self.absolute),), relative=(min(self.relative),))


class Noise(Record):
    """How far a model's own answers lie apart for one output: by at most absolute + relative*|a|.

    `scale` is the typical magnitude of what is not zero, `rounding` the distance from 1 to the next float of the output's
    dtype. `ways` is the number of ways in which the model was asked; with one, nothing was measured.
    """

    signature: str
    output: str
    ways: int
    absolute: Columns
    relative: Columns
    scale: Columns
    rounding: Bound

    @property
    def limit(self) -> Limit:
        """Return the limit that follows from the noise; see `MULTIPLE`, `ROUNDINGS` and `CEILING`."""
        least = self.rounding * (ROUNDINGS if self.rounding < FIXED else 2)
        most = max(CEILING, least)
        ceiling = tuple(max(most * scale, FIXED) for scale in self.scale), (most,) * len(self.relative)
        absolute = (
            min(max(MULTIPLE * noise, least * scale), top)
            for noise, scale, top in zip(self.absolute, self.scale, ceiling[0], strict=True)
        )
        relative = (min(max(MULTIPLE * noise, least), most) for noise in self.relative)
        seen = {"noise": (self.absolute, self.relative)} if self.ways > 1 else {"ceiling": ceiling}
        return Limit(absolute=tuple(absolute), relative=tuple(relative), **seen)


class Tolerance(Record):
    """The declared limits |a-b| <= absolute + relative*|a| for floats that were served or computed on another machine.

    `outputs` sets both for single outputs, by `signature/output` or `output`. Without a declaration an output has the limit
    that was measured (`Limits`), or else `FIXED`.
    """

    absolute: Bound | None = None
    relative: Bound | None = None
    outputs: dict[str, tuple[Bound, Bound]] = Field(default_factory=dict)

    def of(self, signature: str, output: str) -> Limit:
        """Return the limit of one output."""
        return self.declared(signature, output) or Limit(absolute=(FIXED,), relative=(FIXED,))

    @property
    def everywhere(self) -> bool:
        """Return True if every output has a declared limit, so that nothing need be measured."""
        return self.absolute is not None or self.relative is not None

    def declared(self, signature: str, output: str) -> Limit | None:
        """Return the declared limit of one output, if there is one."""
        for name in (str(OutputRef(signature, output)), output):
            if name in self.outputs:
                absolute, relative = self.outputs[name]
                return Limit(absolute=(absolute,), relative=(relative,))
        if not self.everywhere:
            return None
        absolute, relative = (FIXED if bound is None else bound for bound in (self.absolute, self.relative))
        return Limit(absolute=(absolute,), relative=(relative,))


class Limits(Tolerance):
    """Declared limits, and for every other output those that were measured of the model."""

    measured: tuple[Noise, ...] = ()

    def of(self, signature: str, output: str) -> Limit:
        """Return the limit of one output."""
        found = (one.limit for one in self.measured if (one.signature, one.output) == (signature, output))
        return self.declared(signature, output) or next(found, None) or super().of(signature, output)

    @classmethod
    def measured_of(cls, declared: Tolerance, noise: Iterable[Noise]) -> Limits:
        """Return the limits of a model with this noise."""
        return cls(**declared.model_dump(include=set(Tolerance.model_fields)), measured=tuple(noise))


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
    `output` names an output, a variable or an asset; `signature` is empty for values. `limit` is what a float could differ by
    at the place that comes nearest to it, `noise` what the model's own answers differ by there, if that was measured.
    `could_be_noise` is set where floats differ and noise was not measured: True if it could allow the difference.
    """

    candidate: str
    signature: str
    output: str
    test: ParityTest
    compared: int = 0
    max_abs: float = 0.0
    max_rel: float = 0.0
    mismatched: int = 0
    noise: float | None = None
    limit: float | None = None
    could_be_noise: bool | None = None
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
    """All rows of one form against the baseline; `notes` are remarks for the reader, `noise` what the limits follow from."""

    baseline: str = LIVE_SESSION
    rows: tuple[ParityRow, ...]
    notes: tuple[str, ...] = ()
    noise: tuple[Noise, ...] = ()

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
