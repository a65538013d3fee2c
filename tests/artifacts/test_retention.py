"""An artifact that a process reads, builds or has just used is not deleted; what is deleted is rebuilt by who needs it."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.artifacts.leftovers import leftovers, remove
from tasks.artifacts.manifest import Manifest
from tasks.artifacts.retention import chains, is_held, listed
from tasks.artifacts.store import Artifact, Store, remove_tree
from tasks.step import Run, running, step
from tests.artifacts.disk import exit_of, failed_at, fork, killed_at, tree, whole, writable
from tests.makers.leftovers import DAY
from tests.makers.released import SIZE, artifact, chain
from tests.silent import Silent

FEWEST_MOMENTS = 10


@step(version=1)
def made(content: str, out: Path) -> None:
    (out / "file").write_text(content)


def never() -> bool:
    return False


def deleted(store: Store, one: Artifact) -> int | None:
    return Store(store.root).delete(one, never)


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder on a disk without latency, where there is one: there are many kills to come."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="tfship-test-", dir=memory if memory.is_dir() else None))
    yield folder
    remove_tree(folder)


def test_what_is_deleted_frees_its_bytes_and_is_built_again(run: Run, store: Store) -> None:
    one = made("x" * SIZE)
    store.close()
    size = (one.path / "manifest.json").stat().st_size
    assert deleted(store, one) == SIZE + size
    assert not one.path.exists() and not list((store.root / ".aside").iterdir())
    assert deleted(store, one) is None, "it is gone"
    assert made("x" * SIZE).digest == one.digest and whole(one.path)
    assert [outcome.state for outcome in run.outcomes] == ["built", "built"]


@pytest.mark.parametrize("state", ["built", "cached"])
def test_what_a_run_has_taken_stays_until_the_run_ends(store: Store, state: str) -> None:
    """However old it is, in another process, and also where that is killed."""
    with running(Run("before", store, Silent())):
        one = made("x")
    store.close()
    if state == "built":
        assert deleted(store, one)
    reading, writing = os.pipe()

    def work() -> None:
        own = Store(store.root)
        with running(Run("test", own, Silent())) as run:
            assert made("x") == one and run.outcomes[-1].state == state
            os.write(writing, b"!")
            signal.pause()

    pid = fork(work)
    os.close(writing)
    assert os.read(reading, 1)
    os.close(reading)
    try:
        assert is_held(one.path) and deleted(store, one) is None
        assert whole(one.path)
    finally:
        os.kill(pid, signal.SIGKILL)
        exit_of(pid)
    assert not is_held(one.path) and deleted(store, one)


def test_what_is_built_or_wanted_now_or_was_replaced_stays(store: Store) -> None:
    one = artifact(store, "train", "a")
    with store.lock(one.step, one.key):
        assert deleted(store, one) is None
    assert store.delete(one, lambda: True) is None
    assert deleted(store, one.model_copy(update={"digest": "another"})) is None
    assert whole(one.path)


def test_what_was_deleted_just_now_cannot_be_held(store: Store) -> None:
    one, other = artifact(store, "train", "a"), artifact(store, "train", "b")
    assert deleted(store, one) and not store.hold(one)
    assert store.hold(other) and store.hold(other), "twice is once"
    store.close()
    assert deleted(store, other)


def test_a_killed_deletion_leaves_all_or_what_the_next_one_removes(root: Path) -> None:
    store = Store(root / "store")
    ends = set()
    for moment in range(10_000):
        one = artifact(store, "train", "a")
        if not killed_at(moment, lambda one=one: deleted(store, one)):  # type: ignore[misc]
            break
        there = one.path.exists()
        assert not there or whole(one.path), moment
        for leftover in leftovers(store.root, DAY, time.time()):
            if leftover.path.parent.name == ".aside":
                assert leftover.kind == "deleted" and remove(store, leftover)
        assert not list((store.root / ".aside").iterdir())
        assert store.artifacts("train") == [one] * there
        ends.add(there)
    assert moment >= FEWEST_MOMENTS and ends == {True, False}


def test_a_disk_that_refuses_any_operation_leaves_a_whole_artifact_or_none(root: Path) -> None:
    store = Store(root / "store")
    for moment in range(10_000):
        one = artifact(store, "train", "a")
        code = failed_at(moment, lambda one=one: deleted(store, one))  # type: ignore[misc]
        if code is None:
            break
        assert code in (0, 4), moment
        assert not one.path.exists() or whole(one.path)
    assert moment >= FEWEST_MOMENTS // 2


def test_only_whole_artifacts_in_their_places_are_listed(store: Store, tmp_path: Path) -> None:
    one = artifact(store, "train", "a")
    edited = artifact(store, "train", "b").path / "manifest.json"
    with writable(edited):
        edited.write_text(edited.read_text().replace('"train"', '"other"'))
    shutil.copytree(one.path, store.root / "train" / "elsewhere")
    (store.root / "train" / "linked").symlink_to(one.path)
    (store.root / "notes").mkdir()
    (store.root / "notes" / "mine").touch()
    before = tree(tmp_path)
    assert [artifact for artifact, _, _ in listed(store.root)] == [one]
    assert not is_held(one.path) and not is_held(tmp_path / "nothing")
    assert tree(tmp_path) == before and list(listed(tmp_path / "nothing")) == []


def test_a_chain_is_all_that_it_was_made_from(store: Store) -> None:
    mine, other = chain(store, "a"), chain(store, "b")
    manifests = [manifest for _, manifest, _ in listed(store.root)]
    needed = chains({mine["smoke_test"].digest: ["a version"], other["checkpoint"].digest: ["a run"]}, manifests)
    assert needed == {one.digest: {"a version"} for one in mine.values()} | {
        other[step].digest: {"a run"} for step in ("train", "checkpoint")
    }


@given(st.lists(st.lists(st.integers(0, 9), max_size=3), min_size=10, max_size=10), st.sets(st.integers(0, 9)))
def test_every_input_of_what_is_needed_is_needed_also_in_a_circle(inputs: list[list[int]], roots: set[int]) -> None:
    manifests = [
        Manifest.model_construct(digest=str(at), inputs={str(role): str(one) for role, one in enumerate(some)})
        for at, some in enumerate(inputs)
    ]
    needed = {int(one) for one in chains({str(root): ["asked"] for root in roots}, manifests)}
    assert roots <= needed and all({*inputs[one]} <= needed for one in needed)
    reachable = set(roots)
    while more := {two for one in reachable for two in inputs[one]} - reachable:
        reachable |= more
    assert needed == reachable
