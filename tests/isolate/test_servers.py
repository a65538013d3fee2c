"""No fork server, child or descendant outlives its caller, and the next call starts a new server."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest

from tasks import isolate
from tasks.errors import ChildFailed, EnvironmentFailure, ExitCode
from tasks.isolate import Limits, Settings
from tasks.isolate.client import Child, call_with, start_with
from tasks.step import together
from tests.artifacts.disk import exit_of, fork
from tests.isolate import calls
from tests.isolate.calls import running
from tests.isolate.conftest import ROOT, MakeSettings

PATIENCE = 60.0


def children(pid: int) -> list[int]:
    """Return the processes whose parent it is."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Return the first true value of the condition, or its last after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return value


def told(path: Path) -> list[int]:
    """Wait for the pids that a child writes down, and return them."""
    assert until(path.exists), "the child never came"
    return [int(pid) for pid in path.read_text().split()]


def all_gone(pids: list[int], seconds: float = PATIENCE) -> bool:
    return bool(until(lambda: not any(running(pid) for pid in pids), seconds))


@pytest.fixture
def own(finding: MakeSettings) -> Settings:
    """Settings of a light server for this test alone."""
    return finding("")


def waiting(function: Callable[..., Any], tell: Path, settings: Settings) -> Child:
    """A child under way that has written down its pids."""
    child = start_with(function, (tell,), settings=settings)
    told(tell)
    return child


def test_shutdown_ends_the_server_and_all_below_it(tmp_path: Path, own: Settings) -> None:
    """In a process of its own, so that the session's server stays."""

    def work() -> None:
        waiting(calls.hang_with_children, tmp_path / "pids", own)
        started = time.monotonic()
        isolate.shutdown()
        assert time.monotonic() - started < PATIENCE
        assert all_gone(told(tmp_path / "pids")) and not children(os.getpid())
        assert call_with(calls.double, (1,), settings=own) == 2, "the next call starts a new one"
        isolate.shutdown()
        isolate.shutdown()

    assert exit_of(fork(work)) == 0
    assert all_gone(told(tmp_path / "pids"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_all_end_when_the_client_is_killed_during_a_call(tmp_path: Path, own: Settings, number: int) -> None:
    client = fork(lambda: call_with(calls.hang_with_children, (tmp_path / "pids",), settings=own))
    pids = told(tmp_path / "pids")
    assert len(pids) == 4 and all(running(pid) for pid in pids)
    os.kill(client, number)
    exit_of(client)
    assert all_gone(pids)


def test_all_end_when_the_client_is_killed_during_the_import_of_tensorflow(tmp_path: Path) -> None:
    """The real one: native code holds the interpreter for most of that time."""
    client = fork(lambda: call_with(calls.hang, (tmp_path / "pids",), settings=Settings((("ANOTHER", "server"),))))
    (server,) = until(lambda: children(client))
    assert until(lambda: "tensorflow" in Path(f"/proc/{server}/maps").read_text())
    assert running(server) and not (tmp_path / "pids").exists()
    os.kill(client, signal.SIGKILL)
    exit_of(client)
    assert all_gone([server])


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.1, 0.2, 0.3])
def test_the_server_ends_when_the_client_is_killed_while_it_starts(finding: MakeSettings, delay: float) -> None:
    slow = finding("import time; time.sleep(60)")
    client = fork(lambda: call_with(calls.nothing, settings=slow))
    (server,) = until(lambda: children(client))
    time.sleep(delay)
    os.kill(client, signal.SIGKILL)
    exit_of(client)
    below = children(server)
    assert all_gone([server, *below])


def test_a_fork_of_the_client_keeps_no_server_alive(tmp_path: Path, own: Settings) -> None:
    def work() -> None:
        child = waiting(calls.hang, tmp_path / "pids", own)
        bystander = fork(lambda: time.sleep(60))
        calls.write(tmp_path / "bystander", str(bystander))
        child.wait(60.0)

    client = fork(work)
    pids = told(tmp_path / "pids")
    (bystander,) = told(tmp_path / "bystander")
    os.kill(client, signal.SIGKILL)
    exit_of(client)
    try:
        assert all_gone(pids) and running(bystander)
    finally:
        os.kill(bystander, signal.SIGKILL)


def test_a_fork_of_the_client_uses_a_server_of_its_own(own: Settings, tmp_path: Path) -> None:
    server, _ = call_with(calls.pids, settings=own)

    def work() -> None:
        mine, _ = call_with(calls.pids, settings=own)
        assert mine != server
        isolate.shutdown()
        assert not running(mine) and running(server)

    assert exit_of(fork(work)) == 0
    assert call_with(calls.pids, settings=own)[0] == server


