"""`gc` removes what killed runs left and what was set aside, if it is old enough, and nothing else."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tasks.artifacts.leftovers import Leftover, leftovers, remove
from tasks.artifacts.store import Recipe, Store
from tests.makers.leftovers import DAY, aged, unfinished


def recipe(key: str) -> Recipe:
    return Recipe(step="train", step_version=1, inputs={}, params={}, versions={}, key=key)


def build(out: Path) -> None:
    (out / "model").write_text("a model")


def found(store: Store, days: float = 7) -> list[Leftover]:
    return list(leftovers(store.root, days * DAY, time.time()))


def test_a_store_in_order_has_none(store: Store) -> None:
    built = store.build(recipe("k"), build)
    aged(store.root, 100)
    assert found(store, 0) == []
    assert store.find("train", "k") == built


def test_what_a_killed_build_left_goes_when_it_is_old_enough(store: Store) -> None:
    old, young = unfinished(store, "old", 8), unfinished(store, "young", 6)
    (leftover,) = found(store)
    assert (leftover.path, leftover.kind, leftover.size >= 1000) == (old, "unfinished", True)
    assert leftover.age == pytest.approx(8 * DAY, abs=60)
    assert remove(store, leftover)
    assert not old.exists()
    assert young.exists()


def test_one_file_written_lately_keeps_the_whole(store: Store) -> None:
    staging = unfinished(store, "training", 30)
    os.utime(staging / "checkpoints" / "bundle")
    assert found(store) == []


def test_what_a_live_process_builds_is_left_to_it(store: Store) -> None:
    staging = unfinished(store, "k", 30)
    (leftover,) = found(store)
    with store.lock("train", "k"):
        assert not remove(store, leftover)
        assert (staging / "checkpoints" / "bundle").exists()
    assert remove(store, leftover)


def test_a_temporary_folder_beside_the_keys_goes_too(store: Store) -> None:
    scratch = store.root / ".staging" / "export" / "tmpabc"
    scratch.mkdir(parents=True)
    aged(scratch, 8)
    (leftover,) = found(store)
    assert remove(store, leftover)
    assert not scratch.exists()
    assert not list((store.root / ".locks").iterdir()), "no lock is made for what never had one"


def test_the_age_of_what_was_set_aside_is_since_then(store: Store) -> None:
    store.build(recipe("k"), build)
    aged(store.place("train", "k"), 100)
    aside = store.set_aside(store.place("train", "k"))
    assert found(store) == [], "it was set aside just now"
    assert [one.path for one in leftovers(store.root, 7 * DAY, time.time() + 8 * DAY)] == [aside]
    (leftover,) = found(store, -1)
    assert leftover.kind == "set aside"
    assert remove(store, leftover)
    assert not aside.exists()


def test_files_that_artifacts_share_are_neither_counted_nor_lost(store: Store, tmp_path: Path) -> None:
    staging = unfinished(store, "k", 30)
    (alone,) = found(store)
    kept = tmp_path / "kept"
    os.link(staging / "checkpoints" / "bundle", kept)
    (leftover,) = found(store)
    assert leftover.size == alone.size - 1000
    assert remove(store, leftover)
    assert kept.read_bytes() == b"x" * 1000


def test_a_link_goes_and_what_it_leads_to_stays(store: Store, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").touch()
    link = store.root / ".aside" / "train-k-1000000000000000000"
    link.symlink_to(tmp_path / "elsewhere")
    (leftover,) = found(store)
    assert remove(store, leftover)
    assert not link.is_symlink()
    assert (tmp_path / "elsewhere" / "file").exists()


def test_scratch_files_of_killed_processes_go_and_side_files_stay(store: Store) -> None:
    store.build(recipe("k"), build)
    scratch = store.root / ".verified" / "train-k.12-345"
    scratch.touch()
    aged(store.root / ".verified", 8)
    assert [one.path for one in found(store)] == [scratch]
