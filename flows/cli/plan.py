"""`tfship plan`: shows what a run would do, and why."""

from __future__ import annotations

import json

import typer

from flows.cli import run as pipeline
from flows.cli import termination
from flows.cli.options import Options, Source, command
from tasks.presentation.terminal import cell, console, say


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "plan", plan)


def plan(
    options: Options,
    source: Source = None,
) -> int:
    """Show what a run with these options would do and why; nothing is done."""
    from rich.table import Table

    with termination.at_once():  # every step
        from flows.plan import planned

    settings = options.settings(source=source)
    pipeline.require_source(settings)
    steps = planned(settings)
    if options["as_json"]:
        termination.show(
            json.dumps({"name": settings.model_name, "steps": [step.model_dump() for step in steps]}, indent=1)
        )
        return 0
    table = Table(box=None, pad_edge=False)
    for column in ("step", "would", "why"):
        table.add_column(column, overflow="fold", no_wrap=column != "why")
    words = {"cached": "be cached", "refused": "refuse again", "runs": "run", "waits": "wait"}
    for step in steps:
        table.add_row(step.name, words[step.state], cell(step.why))
    console().print(table)
    say(f"next    tfship run {settings.source}")
    return 0
