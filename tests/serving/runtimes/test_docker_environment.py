"""The docker runtime without a usable engine is refused with the reason; only containers of dead owners are reaped."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from tasks.errors import EnvironmentFailure, UsageError
from tasks.serving.runtimes.docker import container, owner
from tasks.serving.runtimes.docker import engine as docker_engine
from tasks.serving.runtimes.docker import image as docker_image
from tasks.serving.runtimes.docker.address import EngineAddress, resolve
from tasks.serving.runtimes.docker.engine import available, connect
from tasks.serving.runtimes.docker.owner import PID, PID_SPACE, PID_START
from tasks.serving.runtimes.docker.runtime import DockerParameters


@contextmanager
def unprivileged() -> Iterator[None]:
    """As somebody who may not open what belongs to root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def short_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A socket's path has to be short."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="tfship-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_a_missing_socket_is_named(short_folder: Path) -> None:
    address = f"unix://{short_folder}/docker.sock"
    with pytest.raises(EnvironmentFailure, match=r"no socket .*docker\.sock") as failure:
        connect(address)
    assert "--runtime embedded" in failure.value.remedy
    assert "docker.sock" in (available("any", host=address) or "")


def test_a_socket_that_nobody_serves_is_told_from_a_missing_one(short_folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as deserted:
        deserted.bind(f"{short_folder}/docker.sock")
    with pytest.raises(EnvironmentFailure, match="no engine answers"):
        connect(f"unix://{short_folder}/docker.sock")


def test_a_forbidden_socket_names_the_group(short_folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(f"{short_folder}/docker.sock")
        engine.listen()
        (short_folder / "docker.sock").chmod(0o600 if os.geteuid() == 0 else 0)
        with unprivileged(), pytest.raises(EnvironmentFailure, match="no permission") as failure:
            connect(f"unix://{short_folder}/docker.sock")
    assert "usermod -aG docker" in failure.value.remedy


def test_docker_host_is_heard_as_the_docker_command_hears_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    with pytest.raises(EnvironmentFailure, match=r"no answer at DOCKER_HOST=tcp://127\.0\.0\.1:1") as failure:
        connect()
    assert "unset DOCKER_HOST" in failure.value.remedy


@pytest.mark.skipif(shutil.which("ssh") is None, reason="there is no ssh here")
def test_ssh_that_does_not_lead_there_is_quoted() -> None:
    with pytest.raises(EnvironmentFailure, match="an ssh connection") as failure:
        connect("ssh://nobody@127.0.0.1:1")
    assert "refused" in failure.value.found


def test_without_ssh_it_is_named_as_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(EnvironmentFailure, match=r"none on PATH\.\n.*openssh-client"):
        connect("ssh://nobody@127.0.0.1:2")


def test_an_address_of_another_kind_is_a_mistake() -> None:
    with pytest.raises(UsageError, match="npipe"):
        connect("npipe:////./pipe/docker_engine")


@pytest.mark.parametrize(
    ("url", "remote", "published"),
    [
        ("unix:///var/run/docker.sock", False, "127.0.0.1"),
        ("http://127.0.0.2:2375", True, "127.0.0.2"),
        ("tcp://127.0.0.3:2375", True, "127.0.0.3"),
        ("ssh://build@far.example", True, "127.0.0.1"),
        ("tcp://[::1]:2375", True, "::1"),
    ],
)
def test_ports_are_published_where_this_host_reaches_them_and_nowhere_else(
    url: str, remote: bool, published: str
) -> None:
    address = resolve(url)
    assert (address.remote, address.publishing_address()) == (remote, published)


def test_the_server_may_read_what_the_caller_may(monkeypatch: pytest.MonkeyPatch) -> None:
    here, far = EngineAddress("unix:///run/docker.sock"), EngineAddress("tcp://10.0.0.1:2375")
    rootless = {"SecurityOptions": ["name=seccomp,profile=default", "name=rootless", "name=cgroupns"]}
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setattr(os, "getgid", lambda: 1001)
    assert container.user_of({}, here) == "1000:1001"
    assert container.user_of(rootless, here) == "0:0", "who is the caller outside of the container"
    assert container.user_of(rootless, far) == container.NOBODY
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert container.user_of({}, here) == container.NOBODY
    assert docker_engine.is_rootless(rootless)
    assert not docker_engine.is_rootless({"SecurityOptions": None})


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("opt/ops", "an absolute path"),
        ("/", "an absolute path"),
        ("/opt/../models", "an absolute path"),
        ("/models/x", "the server itself needs"),
        ("/tmp", "the server itself needs"),
    ],
)
def test_a_mount_has_a_place_of_its_own(tmp_path: Path, target: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        container.require_mounts({tmp_path: target})


def test_a_mount_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    container.require_mounts({tmp_path: "/opt/ops"})
    for missing, found in (("nowhere", "nothing"), ("file", "a file")):
        with pytest.raises(UsageError, match=f"{tmp_path / missing}: expected a folder of this host, found {found}"):
            container.require_mounts({tmp_path / missing: "/opt/ops"})


def test_limits_that_the_engine_cannot_hold_are_left_out_and_named() -> None:
    asked = DockerParameters(image="any", run_id="r", memory_bytes=1 << 30, cpus=2, pids=100)
    able = {"MemoryLimit": True, "SwapLimit": True, "CpuCfsQuota": True, "PidsLimit": True, "NCPU": 8}
    limits, notes = container.limits_of(asked, able)
    assert limits == {"mem_limit": 1 << 30, "memswap_limit": 1 << 30, "nano_cpus": 2_000_000_000, "pids_limit": 100}
    assert notes == []
    limits, notes = container.limits_of(asked, {**able, "SwapLimit": False, "PidsLimit": False, "NCPU": 1})
    assert limits == {"mem_limit": 1 << 30, "nano_cpus": 1_000_000_000}
    assert "cannot enforce a process limit" in " ".join(notes)
    assert "1 CPUs, fewer than the requested 2" in " ".join(notes)


@pytest.mark.parametrize(
    ("repository_digests", "reference", "expected"),
    [
        (["tensorflow/serving@sha256:aa"], "tensorflow/serving:2.20.0", "sha256:aa"),
        (["mirror:5000/serving@sha256:bb", "tensorflow/serving@sha256:aa"], "tensorflow/serving", "sha256:aa"),
        (["other@sha256:aa", "mirror:5000/serving@sha256:bb"], "mirror:5000/serving:2", "sha256:bb"),
        (["tensorflow/serving@sha256:aa"], "tensorflow/serving@sha256:aa", "sha256:aa"),
        ([], "tfship/embedded-serving:0.1.0", "sha256:id"),
    ],
    ids=["tagged", "of the repository asked for", "a registry with a port", "pinned", "never in a registry"],
)
def test_an_image_is_known_by_its_digest(repository_digests: list[str], reference: str, expected: str) -> None:
    image = SimpleNamespace(attrs={"RepoDigests": repository_digests}, id="sha256:id")
    assert docker_image.digest_of(image, reference) == expected


HERE = owner.owner()


@pytest.mark.parametrize(
    ("labels", "dead"),
    [
        (HERE, False),
        ({**HERE, PID_START: "1"}, True),
        ({**HERE, PID: "4194305"}, True),  # above the largest pid_max
        ({**HERE, PID: "4194305", PID_SPACE: HERE[PID_SPACE].replace("/", "/9")}, False),
        ({**HERE, PID: "4194305", PID_SPACE: ""}, False),
        ({PID: "4194305"}, False),
        ({**HERE, PID: "nonsense"}, False),
    ],
    ids=["alive", "number reused", "gone", "another container's", "unknown place", "older labels", "not a number"],
)
def test_only_a_certainly_dead_owner_is_dead(labels: dict[str, str], dead: bool) -> None:
    assert owner.owner_is_dead(labels) is dead


def test_an_owner_on_this_host_before_its_restart_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    namespace = owner.HOST_PID_NAMESPACE
    monkeypatch.setattr(owner, "pid_space", lambda: f"boot-2/{namespace}")
    assert owner.owner_is_dead({**HERE, PID_SPACE: f"boot-1/{namespace}"})
    assert not owner.owner_is_dead({**HERE, PID_SPACE: "boot-1/4026532000"}), "a container's may live elsewhere"


def test_an_engines_other_clients_are_never_judged_from_here(monkeypatch: pytest.MonkeyPatch) -> None:
    namespace = owner.HOST_PID_NAMESPACE
    monkeypatch.setattr(owner, "pid_space", lambda: f"boot-2/{namespace}")
    assert not owner.owner_is_dead({**HERE, PID_SPACE: f"boot-1/{namespace}"}, remote=True)


def test_parameters_travel_as_json() -> None:
    parameters = DockerParameters(image="any", run_id="r", flags=("--a=b",), environment={"A": "b"}, cpus=0.5)
    assert DockerParameters.model_validate_json(parameters.model_dump_json()) == parameters
