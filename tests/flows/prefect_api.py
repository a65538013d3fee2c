"""A real Prefect server for the tests, and a client of its API."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from prefect.logging.handlers import APILogWorker

from tasks.isolate.ports import free_ports
from tests.flows.cli.process import BIN, Shell

_START_SECONDS = 120.0


@dataclass
class PrefectApi:
    """A client of one server, for its flow runs and their states."""

    url: str
    environment: dict[str, str]
    server: Shell

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Return the API's answer; retry while its database is busy."""
        deadline = time.monotonic() + 60.0
        while True:
            answer = httpx.request(method, f"{self.url}/{path}", json=body, timeout=60.0, trust_env=False)
            if answer.status_code != 503 or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def ask(self, path: str, **body: Any) -> list[dict[str, Any]]:
        """Return the answer to a filter."""
        found: list[dict[str, Any]] = self.call("POST", path, body)
        return found

    def flow_runs(self, name: str) -> list[dict[str, Any]]:
        """Flow runs of that name, the oldest first."""
        return self.ask("flow_runs/filter", flow_runs={"name": {"any_": [name]}}, sort="START_TIME_ASC")

    def task_states(self, flow_run_id: str, steps: int, seconds: float = 90.0) -> dict[str, str]:
        """State names by task, once there are `steps` of them and all have ended: states arrive late."""
        deadline = time.monotonic() + seconds
        while True:
            runs = self.ask("task_runs/filter", task_runs={"flow_run_id": {"any_": [flow_run_id]}})
            ended = [run for run in runs if run["end_time"] is not None]
            if len(ended) >= steps or time.monotonic() > deadline:
                return {run["name"].rsplit("-", 1)[0]: run["state_name"] for run in runs}
            time.sleep(0.2)

    def happened(self, flow_run_id: str, many: int, seconds: float = 90.0) -> dict[str, dict[str, Any]]:
        """The payloads of tfship's events of a flow run, in their order, once there are so many: they arrive late."""
        deadline = time.monotonic() + seconds
        related = {"id": [f"prefect.flow-run.{flow_run_id}"]}
        while True:
            wanted = {"event": {"prefix": ["tfship."]}, "related": related, "order": "ASC"}
            found = self.call("POST", "events/filter", {"filter": wanted})["events"]
            if len(found) >= many or time.monotonic() > deadline:
                return {one["event"]: one["payload"] for one in found}
            time.sleep(0.2)


def make_database(home: Path) -> None:
    """Make the database of a server in that PREFECT_HOME."""
    arguments = ("server", "database", "upgrade", "-y")
    answer = Shell(*arguments, cwd=home, environment=_own(home), program=BIN / "prefect").answer(_START_SECONDS)
    assert answer.code == 0, answer


def _own(home: Path) -> dict[str, str]:
    return {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_UI_ENABLED": "false"}


@contextlib.contextmanager
def started(home: Path) -> Iterator[PrefectApi]:
    """Start one on a free port and end it."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}/api"
    arguments = ["server", "start", "--host", "127.0.0.1", "--port", str(port)]
    server = Shell(*arguments, cwd=home, environment=_own(home), program=BIN / "prefect")

    def answers() -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{url}/health", timeout=2.0, trust_env=False).status_code == 200
        return False

    try:
        server.until(answers, _START_SECONDS)
        yield PrefectApi(url, {"PREFECT_HOME": str(home), "PREFECT_API_URL": url}, server)
    finally:
        APILogWorker.drain_all(timeout=10)  # what this process has yet to send
        server.end()