def test_a_stopped_child_takes_what_it_started_with_it(tmp_path: Path, own: Settings) -> None:
    child = waiting(calls.hang_with_children, tmp_path / "pids", own)
    server, *others = told(tmp_path / "pids")
    assert all(running(pid) for pid in others)
    child.stop()
    assert not running(others[0]) and all_gone(others) and running(server)


@pytest.mark.parametrize("how", ["return", "abort"])
def test_a_child_that_ends_takes_what_it_started_with_it(own: Settings, how: str) -> None:
    left: list[int] = []
    try:
        left.append(
            call_with(calls.leave_a_process_behind, (how,), settings=own, on_progress=lambda f: left.append(f["pid"]))
        )
    except ChildFailed:
        assert how == "abort"
    assert len(left) == 1 and all_gone(left)


@pytest.mark.parametrize("how", ["return", "leave", "abort", "hang"])
def test_a_childs_temporary_files_go_with_it(own: Settings, how: str) -> None:
    left: list[Path] = []

    def note(facts: Any) -> None:
        left.extend(Path(file) for file in facts["files"])

    with isolate.limits(Limits(seconds=2.0)), contextlib.suppress(ChildFailed):
        call_with(calls.leave_a_temporary_file, (how,), settings=own, on_progress=note)
    folder = left[0].parent
    assert left[1].parents[1] == folder and not folder.exists()
    assert list(folder.parent.iterdir()) == [], "every child has a folder of its own, and none is left"


@pytest.mark.parametrize("victim", ["client", "server", "nobody"])
def test_temporary_files_go_with_whoever_ends_first(own: Settings, tmp_path: Path, victim: str) -> None:
    def work() -> None:
        child = start_with(calls.leave_a_temporary_file, ("hang",), settings=own)
        (said,) = until(lambda: [frame for frame in child.poll(1.0) if "progress" in frame])
        calls.write(tmp_path / "told", f"{child.server.process.pid} {said['progress']['files'][0]}")
        if victim != "nobody":
            child.wait(60.0)
        isolate.shutdown()

    client = fork(work)
    assert until((tmp_path / "told").exists)
    server, _, file = (tmp_path / "told").read_text().partition(" ")
    if victim != "nobody":
        assert Path(file).exists()
        os.kill(client if victim == "client" else int(server), signal.SIGKILL)
    exit_of(client)
    folder = Path(file).parents[1]
    assert until(lambda: not folder.exists(), PATIENCE), list(folder.rglob("*"))


def test_a_call_after_the_server_was_killed_gets_a_new_one(own: Settings) -> None:
    for _ in range(2):
        server, _ = call_with(calls.pids, settings=own)
        os.kill(server, signal.SIGKILL)
        assert all_gone([server])
        assert call_with(calls.pids, settings=own)[0] != server


def test_a_call_while_the_server_dies_fails_clearly_at_most_once(own: Settings) -> None:
    for _ in range(2):
        server, _ = call_with(calls.pids, settings=own)
        os.kill(server, signal.SIGKILL)
        try:
            call_with(calls.pids, settings=own)
        except (EnvironmentFailure, ChildFailed) as error:
            assert "signal SIGKILL" in error.found
        assert call_with(calls.pids, settings=own)[0] != server


def test_a_call_whose_server_is_killed_fails_at_once_and_takes_everything_with_it(
    tmp_path: Path, own: Settings
) -> None:
    with isolate.limits(Limits(seconds=10.0)), ThreadPoolExecutor(1) as pool:
        bounded = copy_context().run
        answer = pool.submit(bounded, call_with, calls.hang_with_children, (tmp_path / "pids",), settings=own)
        pids = told(tmp_path / "pids")
        os.kill(pids[0], signal.SIGKILL)
        with pytest.raises(ChildFailed, match="signal SIGKILL"):
            answer.result(PATIENCE)
    assert all_gone(pids)
    assert call_with(calls.double, (1,), settings=own) == 2


def test_the_children_of_a_killed_server_end_though_nobody_looks(tmp_path: Path, own: Settings) -> None:
    child = waiting(calls.hang, tmp_path / "pids", own)
    pids = told(tmp_path / "pids")
    os.kill(pids[0], signal.SIGKILL)
    assert all_gone(pids)
    child.stop()


def test_a_server_that_cannot_import_tensorflow_says_why(finding: MakeSettings) -> None:
    broken = finding("raise ImportError('this CPU has no AVX')")
    for _ in range(2):
        with pytest.raises(EnvironmentFailure, match="this CPU has no AVX") as caught:
            call_with(calls.double, (1,), settings=broken)
        assert caught.value.exit_code == ExitCode.ENVIRONMENT
    with pytest.raises(EnvironmentFailure, match="this CPU has no AVX"):
        call_with(calls.digest, (bytes(50 << 20),), settings=broken)


