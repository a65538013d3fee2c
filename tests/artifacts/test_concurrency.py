"""A key has one builder at a time, and the lock of a dead holder is free."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from tasks.artifacts.store import Recipe, Store
from tasks.step import Run, running, step, together
from tests.artifacts.disk import exit_of, fork, tree, whole, writing
from tests.silent import Silent

RECIPE = Recipe(step="made", step_version=1, inputs={}, params={}, versions={}, key="0123")


@step(version=1)
def slow(builds: str, out: Path) -> None:
    """Leaves a line in the file `builds` for every time that it runs."""
    with Path(builds).open("a") as log:
        log.write(f"{os.getpid()}\n")
    time.sleep(1.0)
    (out / "file").write_bytes(b"file")


@step(version=1)
def meeting(place: str, name: int, out: Path) -> None:
    """Waits until four builds are in progress."""
    Path(f"{place}{name}").touch()
    while len(list(Path(place).parent.glob(f"{Path(place).name}?"))) < 4:
        time.sleep(0.02)


@pytest.fixture
def builds(tmp_path: Path) -> Path:
    """A file with a line for every build."""
    return tmp_path / "builds"


def test_two_processes_build_once(store: Store, builds: Path) -> None:
    def work() -> None:
        with running(Run("test", Store(store.root), Silent())):
            assert whole(slow(str(builds)).path)

    assert [exit_of(pid) for pid in [fork(work), fork(work)]] == [0, 0]
    assert len(builds.read_text().split()) == 1


def test_two_threads_build_once(run: Run, builds: Path) -> None:
    one, other = together(lambda: slow(str(builds)), lambda: slow(str(builds)))
    assert one == other
    assert len(builds.read_text().split()) == 1
    assert sorted(outcome.state for outcome in run.outcomes) == ["built", "cached"]


def test_different_keys_do_not_wait_for_each_other(run: Run, builds: Path) -> None:
    together(*(lambda name=name: meeting(str(builds), name) for name in range(4)))


def holding(store: Store, key: str, seconds: float) -> int:
    """A process that holds the key; returns when it does."""
    reading, writing = os.pipe()

    def hold() -> None:
        with store.lock("slow", key):
            os.write(writing, b"!")
            time.sleep(seconds)

    pid = fork(hold)
    os.read(reading, 1)
    os.close(reading)
    os.close(writing)
    return pid


def test_who_waits_is_told_so(run: Run, builds: Path) -> None:
    key = slow.recipe(str(builds))[0].key
    pid = holding(run.store, key, 2.0)
    slow(str(builds))
    assert exit_of(pid) == 0
    assert isinstance(run.observer, Silent)
    assert ("progress", ("slow", {"waiting": f"another process builds slow {key}"})) in run.observer.shown


def test_the_lock_of_a_killed_holder_is_free_at_once(store: Store) -> None:
    pid = holding(store, "0123", 60.0)
    waited: list[float] = []

    def wait() -> None:
        started = time.monotonic()
        with store.lock("slow", "0123"):
            waited.append(time.monotonic() - started)

    waiter = threading.Thread(target=wait)
    waiter.start()
    time.sleep(0.1)
    assert not waited
    os.kill(pid, signal.SIGKILL)
    waiter.join(20.0)
    exit_of(pid)
    assert waited and waited[0] < 10.0


@pytest.mark.parametrize("resumes", [False, True])
@pytest.mark.parametrize("theirs", [b"same", b"other"])
def test_losing_the_race_is_success(store: Store, tmp_path: Path, theirs: bytes, resumes: bool) -> None:
    """Another host, whose locks we do not see, commits while we build; its artifact stands and ours is dropped."""
    elsewhere = Store(tmp_path / "elsewhere").build(RECIPE, writing({"file": theirs}))

    def beaten(out: Path) -> None:
        (out / "file").write_bytes(b"same")
        shutil.copytree(elsewhere.path, store.place("made", "0123"))

    artifact = store.build(RECIPE, beaten, resumes=resumes)
    assert (artifact.path, artifact.digest) == (store.place("made", "0123"), elsewhere.digest)
    assert tree(artifact.path)["file"] == theirs
    assert not store.staging("made", "0123").exists() and not list((store.root / ".aside").iterdir())


def test_the_race_is_not_lost_to_something_damaged(store: Store, warnings: list[str]) -> None:
    def beaten(out: Path) -> None:
        (out / "file").write_bytes(b"ours")
        store.place("made", "0123").mkdir(parents=True)
        (store.place("made", "0123") / "half").write_bytes(b"theirs")

    artifact = store.build(RECIPE, beaten)
    assert tree(artifact.path)["file"] == b"ours" and whole(artifact.path)
    (aside,) = (store.root / ".aside").iterdir()
    assert tree(aside) == {"half": b"theirs"} and str(aside) in warnings[0]


def test_a_race_lost_at_the_last_moment_is_success(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename

    def beaten(source: Path, target: Path) -> None:
        if not target.exists():
            shutil.copytree(source, target)
        rename(source, target)

    monkeypatch.setattr(os, "rename", beaten)
    artifact = store.build(RECIPE, writing({"file": b"same"}))
    assert whole(artifact.path) and not store.staging("made", "0123").exists()


def test_everything_is_on_disk_before_it_is_given_its_name(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut after the rename finds every byte, every name and the artifact's own name."""
    written: list[str] = []
    fsync, rename = os.fsync, os.rename

    def syncing(descriptor: int) -> None:
        written.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    def renaming(source: Path, target: Path) -> None:
        written.append("renamed")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(os, "rename", renaming)
    store.build(RECIPE, writing({"in/file": b""}))
    before, after = written[: written.index("renamed")], written[written.index("renamed") :]
    staging = store.staging("made", "0123")
    for path in (staging, staging / "in", staging / "in" / "file", staging / "manifest.json", store.root):
        assert str(path) in before, path
    assert before.index(str(staging / "manifest.json")) < before.index(str(staging))
    assert after[1:] == [str(store.root / "made")]


def test_two_threads_may_check_the_same_artifact(store: Store) -> None:
    artifact = store.build(RECIPE, writing({"file": b"file"}))
    checks = [lambda: [store.verify(artifact.path, full=True) for _ in range(100)]] * 4
    assert together(*checks) == [[artifact] * 100] * 4
    opened = together(*[lambda: [Store(store.root) for _ in range(50)]] * 4)
    assert len(opened) == 4
