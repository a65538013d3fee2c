"""The comparisons of a run by form and test, for tables outside the page."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from tasks.records.parity import ParityTest, form_of
from tasks.records.run import ParitySummary


@dataclass(frozen=True)
class FormRow:
    """One form by one test: how many outputs were compared, and the nearest of them to its limit."""

    form: str
    test: str
    checks: int
    max_abs: float
    noise: float | None
    limit: float | None
    mismatched: int
    verdict: str


def form_rows(rows: Iterable[ParitySummary]) -> list[FormRow]:
    """Group comparisons by form and test, in the order in which forms are made."""
    groups: dict[tuple[str, ParityTest], list[ParitySummary]] = {}
    for row in rows:
        groups.setdefault((form_of(row.candidate), row.test), []).append(row)
    forms = list(dict.fromkeys(form for form, _ in groups))
    return [
        _form_row(form, test, of_form)
        for (form, test), of_form in sorted(groups.items(), key=lambda group: forms.index(group[0][0]))
    ]


def _form_row(form: str, test: ParityTest, rows: list[ParitySummary]) -> FormRow:
    compared = [row for row in rows if row.passed is not None]
    equal, none = ("same", "not compared") if test == ParityTest.STRUCTURE else ("equal", "not made")
    nearest = max(rows, key=_nearness)
    return FormRow(
        form=form,
        test=test.value,
        checks=len(compared),
        max_abs=nearest.max_abs,
        noise=nearest.noise,
        limit=nearest.limit,
        mismatched=sum(row.mismatched for row in rows),
        verdict=none if not compared else equal if all(row.passed for row in compared) else "DIFFERS",
    )


def _nearness(row: ParitySummary) -> float:
    """Return the part of its limit that the difference of a row comes to, where there is a limit."""
    return row.max_abs / row.limit if row.limit else math.inf if row.max_abs else -1.0