def test_a_server_that_crashes_while_it_imports_says_so(finding: MakeSettings) -> None:
    with pytest.raises(EnvironmentFailure, match="signal SIGILL"):
        call_with(calls.double, (1,), settings=finding("import os; os.kill(os.getpid(), 4)"))


def test_who_gives_up_during_the_import_waits_no_longer_and_nothing_runs(tmp_path: Path, finding: MakeSettings) -> None:
    gate = tmp_path / "gate"
    slow = finding(f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.05)")
    with isolate.limits(Limits(seconds=0.3)), pytest.raises(ChildFailed, match=r"within 0\.3 s"):
        call_with(calls.touch, (tmp_path / "touched",), settings=slow)
    gate.touch()
    assert call_with(calls.double, (1,), settings=slow) == 2, "the import goes on for the next call"
    assert not (tmp_path / "touched").exists()


def test_an_interruption_stops_the_child_and_not_the_server(tmp_path: Path, own: Settings) -> None:
    """Ctrl-C goes to every process of the group: to the flow, which ends its children itself."""

    def work() -> None:
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with pytest.raises(KeyboardInterrupt):
            call_with(calls.hang_with_children, (tmp_path / "pids",), settings=own)
        server, *others = told(tmp_path / "pids")
        assert all_gone(others) and call_with(calls.pids, settings=own)[0] == server

    client = fork(work)
    pids = told(tmp_path / "pids")
    assert os.getpgid(client) == client
    os.killpg(client, signal.SIGINT)
    assert exit_of(client) == 0
    assert all_gone(pids)


def test_an_interruption_ends_the_children_of_steps_that_run_together(tmp_path: Path, own: Settings) -> None:
    def two_in_a_row(name: str) -> None:
        """A step that would go on to a second child."""
        try:
            call_with(calls.hang, (tmp_path / name,), settings=own)
        finally:
            call_with(calls.hang, (tmp_path / f"{name}-second",), settings=own)

    def work() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with pytest.raises(KeyboardInterrupt):
            together(lambda: two_in_a_row("one"), lambda: two_in_a_row("other"))
        assert not children(os.getpid())

    client = fork(work)
    try:
        pids = told(tmp_path / "one") + told(tmp_path / "other")
        os.kill(client, signal.SIGINT)
        assert all_gone([client, *pids])
    finally:
        os.kill(client, signal.SIGKILL)
        code = exit_of(client)
    assert code == 0


def test_a_users_tasks_package_does_not_shadow_ours(
    tmp_path: Path, own: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "__init__.py").write_text("raise RuntimeError('the wrong one')")
    monkeypatch.chdir(tmp_path)
    for path in (dict(own.environment)["PYTHONPATH"], f"{tmp_path}{os.pathsep}{dict(own.environment)['PYTHONPATH']}"):
        settings = Settings((("PYTHONPATH", path),), modules=())
        ours, folders = call_with(calls.which_tasks, settings=settings)
        assert ours == ROOT / "tasks" / "__init__.py" and "" not in folders
        isolate.shutdown(settings)


def test_a_child_may_call(own: Settings) -> None:
    assert call_with(calls.nested_call, settings=own) == 42


def open_files(pid: int | str = "self") -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_no_descriptor_is_left_behind(own: Settings) -> None:
    call_with(calls.nothing, settings=own)
    before = open_files()
    for _ in range(20):
        call_with(calls.nothing, settings=own)
    assert open_files() <= before + 1
    server, _ = call_with(calls.pids, settings=own)
    assert until(lambda: open_files(server) < 20)
    for _ in range(3):
        server, _ = call_with(calls.pids, settings=own)
        os.kill(server, signal.SIGKILL)
        assert all_gone([server])
    call_with(calls.nothing, settings=own)
    assert open_files() <= before + 1


def test_a_server_keeps_no_zombies(own: Settings) -> None:
    server, _ = call_with(calls.pids, settings=own)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: call_with(calls.nothing, settings=own), range(24)))
    assert until(lambda: not children(server))


def test_a_child_whose_server_died_before_it_could_ask_to_die_with_it_ends() -> None:
    """The child of a fork asks the kernel to be ended with its parent; it must look whether it was too late."""
    from tasks.isolate import child

    ours, theirs = socket.socketpair()

    def orphan() -> None:
        signal.alarm(5)  # instead of waiting for what never comes
        log = os.open(os.devnull, os.O_WRONLY)
        child.run(theirs, log, server=os.getppid() + 1, scratch="")

    assert exit_of(fork(orphan)) == 0
    theirs.close()
    assert ours.recv(100) == b"", "it said nothing and did nothing"
    ours.close()
