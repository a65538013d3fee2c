"""The contract of `ServingRuntime`, held by every implementation."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import grpc
import httpx
import pytest

from tasks.records.serving import Endpoint, Exit
from tasks.serving.runtimes.docker.engine import connect
from tasks.serving.runtimes.docker.owner import RUN, reap
from tasks.serving.runtimes.protocol import ServingRuntime

T = TypeVar("T")
Make = Callable[..., ServingRuntime]
START_SECONDS = 90  # our stand-in imports TensorFlow, on cores that it shares
GONE_SECONDS = 10
# The real server needs a second, and our stand-in's container imports TensorFlow first. With retries it would be 300.
REFUSED_SECONDS = 150
# From the server's own start, by its first words (tensorflow_serving/model_servers/server_core.cc), to its refusal.
STARTED = "Adding/updating models"
VERDICT_SECONDS = 50  # a retry would come after 60


def test_a_model_is_served_and_its_server_goes_away(make: Make, half_plus_two: Path) -> None:
    before = fingerprint(half_plus_two)
    runtime = make()
    endpoint = runtime.start("half_plus_two", half_plus_two, deadline=START_SECONDS)
    wait_until_available(runtime, endpoint)

    answered = httpx.post(
        f"{endpoint.rest}/v1/models/half_plus_two:predict", json={"instances": [1.0, 2.0, 5.0]}, timeout=30
    )
    assert answered.json() == {"predictions": [2.5, 3.0, 4.5]}
    with grpc.insecure_channel(endpoint.grpc) as channel:
        grpc.channel_ready_future(channel).result(timeout=30)
    assert runtime.logs().strip()
    assert runtime.exited() is None
    used = runtime.memory()
    assert used is None or used > 1_000_000

    runtime.stop()
    wait_until_deserted(endpoint)
    runtime.stop()
    assert runtime.logs().strip(), "the log is kept"
    assert isinstance(runtime.exited(), Exit), "and so is how it ended"
    assert runtime.memory() is None
    assert fingerprint(half_plus_two) == before, "the model's folder is as it was"


def test_its_identity_is_known_before_it_starts_and_does_not_change(make: Make, half_plus_two: Path) -> None:
    first, second = make(), make()
    before = first.identity
    assert before == second.identity
    assert before.runtime in ("embedded", "binary", "docker")
    assert before.version
    first.start("half_plus_two", half_plus_two, deadline=START_SECONDS)
    first.stop()
    assert first.identity == before


def test_stop_before_start_does_nothing(make: Make) -> None:
    runtime = make()
    runtime.stop()
    assert runtime.exited() is None
    assert runtime.memory() is None
    assert runtime.logs() == ""


def test_two_run_side_by_side(make: Make, half_plus_two: Path) -> None:
    one, two = make(), make()
    endpoints = [runtime.start("half_plus_two", half_plus_two, deadline=START_SECONDS) for runtime in (one, two)]
    assert len({port for endpoint in endpoints for port in ports(endpoint)}) == 4
    one.stop()
    wait_until_available(two, endpoints[1])


def test_a_server_killed_from_outside_is_reported_as_killed(
    make: Make, kind: str, run_id: str, half_plus_two: Path
) -> None:
    runtime = make()
    endpoint = runtime.start("half_plus_two", half_plus_two, deadline=START_SECONDS)
    wait_until_available(runtime, endpoint)
    if kind == "docker":
        (container,) = containers(run_id)
        container.kill("SIGKILL")
    else:
        os.kill(listener(ports(endpoint)[1]), signal.SIGKILL)
    assert until(GONE_SECONDS, runtime.exited) == Exit(code=-signal.SIGKILL)
    runtime.stop()
    wait_until_deserted(endpoint)
    assert runtime.exited() == Exit(code=-signal.SIGKILL)


def test_a_truncated_model_is_refused_without_retries(make: Make, truncated_model: Path) -> None:
    before = fingerprint(truncated_model)
    runtime = make()
    endpoint = runtime.start("truncated", truncated_model, deadline=START_SECONDS)
    started: list[float] = []

    def refused() -> bool:
        if not started and STARTED in runtime.logs():
            started.append(time.monotonic())
        if runtime.exited() is not None:
            return True
        return "END" in states(endpoint, "truncated")

    assert until(REFUSED_SECONDS, refused), f"neither ended nor END; its log:\n{runtime.logs()[-2000:]}"
    assert STARTED in runtime.logs(), "it said when it began"
    assert not started or time.monotonic() - started[0] < VERDICT_SECONDS
    assert "Read less bytes than requested" in runtime.logs()  # TensorFlow's words for a truncated bundle
    runtime.stop()
    wait_until_deserted(endpoint)
    assert fingerprint(truncated_model) == before


MONITORED = "prometheus_config { enable: true path: '/monitoring/prometheus/metrics' }"
CONFIGURED = """
model_config_list {
  config { name: "half_plus_two" base_path: "$MODEL_BASE_PATH" model_platform: "tensorflow" }
}
"""


def test_the_files_that_flags_name_are_brought_along_and_leave_with_the_server(
    make: Make, kind: str, run_id: str, half_plus_two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    files = {"monitoring_config_file": MONITORED, "model_config_file": CONFIGURED}
    runtime = make(files)
    endpoint = runtime.start("half_plus_two", half_plus_two, deadline=START_SECONDS)
    wait_until_available(runtime, endpoint)
    answered = httpx.post(f"{endpoint.rest}/v1/models/half_plus_two:predict", json={"instances": [1.0]}, timeout=30)
    assert answered.json() == {"predictions": [2.5]}
    metrics = httpx.get(f"{endpoint.rest}/monitoring/prometheus/metrics", timeout=30)
    assert metrics.status_code == 200
    assert "half_plus_two" in metrics.text
    assert kind == "docker" or list(tmp_path.glob("tfship-flags-*"))
    runtime.stop()
    assert not list(tmp_path.glob("tfship-flags-*"))
    assert containers(run_id) == [] if kind == "docker" else True


def test_without_its_file_there_are_no_metrics(make: Make, half_plus_two: Path) -> None:
    """So that the test above shows what it says."""
    runtime = make()
    endpoint = runtime.start("half_plus_two", half_plus_two, deadline=START_SECONDS)
    wait_until_available(runtime, endpoint)
    assert httpx.get(f"{endpoint.rest}/monitoring/prometheus/metrics", timeout=30).status_code != 200


@pytest.mark.usefixtures("make")
def test_a_killed_owner_leaves_nothing(arguments: list[str], kind: str, run_id: str, half_plus_two: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("owner.py")), str(half_plus_two), *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None
    with owner.stdout:
        rest = owner.stdout.readline().strip()
        port = urlsplit(rest).port
        assert port, "the owner started its server"
        assert until(START_SECONDS, partial(listens, port))
        if kind == "docker":
            client = connect()
            assert not reap(client), "a live process's container is left alone"
            (container,) = containers(run_id)
        owner.kill()
        owner.wait()
        if kind == "docker":
            assert reap(client) == (container.id,)
            assert containers(run_id) == []
            client.close()
    assert until(GONE_SECONDS, partial(deserted, port)), f"a server is left at {rest}"


# What a test asks of the host --------------------------------------------------------------------------------------


def wait_until_available(runtime: ServingRuntime, endpoint: Endpoint) -> None:
    """Poll the status over REST until the model's version is AVAILABLE."""
    name = "half_plus_two"
    available = until(
        START_SECONDS, lambda: runtime.exited() is not None or "AVAILABLE" in states(endpoint, name)
    ) and "AVAILABLE" in states(endpoint, name)
    assert available, f"not AVAILABLE, exited: {runtime.exited()}, log:\n{runtime.logs()[-2000:]}"


