"""The parity chain as a table: a line for each output, a column for each form, in the order in which forms are made."""

from __future__ import annotations

from dataclasses import dataclass, field

from tasks.presentation.numbers import number
from tasks.records.forms import LIVE_SESSION, CandidateForm
from tasks.records.parity import ParityRow, ParityTest, worst_of
from tasks.records.signature import OutputRef, Signature

BASELINE = LIVE_SESSION
FORMS: tuple[str, ...] = tuple(CandidateForm)
VARIABLES = "values: variables"
_NOTHING = "\N{EN DASH}"
_EVERY = "*"  # a row about every output of a signature or, without a signature, of the form
_SOMETIMES = (CandidateForm.SAVED_MODEL_FILES, CandidateForm.SERVED_REST_ROWS)
_ALWAYS = tuple(form for form in FORMS if form not in _SOMETIMES)  # the forms that a complete run compares


@dataclass(frozen=True)
class Cell:
    """Result of one comparison. `tone` is equal, within, differ, absent or baseline; the text repeats what colour shows."""

    tone: str
    symbol: str
    text: str
    detail: str = ""


@dataclass(frozen=True)
class Column:
    """One form. `state` is compared, not made or not reached."""

    form: str
    state: str
    diverges_first: bool


@dataclass(frozen=True)
class Chain:
    """The table: `lines` are (label, baseline cell, one cell a column)."""

    columns: tuple[Column, ...] = ()
    lines: tuple[tuple[str, Cell, tuple[Cell, ...]], ...] = ()
    left_out: tuple[str, ...] = ()


@dataclass
class _Column:
    rows: dict[str, list[ParityRow]] = field(default_factory=dict)


def what(row: ParityRow) -> str:
    """Return the subject of a row in words: `serving_default/logits`, `variable conv1/kernel`, `asset labels.txt`."""
    if row.signature:
        return f"every output of {row.signature}" if row.output == _EVERY else str(OutputRef(row.signature, row.output))
    if row.output in ("variables", _EVERY):
        return "the variables" if row.output == "variables" else "every output"
    return row.output if _is_asset(row) else f"variable {row.output}"


def ordered(parity: tuple[ParityRow, ...]) -> tuple[str, ...]:
    """Return the candidates in the order of the chain; unknown forms come last, in the order of comparison."""
    seen = dict.fromkeys(row.form for row in parity)
    known = [form for form in (BASELINE, *FORMS) if form in seen]
    return (*known, *(form for form in seen if form not in known))


def first_divergence(parity: tuple[ParityRow, ...]) -> ParityRow | None:
    """Return the first row that differs, of the first form in the chain that has one."""
    for form in ordered(parity):
        for row in parity:
            if row.form == form and row.passed is False:
                return row
    return None


def build(parity: tuple[ParityRow, ...], signatures: tuple[Signature, ...], *, stopped: bool) -> Chain:
    """Return the table of all comparisons. `stopped`: the run ended early, so later forms were not reached."""
    forms = [form for form in ordered(parity) if form != BASELINE]
    missing = [form for form in _ALWAYS if form not in forms]
    reached = max((FORMS.index(form) for form in forms if form in FORMS), default=-1)
    unreached = [form for form in missing if stopped and FORMS.index(form) > reached]
    labels = _labels(parity, signatures)
    if not labels:
        return Chain(left_out=tuple(missing))
    diverged = first_divergence(parity)
    columns, cells = [], []
    for form in sorted([*forms, *unreached], key=lambda form: FORMS.index(form) if form in FORMS else len(FORMS)):
        rows = [row for row in parity if row.form == form]
        made = any(row.passed is not None for row in rows)
        state = "compared" if made else "not made" if rows else "not reached"
        columns.append(Column(form, state, bool(diverged and diverged.form == form)))
        cells.append([_cell_of(label, rows) for label in labels])
    at_baseline = [row for row in parity if row.candidate == BASELINE]
    baseline = [_baseline(label, at_baseline) for label in labels]
    lines = tuple((label, baseline[i], tuple(column[i] for column in cells)) for i, label in enumerate(labels))
    return Chain(tuple(columns), lines, tuple(form for form in missing if form not in unreached))


