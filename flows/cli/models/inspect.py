"""`tfship inspect`: shows what a model's files hold, without running the model."""

from __future__ import annotations

import json
import math
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli import termination
from flows.cli.options import Options, command, require_files
from tasks.errors import ExitCode
from tasks.presentation.terminal import say
from tasks.records.inspection import Inspection


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "inspect", inspect)


def inspect(
    path: Annotated[Path, typer.Argument(help="Anything that TensorFlow saved: a folder, a file, or a prefix.")],
    options: Options,
) -> int:
    """Show what a model's files hold and whether they are complete. Nothing of the model is executed."""
    from tasks import isolate

    settings = options.settings()
    require_files(settings)
    with isolate.limits(settings.child_limits):
        if options["quick"] and not options["tensors"] and not options["ops"]:
            from tasks.inspection.quick import quick

            found = isolate.forked(quick, path, options["step"])
        else:
            from tasks.inspection import inspect as inspection

            read, values = not options["quick"], options["tensors"]
            found = isolate.call(inspection.inspect, path, settings.given, options["step"], read=read, values=values)
    if options["as_json"]:
        termination.show(json.dumps(_without_nan(found.model_dump(mode="json")), indent=1, allow_nan=False))
    else:
        from flows.cli.pages.inspection import show

        show(found, with_values=options["tensors"], with_ops=options["ops"])
        say(f"next    {_next(found, path, quick=options['quick'])}")
    if found.whole is False:
        say(f"tfship: {path} is damaged: {found.damage[0]}", file=sys.stderr)
        say("Remedy: restore it from a backup, or take another checkpoint of it.", file=sys.stderr)
        return ExitCode.GATE_REFUSED
    return ExitCode.DONE


def _next(found: Inspection, path: Path, *, quick: bool) -> str:
    quoted = shlex.quote(str(path))
    if found.whole is False:
        return f"tfship inspect {quoted} --quick"
    if quick and not found.proposal and not found.keras:
        return f"tfship inspect {quoted}"
    chosen = shlex.quote(found.path) if len(found.available) > 1 else quoted
    if found.needs and not any(option.startswith("--tags ") for option in found.options):
        missing = "--model module:Model" if "module:Model" in found.needs else "--graph FILE"
        graph_alone = "as --graph" in found.needs
        return f"tfship run PREFIX --graph {quoted}" if graph_alone else f"tfship run {chosen} {missing}"
    return " ".join([f"tfship run {chosen}", *found.options])


def _without_nan(value: Any) -> Any:
    """Return the value with NaN and infinities as text, because JSON has no number for them."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