def states(endpoint: Endpoint, name: str) -> list[str]:
    """The states of the model's versions, or none while nobody answers."""
    try:
        answered = httpx.get(f"{endpoint.rest}/v1/models/{name}", timeout=5)
    except httpx.HTTPError:
        return []
    return [version["state"] for version in answered.json().get("model_version_status", [])]


def wait_until_deserted(endpoint: Endpoint) -> None:
    """Nobody listens on either port."""
    for port in ports(endpoint):
        assert until(GONE_SECONDS, partial(deserted, port)), f"somebody still listens on {port}"


def ports(endpoint: Endpoint) -> tuple[int, int]:
    """The ports of gRPC and REST."""
    rest = urlsplit(endpoint.rest).port
    assert rest is not None
    return int(endpoint.grpc.rpartition(":")[2]), rest


def listens(port: int) -> bool:
    """Tell whether 127.0.0.1 accepts connections on `port`."""
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def deserted(port: int) -> bool:
    """Tell whether it does not."""
    return not listens(port)


def listener(port: int) -> int:
    """The process that listens on `port` (proc_net(5): the state 0A is LISTEN)."""
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    (inode,) = {row[9] for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port}
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(descriptor.readlink()) == f"socket:[{inode}]":
                return int(descriptor.parts[2])
        except OSError:
            continue
    raise AssertionError(f"no process listens on {port}")


def containers(run_id: str) -> list[Any]:
    """Every container that carries the run's label, in whatever state."""
    client = connect()
    try:
        found: list[Any] = client.containers.list(all=True, filters={"label": f"{RUN}={run_id}"})
        return found
    finally:
        client.close()


def until(seconds: float, ask: Callable[[], T]) -> T:
    """Return the first true answer of `ask`, or its last after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (answer := ask()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return answer


def fingerprint(folder: Path) -> dict[str, tuple[int, str]]:
    """Every path below `folder` with its mode and the hash of its bytes."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mode,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for path in sorted(folder.rglob("*"))
    }
