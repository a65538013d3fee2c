"""The Prefect server of a run for which none is configured: started for the run, and ended with it."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tasks.errors import EnvironmentFailure, PipelineError
from tasks.isolate.ports import free_ports
from tasks.isolate.process import BoundProcess
from tasks.presentation.terminal import say

_START_SECONDS = 120.0


class Lost(Exception):  # noqa: N818 - carries the error to report
    """The Prefect API stopped answering during a run. `instead` is the error to report: the run's own, or else the lost API."""

    def __init__(self, instead: BaseException) -> None:
        super().__init__(instead)
        self.instead = instead


def settle(*, verbose: bool) -> None:
    """Set the environment variables that Prefect reads at import.

    Prefect's log of the run goes to its API. It is shown on this terminal only with `verbose`, because it repeats every
    error with a traceback.
    """
    if not verbose:
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_DEBUG_LEVEL", "CRITICAL")  # Prefect's internal log
        logging.raiseExceptions = False  # no traceback for failures of logging
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")  # Prefect's client sends analytics too, and says so on a terminal


@contextlib.contextmanager
def provided(*, needed: bool, verbose: bool, scheduling: bool = False) -> Iterator[None]:
    """Provide a Prefect API inside the block: the configured one, or a server of our own; none where it is not needed.

    `settle` was called before. Prefect's own ephemeral server would outlive a SIGKILL of this process; ours is killed with it. With `scheduling` it
    starts runs of deployments.

    Raises:
        EnvironmentFailure: the configured API does not answer, or our server did not start.
        Lost: the API stopped answering inside the block.
    """
    if not needed:
        yield
        return
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        PREFECT_LOGGING_TO_API_ENABLED,
        get_current_settings,
        temporary_settings,
    )

    if configured := get_current_settings().api.url:
        _require_answer(configured)
        with _answering(configured):
            yield
        return
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}/api"
    environment = {
        "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_UI_ENABLED": "false",
        **{f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in ("LATE_RUNS", "TRIGGERS")},
        "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": str(scheduling),
    }
    command = [sys.executable, "-m", "uvicorn", "--app-dir", "/", "--factory", "prefect.server.api.server:create_app"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error", "--timeout-keep-alive", "5"]
    server = BoundProcess(command, Path(tempfile.gettempdir()), environment)
    try:
        _wait(server, url)
        # A heartbeat thread would hold every flow for a second at its end; the log of such a server is not read during the run.
        own = {PREFECT_API_URL: url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None, PREFECT_LOGGING_TO_API_ENABLED: False}
        with temporary_settings(own), _answering(url):
            yield
    finally:
        if verbose:
            say(server.log(), file=sys.stderr)
        server.stop()


@contextlib.contextmanager
def _answering(url: str) -> Iterator[None]:
    """Raise Lost where Prefect can no longer reach its API inside the block."""
    import httpx
    from prefect.exceptions import TerminationSignal

    try:
        yield
    except httpx.HTTPError as error:
        own: BaseException | None = error
        while own is not None and not isinstance(own, (PipelineError, KeyboardInterrupt, TerminationSignal)):
            own = own.__context__  # the error that Prefect was recording when it failed
        gone = EnvironmentFailure(
            f"the Prefect server at {url}",
            "a server that answers until the end of the run",
            str(error).splitlines()[0] if str(error) else type(error).__name__,
            "start it, or give --no-server, and run again: finished steps are kept.",
        )
        raise Lost(own or gone) from error


def _require_answer(url: str) -> None:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        failure = client.api_healthcheck()
    if failure is not None:
        raise EnvironmentFailure(
            f"the Prefect server at {url}",
            "an answer",
            str(failure).splitlines()[0] or type(failure).__name__,
            "start it, unset PREFECT_API_URL (or the Prefect profile that sets it), or give --no-server.",
        )


def _wait(server: BoundProcess, url: str) -> None:
    import httpx

    deadline = time.monotonic() + _START_SECONDS
    with httpx.Client(timeout=2.0, trust_env=False) as client:
        while time.monotonic() < deadline and server.returncode() is None:
            with contextlib.suppress(httpx.HTTPError):
                if client.get(f"{url}/health").status_code == 200:
                    return
            time.sleep(0.1)
    raise EnvironmentFailure(
        "the Prefect server of this run",
        f"an answer within {_START_SECONDS:g} s",
        server.log().strip()[-1000:] or f"exit {server.returncode()}",
        "set PREFECT_API_URL to a server that runs, or give --no-server.",
    )