def _labels(parity: tuple[ParityRow, ...], signatures: tuple[Signature, ...]) -> list[str]:
    labels: dict[str, None] = {}
    if any(not row.signature and not _is_asset(row) and row.output != _EVERY for row in parity):
        labels[VARIABLES] = None
    for row in parity:
        if _is_asset(row):
            labels[_label(row)] = None
    for row in parity:
        if row.signature and row.output != _EVERY:
            labels[_label(row)] = None
    for signature in signatures:
        for output in sorted(signature.outputs):
            labels[str(OutputRef(signature.key, output))] = None
    for row in parity:
        own = str(OutputRef(row.signature, ""))
        if row.output == _EVERY and not any(label.startswith(own) for label in labels):
            labels[_label(row)] = None
    return list(labels)


def _label(row: ParityRow) -> str:
    if row.signature:
        return str(OutputRef(row.signature, row.output))
    if _is_asset(row):
        return f"values: {row.output}"
    return "every output" if row.output == _EVERY else VARIABLES


def _is_asset(row: ParityRow) -> bool:
    return not row.signature and row.output.startswith("asset ")


def _cell_of(label: str, rows: list[ParityRow]) -> Cell:
    if not rows:
        return Cell("absent", _NOTHING, "not reached")
    mine = [row for row in rows if _label(row) == label]
    if label == VARIABLES and mine:
        return _values(mine)
    if mine:
        return cell(worst_of(row.model_copy(update={"candidate": row.form}) for row in mine)[0])
    for row in rows:
        if row.output == _EVERY and (not row.signature or label.startswith(str(OutputRef(row.signature, "")))):
            return cell(row)
    return Cell("absent", _NOTHING, "not compared")


def _baseline(label: str, rows: list[ParityRow]) -> Cell:
    for row in rows:
        if _label(row) == label and row.passed is False:
            return Cell("differ", "≠", row.note or "not usable", row.worst.got if row.worst else "")
    return Cell("baseline", "", "baseline")


def _values(rows: list[ParityRow]) -> Cell:
    """Return one cell for all variables of a form; it names those that differ, whatever agrees."""
    failures = [row for row in rows if row.passed is False]
    if not failures:
        return cell(rows[-1])
    names = ", ".join(row.output for row in failures[:3])
    more = f" and {len(failures) - 3} more" if len(failures) > 3 else ""
    agreed = sum(row.compared for row in rows if row.passed)
    return Cell("differ", "≠", f"{names}{more}", f"values, {len(failures)} differ, {agreed} equal")


def cell(row: ParityRow) -> Cell:
    """Return the cell of a row: a symbol, a few words, and the test."""
    test = row.test.value
    if row.passed is None:
        note = row.note if row.test is ParityTest.STRUCTURE else f"not made: {row.note.removeprefix('not made: ')}"
        return Cell("absent", _NOTHING, note if row.note else "not made: no reason was given")
    mismatched = f"{row.mismatched:,} of {row.compared:,} mismatched" if row.mismatched > 0 else ""
    if not row.passed:
        return _differs(row, ", ".join(part for part in (test, mismatched) if part))
    if row.test is ParityTest.STRUCTURE:
        return Cell("equal", "=", row.note.partition(" ")[0], f"structure, {row.compared:,} nodes")
    if row.test is ParityTest.VALUES:
        return Cell("equal", "=", "byte for byte", f"values, {row.compared:,} compared" if row.compared else test)
    if row.max_abs == 0 and not row.mismatched:
        return Cell("equal", "=", "bit for bit" if row.test is ParityTest.EXACT else "no difference", test)
    why = row.note or ("within tolerance" if row.limit is None else f"of {number(row.limit)} allowed")
    most = number(row.max_abs) if row.max_abs else "ties"
    return Cell("within", "≈", most, ", ".join(part for part in (test, mismatched, why) if part))


def _differs(row: ParityRow, detail: str) -> Cell:
    if row.max_abs != 0:
        return Cell("differ", "≠", number(row.max_abs), detail)
    if row.worst and not row.worst.index:
        return Cell("differ", "≠", _clipped(row.worst.got), f"{detail}, expected {_clipped(row.worst.expected)}")
    return Cell("differ", "≠", row.note or "differs", detail)


def _clipped(text: str) -> str:
    return text if len(text) <= 90 else f"{text[:88]}…"
