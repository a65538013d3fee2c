"""`tfship verify`: compares several saved forms of one model on one probe, and names the first that differs."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli import termination
from flows.cli.options import Options, command, require_files
from tasks.errors import ExitCode, NondeterministicError, ParityError, UsageError
from tasks.presentation import terminal
from tasks.presentation.terminal import cell, say
from tasks.records.parity import ParityRow
from tasks.records.signature import OutputRef

if TYPE_CHECKING:
    from tasks.verify.compare_models import Comparison
    from tasks.verify.divergence import Explanation


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "verify", verify)


def verify(
    paths: Annotated[
        list[Path], typer.Argument(metavar="A B [C…]", help="Saved models of any form; the first is the baseline.")
    ],
    options: Options,
) -> int:
    """Send one probe through every form of a model and compare each with the first, which must agree with itself.

    With --json: {"verdict": "equal" | "differs" | "nondeterministic", "baseline", "candidates", "probe",
    "first_divergent", "parity", "reproduction", "explanation"}, the rows of `parity` as those of `run --json`.
    """
    from tasks import isolate
    from tasks.verify import compare_models

    if len(paths) < 2:
        raise UsageError("tfship verify", "two paths or more", f"{len(paths)}", "type `tfship verify A B`.")
    settings, place = options.settings(), options["reproduce"]
    require_files(settings)
    if place is not None and place.exists():
        raise UsageError(
            f"--reproduce {place}", "a folder that does not exist", "something there", "name a new folder."
        )
    try:
        with isolate.limits(settings.child_limits):
            found = compare_models.compare(
                paths,
                settings.given,
                settings.code,
                settings.training.session,
                settings.probe,
                settings.tolerance,
                explained=options["explain"],
                reproduce=place,
            )
    except NondeterministicError as error:
        if options["as_json"]:
            document = {"verdict": "nondeterministic", "baseline": str(paths[0]), "unstable": error.unstable}
            termination.show(json.dumps(document, indent=1))
        raise
    if options["as_json"]:
        termination.show(json.dumps(_document(found), indent=1, allow_nan=False))
    else:
        _show(found, next_command=_next(found, options))
    if found.divergent is not None:
        raise _refusal(found)
    return ExitCode.DONE


def _refusal(found: Comparison) -> ParityError:
    assert found.divergent is not None
    report = found.refused(found.divergent)
    assert report is not None
    error = ParityError.of(report)
    if not report.failures:
        return error
    first = report.failures[0]
    remedy = f"--explain finds the first tensor that differs; {error.remedy}"
    if not first.compared:
        remedy = "see `tfship inspect` of both, and name tensors of both: --input … --output …, or --signature KEY."
    if first.output.startswith("input "):
        remedy = "compare forms of one model, with the same inputs; nothing is cast or reshaped to fit."
    return error.changed(remedy=remedy)


def _document(found: Comparison) -> dict[str, Any]:
    facts = {"path", "form", "chosen", "notes"}
    divergent = found.divergent
    return {
        "verdict": "equal" if divergent is None else "differs",
        "baseline": found.baseline.model_dump(mode="json", include=facts),
        "candidates": [one.model_dump(mode="json", include=facts) for one in found.candidates],
        "probe": found.baseline.probe,
        "first_divergent": divergent.path if divergent else None,
        "parity": [row.model_dump(mode="json") for one in found.candidates for row in one.rows],
        "reproduction": found.reproduction,
        "explanation": found.explanation.model_dump(mode="json") if found.explanation else None,
    }


def _show(found: Comparison, next_command: str) -> None:
    """Print the table of differences; the last lines name the first form that differs."""
    from rich.table import Table

    say(f"first   {found.baseline.path} ({found.baseline.form}), run twice: it agrees with itself")
    say(f"probe   {found.baseline.probe}")
    for one in (found.baseline, *found.candidates):
        for note in (one.chosen, *one.notes):
            if note:
                say(f"note    {one.path}: {note}")
    say()
    table = Table(title=f"against {cell(found.baseline.path)}", title_justify="left", box=None, pad_edge=False)
    for column in ("form", "output", "test", "max abs", "noise", "limit", "mismatched", "", ""):
        table.add_column(column, justify="right" if column in ("max abs", "noise", "limit", "mismatched") else "left")
    for one in found.candidates:
        for row in one.rows:
            table.add_row(*map(cell, _cells(one.path, row)))
    console = terminal.console()
    console.print(table)
    if found.explanation is not None:
        _explain(found.explanation)
    divergent = found.divergent
    if divergent is None:
        exact = all(row.note == "bit for bit" for one in found.candidates for row in one.rows if row.passed is not None)
        forms = len(found.candidates) + 1
        say(f"\nequal   {forms} forms, {'bit for bit' if exact else 'within the tolerance'}")
    else:
        say(f"\ndiffers {divergent.path} is the first that differs from {found.baseline.path}")
    if found.reproduction is not None:
        say(f"repeat  python {shlex.quote(found.reproduction)}")
    say(f"next    {next_command}")


def _cells(path: str, row: ParityRow) -> tuple[str, ...]:
    output = str(OutputRef(row.signature, row.output))
    verdict = {True: "equal", False: "DIFFERS", None: "not compared"}[row.passed]
    note = row.note
    if row.worst is not None and row.passed is False:
        at = f" at {list(row.worst.index)}" if row.worst.index else ""
        note = f"expected {row.worst.expected}, got {row.worst.got}{at}" + (f"; {note}" if note else "")
    numbers: tuple[str, ...] = ("",) * 4
    if row.passed is not None:
        bounds = ("" if bound is None else f"{bound:.2g}" for bound in (row.noise, row.limit))
        numbers = (f"{row.max_abs:.3g}", *bounds, str(row.mismatched))
    return path, output, row.test.value, *numbers, verdict, note


def _explain(explanation: Explanation) -> None:
    say(f"\nexplain {explanation.candidate}: {explanation.sentence}")
    if explanation.first is not None:
        first = explanation.first
        say(f"        inputs    {', '.join(first.inputs[0]) or 'none'}")
        if first.inputs[1] != first.inputs[0]:
            say(f"        inputs    {', '.join(first.inputs[1]) or 'none'} (in {explanation.candidate})")
        say(f"        max abs   {first.row.max_abs:.3g}, {first.row.mismatched} of {first.row.compared} differ")
        if first.row.worst is not None:
            worst = first.row.worst
            say(f"        at {list(worst.index)}  expected {worst.expected}, got {worst.got}")
        if first.note:
            say(f"        {first.note}")
    if explanation.others:
        say(f"        others that differ while all before them agree: {', '.join(explanation.others)}")
    if explanation.unlooked:
        say(
            f"        {explanation.unlooked} tensors could not be evaluated: inside loops, or in branches that were not taken"
        )


def _next(found: Comparison, options: Options) -> str:
    first = found.baseline.path
    divergent = found.divergent
    if divergent is None:
        return shlex.join(["tfship", "run", first, *options.repeated()])
    failed = next((row for row in divergent.rows if row.passed is False), None)
    if options["explain"] or failed is None or not failed.compared:
        return shlex.join(["tfship", "inspect", divergent.path])
    return shlex.join(["tfship", "verify", first, divergent.path, *options.repeated(), "--explain"])
