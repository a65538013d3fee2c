"""`tfship promote` and `approve`: publish a proven model, or prove one first; approve one for a policy that asks for it."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from flows.cli import run as pipeline
from flows.cli import termination
from flows.cli.options import Options, command
from flows.proven_model import named, proven, require_proven
from tasks.artifacts.store import Store
from tasks.presentation.terminal import say


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "promote", promote)
    command(app, "approve", approve)


def promote(
    model: Annotated[
        str,
        typer.Argument(
            help="A run's id, an export or a blessing in the store (its path, or its digest's first digits), or anything "
            "TensorFlow saved, which is proven first by its own answers."
        ),
    ],
    options: Options,
) -> int:
    """Publish a proven model as the next version under the serving root, and confirm that it serves."""
    settings = options.settings(source=model, release={"promote": True})
    own = settings.files is not None and proven(Store(settings.store), settings.reports, model) is None
    if own:
        pipeline.require_source(settings)
    else:
        require_proven(settings)
    summary = pipeline.ran(settings, options, promoting=not own)
    if options["as_json"]:
        termination.show(summary.model_dump_json(indent=1))
        return 0
    if own:
        say(f"note    {model} is proven by its own answers: there is no other baseline of it")
    pipeline.print_summary(summary, settings)
    return 0


def approve(
    model: Annotated[
        str, typer.Argument(help="A run's id, or an export or a blessing in the store: its path or its digest.")
    ],
    options: Options,
) -> int:
    """Approve a proven model by hand, for `release.policy.approval`: the journal says who did, and why."""
    from tasks.approve import approve as sign_off

    settings = options.settings(source=model)
    found = require_proven(settings)
    settings = named(settings, found)
    line = sign_off(found.artifacts["export"], settings.promotion)
    if options["as_json"]:
        termination.show(line.model_dump_json(indent=1))
        return 0
    say(f"{line.by} approved {settings.name} {line.digest[:12]}: {line.reason}")
    say(f"next    tfship promote {shlex.quote(model)}")
    return 0
