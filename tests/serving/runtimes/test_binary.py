"""The binary runtime: its ports, its versions, and programs that are no server."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from tasks.errors import EnvironmentFailure
from tasks.isolate.ports import free_ports
from tasks.isolate.process import LOG_BYTES
from tasks.records.serving import Endpoint, Exit
from tasks.serving.runtimes import binary
from tasks.serving.runtimes.binary import BinaryRuntime, find

# A server as far as ports go: binds REST at once, or says that it cannot and ends, as the real one does.
LISTENER = f"""#!{sys.executable}
import os, signal, socket, sys, time
if sys.argv[1:] == ["--version"]:
    print("TensorFlow ModelServer: 2.20.0-rc0\\nTensorFlow Library: 2.20.0")
    sys.exit(0)
flags = dict(word.lstrip("-").split("=", 1) for word in sys.argv[1:])
held = []
for name in ("rest_api_port", "port"):
    held.append(socket.socket())
    try:
        held[-1].bind(("127.0.0.1", int(flags[name])))
    except OSError as error:
        print(f"Failed to bind: {{error}}", flush=True)
        sys.exit(255)
    held[-1].listen()
if "stubborn" in flags.get("model_name", ""):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        time.sleep(600)
print("up", " ".join(sys.argv[1:]), flush=True)
while True:
    held[0].accept()[0].sendall(b"here")
"""


@pytest.fixture
def listener(tmp_path: Path) -> Path:
    return program(tmp_path, LISTENER)


def program(folder: Path, text: str, mode: int = 0o755) -> Path:
    path = folder / "tensorflow_model_server"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_port_taken_meanwhile_is_chosen_again(
    listener: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # bound, not listening: nobody answers in the server's place
        used = int(silent.getsockname()[1])
        free = free_ports(1)[0]
        offered = iter([(used, free), (free, used), free_ports(2)])
        monkeypatch.setattr(binary, "COLLISION_SECONDS", 20.0)  # a slow host must not hide the collision
        monkeypatch.setattr(binary, "free_ports", lambda _: next(offered))
        runtime = BinaryRuntime(listener, tmp_path / "logs")
        endpoint = runtime.start("model", tmp_path, deadline=120)
        assert str(used) not in endpoint.grpc + endpoint.rest
        assert runtime.exited() is None
        runtime.stop()
    assert runtime.exited() == Exit(code=-15)
    assert not list((tmp_path / "logs").iterdir()), "no log file is left of any attempt"


def test_ports_that_are_always_taken_are_an_environment_failure(
    listener: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        used = int(silent.getsockname()[1])
        monkeypatch.setattr(binary, "COLLISION_SECONDS", 20.0)  # a slow host must not hide the collision
        monkeypatch.setattr(binary, "free_ports", lambda _: (used, used))
        with pytest.raises(EnvironmentFailure, match="two free ports"):
            BinaryRuntime(listener, tmp_path / "logs").start("model", tmp_path, deadline=120)


def test_a_server_that_ignores_sigterm_is_killed_with_its_children(listener: Path, tmp_path: Path) -> None:
    runtime = BinaryRuntime(listener, tmp_path / "logs")
    endpoint = runtime.start("stubborn", tmp_path, deadline=120)
    until = time.monotonic() + 60
    while "up" not in runtime.logs() and time.monotonic() < until:
        time.sleep(0.02)
    runtime.stop()
    assert runtime.exited() == Exit(code=-9)
    until = time.monotonic() + 5
    port = int(endpoint.rest.rpartition(":")[2])
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return
        time.sleep(0.05)
    pytest.fail("a child of the server still listens")


def test_the_server_outlives_the_thread_that_started_it(listener: Path, tmp_path: Path) -> None:
    """The kernel's death signal comes with the parent's thread: Prefect's threads come and go."""
    runtime = BinaryRuntime(listener, tmp_path / "logs")
    started: list[Endpoint] = []
    thread = threading.Thread(target=lambda: started.append(runtime.start("model", tmp_path, deadline=120)))
    thread.start()
    thread.join()
    until = time.monotonic() + 60
    while Path(f"/proc/self/task/{thread.native_id}").exists() and time.monotonic() < until:
        time.sleep(0.01)
    host, _, port = started[0].rest.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=60) as asked:
        assert asked.recv(4) == b"here"
    assert runtime.exited() is None
    runtime.stop()


def test_the_log_is_the_end_of_what_was_written(tmp_path: Path) -> None:
    noisy = program(
        tmp_path,
        "#!/bin/sh\nif [ $1 = --version ]; then echo 'TensorFlow ModelServer: 1'; exit; fi\n"
        "yes a line of thirty-two characters | head -c 1000000; echo the end\n",
    )
    runtime = BinaryRuntime(noisy, tmp_path / "logs")
    runtime.start("model", tmp_path, deadline=120)
    until = time.monotonic() + 10
    while runtime.exited() is None and time.monotonic() < until:
        time.sleep(0.02)
    assert runtime.exited() == Exit(code=0)
    assert runtime.logs().endswith("the end\n")
    assert len(runtime.logs()) == LOG_BYTES
    runtime.stop()
    assert runtime.logs().endswith("the end\n")


def test_the_version_is_what_the_server_says(listener: Path, tmp_path: Path) -> None:
    identity = BinaryRuntime(listener, tmp_path).identity
    assert (identity.runtime, identity.version, identity.stand_in) == ("binary", "2.20.0-rc0", False)


def test_our_stand_in_as_a_binary_is_called_one(model_server: Path, tmp_path: Path) -> None:
    assert BinaryRuntime(model_server, tmp_path).identity.stand_in


@pytest.mark.parametrize(
    ("text", "mode", "found"),
    [
        ("#!/bin/sh\necho something else\n", 0o755, "something else"),
        ("#!/bin/sh\n", 0o644, "Permission denied"),
        ("#!/not/there\n", 0o755, "No such file"),
        ("\x7fELF nothing", 0o755, "Exec format error"),
    ],
    ids=["another program", "not executable", "no interpreter", "no program"],
)
def test_a_program_that_is_no_server_is_refused(tmp_path: Path, text: str, mode: int, found: str) -> None:
    runtime = BinaryRuntime(program(tmp_path, text, mode), tmp_path / "logs")
    with pytest.raises(EnvironmentFailure, match=found):
        runtime.start("model", tmp_path, deadline=120)
    runtime.stop()


def test_the_server_is_found_on_a_search_path(listener: Path, tmp_path: Path) -> None:
    assert find(str(tmp_path)) == listener
    assert find(f"{tmp_path}{os.sep}nowhere") is None
