"""`tfship promote`: publishes a proven model, or proves one first."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli import run as pipeline
from flows.cli import termination
from flows.cli.options import Options, command
from tasks.artifacts.store import Store
from tasks.presentation.terminal import say


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "promote", promote)


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
    with termination.at_once():  # Prefect: seconds
        from flows.promote import proven, require_proven
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
