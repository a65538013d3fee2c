"""The Prefect server of a run that was given none: started for the run, gone with it, its log out of the way."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tasks.errors import EnvironmentFailure
from tasks.isolate.process import BoundProcess
from tasks.serving.binary_runtime import free_ports

_START_SECONDS = 120.0


@contextlib.contextmanager
def provided(*, needed: bool, verbose: bool) -> Iterator[None]:
    """Have a Prefect API inside the block: the configured one, or a server of our own; none where it is not needed.

    Prefect's own ephemeral server would outlive a SIGKILL of this process; ours is killed with it.

    Prefect's log of the run goes to its API; on this terminal it is shown with `verbose` only, for it would say
    every error a second time, with a traceback.

    Raises:
        EnvironmentFailure: the configured one does not answer, or our server did not come up.
    """
    if not verbose:
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")  # Prefect's client reports too, and says so on a terminal
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
        yield
        return
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}/api"
    environment = {
        "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_UI_ENABLED": "false",
        **{f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in ("SCHEDULER", "LATE_RUNS", "TRIGGERS")},
    }
    command = [sys.executable, "-m", "uvicorn", "--app-dir", "/", "--factory", "prefect.server.api.server:create_app"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error", "--timeout-keep-alive", "5"]
    server = BoundProcess(command, Path(tempfile.gettempdir()), environment)
    try:
        _wait(server, url)
        # A heartbeat thread would hold every flow for a second at its end; nobody reads a log there while it runs.
        own = {PREFECT_API_URL: url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None, PREFECT_LOGGING_TO_API_ENABLED: False}
        with temporary_settings(own):
            yield
    finally:
        if verbose:
            print(server.log(), file=sys.stderr)
        server.stop()


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
    while time.monotonic() < deadline and server.returncode() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health", timeout=2.0, trust_env=False).status_code == 200:
                return
        time.sleep(0.1)
    raise EnvironmentFailure(
        "the Prefect server of this run",
        f"an answer within {_START_SECONDS:g} s",
        server.log().strip()[-1000:] or f"exit {server.returncode()}",
        "set PREFECT_API_URL to a server that runs, or give --no-server.",
    )
