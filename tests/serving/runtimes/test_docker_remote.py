"""A remote engine gets copies of what it cannot see, and its ports are reached from here.

It is the engine of this host behind a TCP port of loopback, or, where there is an sshd, behind ssh.
"""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tasks.errors import EnvironmentFailure
from tasks.isolate.ports import free_ports
from tasks.records.serving import Endpoint
from tasks.serving.runtimes.docker import address
from tasks.serving.runtimes.docker.engine import connect
from tasks.serving.runtimes.docker.owner import RUN
from tasks.serving.runtimes.docker.runtime import DockerParameters, DockerRuntime
from tests.docker_engine import tcp_proxy

pytestmark = pytest.mark.engine
METRICS = "/monitoring/prometheus/metrics"
MONITORED = f"prometheus_config {{ enable: true path: '{METRICS}' }}"
SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@pytest.fixture
def client() -> Iterator[Any]:
    engine = connect()
    yield engine
    engine.close()


@pytest.fixture
def socket_path() -> str:
    return address.resolve().url.removeprefix("unix://")


@pytest.fixture
def far(socket_path: str) -> Iterator[str]:
    with tcp_proxy.listening(socket_path) as url:
        yield url


@pytest.fixture
def private(half_plus_two: Path, tmp_path: Path) -> Path:
    """The model as a careful user keeps it: nobody else may look into it."""
    base_path = tmp_path / "private" / "half_plus_two"
    shutil.copytree(half_plus_two, base_path)
    for path in [base_path.parent, base_path, *base_path.rglob("*")]:
        path.chmod(0o700 if path.is_dir() else 0o400)
    return base_path


def volumes(client: Any) -> set[str]:
    return {volume.name for volume in client.volumes.list()}


def available(runtime: DockerRuntime, endpoint: Endpoint) -> None:
    until = time.monotonic() + 90
    while time.monotonic() < until and runtime.exited() is None:
        try:
            if "AVAILABLE" in httpx.get(f"{endpoint.rest}/v1/models/half_plus_two", timeout=5).text:
                return
        except httpx.HTTPError:
            time.sleep(0.1)
    pytest.fail(f"not AVAILABLE, exited: {runtime.exited()}, log:\n{runtime.logs()[-2000:]}")


def test_a_model_is_served_by_an_engine_that_cannot_see_it(
    client: Any, far: str, docker_image: str, run_id: str, private: Path, tmp_path: Path
) -> None:
    before = volumes(client)
    ops = tmp_path / "ops"
    ops.mkdir()
    (ops / "op.so").write_text("an op")
    runtime = DockerRuntime(
        DockerParameters(
            image=docker_image,
            run_id=run_id,
            pull="never",
            host=far,
            flag_files={"monitoring_config_file": MONITORED},
            mounts={ops: "/opt/ops"},
        )
    )
    try:
        endpoint = runtime.start("half_plus_two", private, deadline=120)
        available(runtime, endpoint)
        answered = httpx.post(f"{endpoint.rest}/v1/models/half_plus_two:predict", json={"instances": [1.0]}, timeout=30)
        assert answered.json() == {"predictions": [2.5]}
        assert "half_plus_two" in httpx.get(f"{endpoint.rest}{METRICS}", timeout=30).text
        (container,) = client.containers.list(filters={"label": f"{RUN}={run_id}"})
        assert {mount["Type"] for mount in container.attrs["Mounts"]} == {"volume"}

        def inside(command: str) -> tuple[int, str]:
            code, output = container.exec_run(["sh", "-c", command])
            return code, output.decode()

        assert inside("cat /opt/ops/op.so") == (0, "an op")
        for file in ("/opt/ops/op.so", "/opt/ops/x", "/models/half_plus_two/1/saved_model.pb", "/tfship/x"):
            code, output = inside(f"echo x > {file}")
            assert code != 0, file
            assert "Permission denied" in output
    finally:
        runtime.stop()
    assert client.containers.list(all=True, filters={"label": f"{RUN}={run_id}"}) == []
    assert volumes(client) == before, "what was copied went with the container"


def test_a_copy_that_fails_leaves_nothing(
    client: Any, far: str, docker_image: str, run_id: str, tmp_path: Path
) -> None:
    before = volumes(client)
    runtime = DockerRuntime(DockerParameters(image=docker_image, run_id=run_id, pull="never", host=far))
    with pytest.raises(EnvironmentFailure, match="No such file"):
        runtime.start("half_plus_two", tmp_path / "not there", deadline=120)
    assert client.containers.list(all=True, filters={"label": f"{RUN}={run_id}"}) == []
    assert volumes(client) == before


@pytest.fixture
def behind_ssh(socket_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """`ssh://…` of an sshd of our own on this host, which leads to its engine."""
    if SSHD is None:
        pytest.skip("there is no sshd to come in by")
    keys, port = tmp_path / "keys", free_ports(1)[0]
    keys.mkdir(mode=0o700)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(keys / name)], check=True)
    config = [f"HostKey {keys}/host", f"AuthorizedKeysFile {keys}/user.pub", f"PidFile {keys}/pid", "UsePAM no"]
    (keys / "config").write_text("\n".join([*config, "StrictModes no", "PasswordAuthentication no", ""]))
    program = keys / "ssh"
    known = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
    program.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F none -i {keys}/user {known} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{keys}:{os.environ['PATH']}")
    monkeypatch.setattr(address, "REMOTE_SOCKET", socket_path)
    command = [SSHD, "-D", "-e", "-f", str(keys / "config"), "-p", str(port), "-o", "ListenAddress=127.0.0.1"]
    with (keys / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as daemon:
        until = time.monotonic() + 10
        while "listening" not in (said := (keys / "log").read_text()) and time.monotonic() < until:
            assert daemon.poll() is None, said
            time.sleep(0.05)
        yield f"ssh://{getpass.getuser()}@127.0.0.1:{port}"
        address.socket_of.cache_clear()
        daemon.terminate()


def test_a_model_is_served_by_an_engine_behind_ssh(
    client: Any, behind_ssh: str, docker_image: str, run_id: str, private: Path
) -> None:
    runtime = DockerRuntime(DockerParameters(image=docker_image, run_id=run_id, pull="never", host=behind_ssh))
    try:
        endpoint = runtime.start("half_plus_two", private, deadline=120)
        available(runtime, endpoint)
        answered = httpx.post(f"{endpoint.rest}/v1/models/half_plus_two:predict", json={"instances": [1.0]}, timeout=30)
        assert answered.json() == {"predictions": [2.5]}
        (container,) = client.containers.list(filters={"label": f"{RUN}={run_id}"})
        published = [one for ports in container.attrs["NetworkSettings"]["Ports"].values() for one in ports]
        assert {one["HostIp"] for one in published} == {"127.0.0.1"}, "nothing but ssh is open on that host"
        assert endpoint.rest.rpartition(":")[2] not in {one["HostPort"] for one in published}
    finally:
        runtime.stop()
    assert client.containers.list(all=True, filters={"label": f"{RUN}={run_id}"}) == []
    with pytest.raises(httpx.HTTPError):
        httpx.get(endpoint.rest, timeout=5)
