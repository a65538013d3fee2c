"""`tfship schedule`: runs the pipeline on a schedule from this one process, without a deployment or a worker."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import signal
from typing import Annotated, Any

import typer

from flows.cli import run as pipeline
from flows.cli import termination
from flows.cli.options import Options, Source, command
from tasks.errors import UsageError
from tasks.presentation.terminal import say

_END_SECONDS = 60.0


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "schedule", schedule)


def schedule(
    options: Options,
    cron: Annotated[str, typer.Option("--cron", help='When to run, for example "0 3 * * *": every night at three.')],
    timezone: Annotated[str, typer.Option("--timezone", help="The time zone of --cron.")] = "Etc/UTC",
    source: Source = None,
) -> int:
    """Run the pipeline on a schedule from this process, until Ctrl-C: what has not changed is not done again.

    The runs are those of a deployment of the model's name on the configured Prefect server, or on one of this process.
    """
    from pydantic_core import ValidationError, to_jsonable_python

    from flows import prefect_server

    settings = options.settings(source=source)
    pipeline.require_source(settings)
    prefect_server.settle(verbose=True)
    with termination.at_once():  # Prefect: seconds
        from prefect.client.schemas.schedules import CronSchedule
        from prefect.runner import Runner
        from prefect.schedules import Cron
        from prefect.types.entrypoint import EntrypointType

        from flows.train_to_serve import train_to_serve

    class InOrder(Runner):
        """Ends its runs on SIGTERM as on Ctrl-C: Prefect's own would wait for a coroutine that nobody awaits."""

        def handle_sigterm(self, *args: Any, **kwargs: Any) -> None:
            signal.raise_signal(signal.SIGINT)

    try:
        CronSchedule(cron=cron, timezone=timezone)
    except ValidationError as error:
        said = error.errors()[0]["msg"].removeprefix("Value error, ")
        remedy = 'for example --cron "0 3 * * *" --timezone Europe/Berlin.'
        raise UsageError(
            f'--cron "{cron}" --timezone {timezone}', "a cron line and a time zone", said, remedy
        ) from None
    name = settings.model_name
    given = {"source": settings.source, "config": options["config"], "settings": options.nested()}
    with prefect_server.provided(needed=True, verbose=False, scheduling=True):
        say(f"{name} runs at {cron} ({timezone}) until Ctrl-C, which ends a run in progress too")
        runner = InOrder(name=name, limit=1, pause_on_shutdown=True)
        runner.add_flow(
            train_to_serve,
            name=name,
            schedule=Cron(cron, timezone=timezone),
            parameters=to_jsonable_python(given),
            tags=["tfship"],
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # it shows the interruption as an error of each task
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(runner.start())
        _end_runs()
    return 0


def _end_runs() -> None:
    """End the runs in progress, which have their own processes, while there is a server that they can report to."""
    running = multiprocessing.active_children()
    for run in running:
        run.terminate()
    for run in running:
        run.join(_END_SECONDS)
        run.kill()
