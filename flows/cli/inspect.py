"""`tfship inspect`: what a path holds, told without running any of it."""

from __future__ import annotations

import json
import math
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from flows import config as configuration
from flows.cli import termination
from flows.cli.options import model
from tasks.errors import ExitCode
from tasks.records.inspection import Inspection


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("inspect")(inspect)


def inspect(
    path: Annotated[Path, typer.Argument(help="Anything that TensorFlow saved: a folder, a file, or a prefix.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="List tensors without reading them.")] = False,
    tensors: Annotated[
        bool, typer.Option("--tensors", help="Show each tensor's least, mean and greatest value.")
    ] = False,
    ops: Annotated[bool, typer.Option("--ops", help="Show the ops by count.")] = False,
    step: Annotated[int | None, typer.Option("--step", help="The checkpoint of this step.")] = None,
    graph: model.GraphFile = None,
    tags: model.Tags = None,
    config: Annotated[Path | None, typer.Option("--config", help="A YAML file of settings.")] = None,
) -> int:
    """Show what a model's files hold and whether they are whole. Nothing of the model is executed."""
    from tasks import isolate
    from tasks.inspection import inspect as inspection

    settings = configuration.load(config, {"given": model.given({"graph": graph, "tags": tags})})
    model.require_files(settings)
    with isolate.limits(settings.child_limits):
        found = isolate.call(inspection.inspect, path, settings.given, step, read=not quick, values=tensors)
    if as_json:
        termination.show(json.dumps(_without_nan(found.model_dump(mode="json")), indent=1, allow_nan=False))
    else:
        from flows.cli.pages.inspection import show

        show(found, with_values=tensors, with_ops=ops)
        print(f"next    {_next(found, path)}")
    if found.whole is False:
        print(f"tfship: {path} is damaged: {found.damage[0]}", file=sys.stderr)
        print("Remedy: restore it from a backup, or take another checkpoint of it.", file=sys.stderr)
        return ExitCode.GATE_REFUSED
    return ExitCode.DONE


def _next(found: Inspection, path: Path) -> str:
    quoted = shlex.quote(str(path))
    if found.whole is False:
        return f"tfship inspect {quoted} --quick"
    chosen = shlex.quote(found.path) if len(found.available) > 1 else quoted
    if found.needs and not any(option.startswith("--tags ") for option in found.options):
        missing = "--model module:Model" if "module:Model" in found.needs else "--graph FILE"
        graph_alone = "as --graph" in found.needs
        return f"tfship run PREFIX --graph {quoted}" if graph_alone else f"tfship run {chosen} {missing}"
    return " ".join([f"tfship run {chosen}", *found.options])


def _without_nan(value: Any) -> Any:
    """The same, with what JSON has no number for as text."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
