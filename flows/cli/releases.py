"""`tfship releases` and `tfship rollback`: the history of a model, and its earlier versions."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from flows.cli import termination
from flows.cli.options import Options, command
from tasks.errors import UsageError
from tasks.presentation.terminal import cell, console, say
from tasks.releases.publish import Releases
from tasks.releases.rules import versions


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "rollback", rollback)
    command(app, "releases", releases)


def rollback(
    name: Annotated[str, typer.Argument(help="The model.")],
    options: Options,
) -> int:
    """Serve an earlier version of a model again, and hold the later ones."""
    root = options.settings().serving_root
    _require(root, name)
    with Releases(root, name).open() as opened:
        line = opened.roll_back(options["to"], options["reason"])
    if options["as_json"]:
        termination.show(line.model_dump_json(indent=1))
    else:
        taken = ", ".join(str(version) for version in line.retired)
        say(f"{name} serves version {line.version} again; {taken} held, nothing deleted")
        say(f"next    tfship releases {name} --serving-root {shlex.quote(str(root))}")
    return 0


def releases(
    name: Annotated[str, typer.Argument(help="The model.")],
    options: Options,
) -> int:
    """Show a model's history: promotions with their proof, and rollbacks with their reason."""
    from rich.table import Table

    root = options.settings().serving_root
    _require(root, name)
    found = Releases(root, name)
    lines = found.journal()
    served = found.served()
    if options["as_json"]:
        import json

        document = {"name": name, "served": served, "journal": [line.model_dump(mode="json") for line in lines]}
        termination.show(json.dumps(document, indent=1))
        return 0
    table = Table(box=None, pad_edge=False)
    for column in ("time", "event", "version", "digest", "verdict", "by", "reason"):
        table.add_column(column, overflow="fold", no_wrap=column in ("time", "event", "version", "digest"))
    for line in lines:
        if line.event.is_intent:
            continue  # its outcome is the next line
        event = line.event.value + (" to" if line.retired else "")
        verdict = ", ".join((line.verdict, *(f"declared impure: {kind}" for kind in line.impure)))
        row = (line.time, event, str(line.version), line.digest[:12], verdict, line.by, line.reason)
        table.add_row(*map(cell, row))
    console().print(table)
    say(f"\nserved  version {served}" if served is not None else "\nserved  nothing")
    say(f"next    {_next(found, root)}")
    return 0


def _next(found: Releases, root: Path) -> str:
    """Return the next command: a rollback where there is an earlier version, else serve, or run where there is no version."""
    present = versions(found.names())
    where = f"{found.name} --serving-root {shlex.quote(str(root))}"
    if len(present) > 1:
        return f"tfship rollback {where} --reason WHY"
    return f"tfship serve {where}" if present else "tfship run"


def _require(root: Path, name: str) -> None:
    """Raise UsageError where `root` has no model of that name. A mistyped name creates nothing."""
    folders = [path.name for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    known = sorted(folder for folder in folders if Releases(root, folder).known())
    if name not in known:
        remedy = "choose one of these, give another --serving-root, or promote it first: `tfship run`."
        raise UsageError(f"model {name}", f"a model that was promoted to {root}", ", ".join(known) or "none", remedy)
