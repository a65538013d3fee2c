"""The docker runtime against a real engine: how the container is shut in, and what an engine refuses."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import EnvironmentFailure, UsageError
from tasks.records.serving import Exit
from tasks.serving.runtimes.docker import owner
from tasks.serving.runtimes.docker.engine import available, connect
from tasks.serving.runtimes.docker.owner import PID_START, RUN, reap
from tasks.serving.runtimes.docker.runtime import DockerParameters, DockerRuntime

pytestmark = pytest.mark.engine
MIB = 1024 * 1024


@pytest.fixture
def client() -> Iterator[Any]:
    """The engine."""
    engine = connect()
    yield engine
    engine.close()


def the_container(client: Any, run_id: str) -> Any:
    (container,) = client.containers.list(all=True, filters={"label": f"{RUN}={run_id}"})
    return container


def test_the_container_is_shut_in(client: Any, docker_image: str, run_id: str, half_plus_two: Path) -> None:
    runtime = DockerRuntime(
        DockerParameters(image=docker_image, run_id=run_id, pull="never", memory_bytes=2048 * MIB, cpus=1.5, pids=200)
    )
    try:
        endpoint = runtime.start("half_plus_two", half_plus_two, deadline=120)
        container = the_container(client, run_id)
        host = container.attrs["HostConfig"]
        assert (host["Memory"], host["NanoCpus"], host["PidsLimit"]) == (2048 * MIB, 1_500_000_000, 200)
        assert host["RestartPolicy"]["Name"] in ("", "no")
        assert not host["Privileged"]
        bindings = [one for binding in container.attrs["NetworkSettings"]["Ports"].values() for one in binding]
        assert {binding["HostIp"] for binding in bindings} == {"127.0.0.1"}
        assert {binding["HostPort"] for binding in bindings} == {
            endpoint.grpc.rpartition(":")[2],
            endpoint.rest.rpartition(":")[2],
        }

        def inside(command: str) -> tuple[int, str]:
            code, output = container.exec_run(["sh", "-c", command])
            return code, output.decode()

        assert inside("id -u")[1].strip() != "0"
        assert inside("cat /models/half_plus_two/1/saved_model.pb > /dev/null")[0] == 0
        for forbidden in ("/models/half_plus_two/x", "/models/half_plus_two/1/saved_model.pb", "/opt/x", "/x"):
            code, output = inside(f"echo x > {forbidden}")
            assert code != 0, f"{forbidden} could be written"
            assert "Read-only file system" in output or "Permission denied" in output
        assert inside("echo x > /tmp/x")[0] == 0
        _, status = inside("cat /proc/self/status")
        facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert (int(facts["CapEff"], 16), int(facts["CapBnd"], 16), facts["NoNewPrivs"]) == (0, 0, "1")
    finally:
        runtime.stop()


def test_a_model_that_outgrows_its_memory_is_said_to(docker_image: str, run_id: str, half_plus_two: Path) -> None:
    """Importing TensorFlow, our stand-in needs more than 32 MiB."""
    runtime = DockerRuntime(DockerParameters(image=docker_image, run_id=run_id, pull="never", memory_bytes=32 * MIB))
    try:
        runtime.start("half_plus_two", half_plus_two, deadline=120)
        until = time.monotonic() + 60
        while runtime.exited() is None and time.monotonic() < until:
            time.sleep(0.1)
        assert runtime.exited() == Exit(code=-9, oom_killed=True)
    finally:
        runtime.stop()


def test_a_server_that_refuses_its_flags_is_reported_with_its_log(
    docker_image: str, run_id: str, half_plus_two: Path
) -> None:
    """`--port` comes twice then; what matters: an early end gives an endpoint, an exit and a log, not a traceback."""
    runtime = DockerRuntime(
        DockerParameters(image=docker_image, run_id=run_id, pull="never", flags=("--file_system_poll_wait_seconds=x",))
    )
    try:
        runtime.start("half_plus_two", half_plus_two, deadline=120)
        until = time.monotonic() + 60
        while runtime.exited() is None and time.monotonic() < until:
            time.sleep(0.1)
        assert runtime.exited() is not None
        assert "file_system_poll_wait_seconds" in runtime.logs()
    finally:
        runtime.stop()


def test_a_container_removed_by_somebody_else_counts_as_killed(
    client: Any, docker_image: str, run_id: str, half_plus_two: Path
) -> None:
    runtime = DockerRuntime(DockerParameters(image=docker_image, run_id=run_id, pull="never"))
    runtime.start("half_plus_two", half_plus_two, deadline=120)
    the_container(client, run_id).remove(force=True)
    assert runtime.exited() == Exit(code=-9)
    assert "removed by another process" in runtime.logs()
    assert runtime.memory() is None
    runtime.stop()


def test_a_failed_start_leaves_no_container(client: Any, docker_image: str, run_id: str, tmp_path: Path) -> None:
    runtime = DockerRuntime(DockerParameters(image=docker_image, run_id=run_id, pull="never"))
    with pytest.raises(EnvironmentFailure, match="bind source path does not exist"):
        runtime.start("model", tmp_path / "not there", deadline=120)
    assert client.containers.list(all=True, filters={"label": f"{RUN}={run_id}"}) == []


def test_reaping_takes_a_container_whose_owners_number_went_to_another_process(
    client: Any, docker_image: str, run_id: str, monkeypatch: pytest.MonkeyPatch, half_plus_two: Path
) -> None:
    own = owner.owner()
    monkeypatch.setattr(owner, "owner", lambda: {**own, PID_START: "1"})  # this pid, but an earlier process
    runtime = DockerRuntime(DockerParameters(image=docker_image, run_id=run_id, pull="never"))
    runtime.start("half_plus_two", half_plus_two, deadline=120)
    (container,) = client.containers.list(filters={"label": f"{RUN}={run_id}"})
    assert reap(client) == (str(container.id),)
    assert reap(client) == ()
    runtime.stop()


def test_an_image_that_is_not_there_is_named(run_id: str) -> None:
    missing = DockerRuntime(DockerParameters(image="tfship/never-made:0", run_id=run_id, pull="never"))
    with pytest.raises(EnvironmentFailure, match=r"tfship/never-made:0.*\n?.*docker pull"):
        _ = missing.identity
    assert "tfship/never-made:0" in (available("tfship/never-made:0") or "")


def test_an_image_for_another_platform_is_refused_before_it_starts(
    client: Any, docker_image: str, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = client.images.get(docker_image)
    other = {**client.version(), "Arch": "s390x"}
    monkeypatch.setattr("docker.DockerClient.version", lambda _: other)
    with pytest.raises(EnvironmentFailure, match=f"linux/s390x, found linux/{image.attrs['Architecture']}"):
        _ = DockerRuntime(DockerParameters(image=docker_image, run_id=run_id, pull="never")).identity


def test_the_image_is_available_here(docker_image: str) -> None:
    assert available(docker_image) is None


def test_mounts_and_environment_are_the_servers_too(
    client: Any, docker_image: str, run_id: str, half_plus_two: Path, tmp_path: Path
) -> None:
    (tmp_path / "op.so").write_text("an op")
    tmp_path.chmod(0o755)
    asked = DockerParameters(
        image=docker_image,
        run_id=run_id,
        pull="never",
        environment={"TF_CPP_MIN_LOG_LEVEL": "3", "MODEL_NAME": "another"},
        mounts={tmp_path: "/opt/ops"},
    )
    runtime = DockerRuntime(asked)
    try:
        runtime.start("half_plus_two", half_plus_two, deadline=120)
        container = the_container(client, run_id)
        _, output = container.exec_run(["sh", "-c", "exec 2>&1; cat /opt/ops/op.so; echo; env; echo x > /opt/ops/x"])
        assert output.startswith(b"an op\n")
        assert b"TF_CPP_MIN_LOG_LEVEL=3\n" in output
        assert b"MODEL_NAME=half_plus_two\n" in output, "which model is served is not the environment's to say"
        assert b"Read-only file system" in output
    finally:
        runtime.stop()


def test_a_mount_that_is_not_there_is_named_before_anything_starts(
    client: Any, docker_image: str, run_id: str, half_plus_two: Path, tmp_path: Path
) -> None:
    asked = DockerParameters(image=docker_image, run_id=run_id, pull="never", mounts={tmp_path / "gone": "/opt/ops"})
    with pytest.raises(UsageError, match="gone"):
        DockerRuntime(asked).start("half_plus_two", half_plus_two, deadline=120)
    assert client.containers.list(all=True, filters={"label": f"{RUN}={run_id}"}) == []


@pytest.mark.parametrize("gpus", [1, "all"])
def test_an_engine_without_gpus_says_what_to_install(
    client: Any, docker_image: str, run_id: str, half_plus_two: Path, gpus: Any
) -> None:
    if any("nvidia" in runtime for runtime in client.info()["Runtimes"]):
        pytest.skip("this engine has GPUs")
    runtime = DockerRuntime(DockerParameters(image=docker_image, run_id=run_id, pull="never", gpus=gpus))
    with pytest.raises(EnvironmentFailure, match="gpu") as refused:
        runtime.start("half_plus_two", half_plus_two, deadline=120)
    assert "NVIDIA Container Toolkit" in refused.value.remedy
    assert client.containers.list(all=True, filters={"label": f"{RUN}={run_id}"}) == []
