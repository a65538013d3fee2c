"""The life cycle of versions, on real directories and with fake models."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from tasks.serving.embedded.errors import Code, ServingError
from tasks.serving.embedded.versions.aspired import AllVersions, ServedModel, VersionPolicy
from tasks.serving.embedded.versions.manager import Manager
from tasks.serving.embedded.versions.retry import Loading
from tasks.serving.embedded.versions.servable import Servable
from tasks.serving.embedded.versions.state import State

_SECONDS = 5.0


class Loads:
    """Loads any directory, unless it holds a file named `broken`; remembers what it loaded and what was closed."""

    def __init__(self) -> None:
        self.tried: list[int] = []
        self.closed: list[int] = []

    def __call__(self, name: str, version: int, path: Path) -> Servable:
        self.tried.append(version)
        if (path / "broken").exists():
            raise ServingError(Code.DATA_LOSS, f"{name} {version} is broken")
        return cast(Servable, _Closable(version, self.closed))


class _Closable:
    def __init__(self, version: int, closed: list[int]) -> None:
        self.version, self.closed = version, closed

    def close(self) -> None:
        self.closed.append(self.version)


@contextmanager
def managing(
    base: Path, loads: Loads, *, policy: VersionPolicy | None = None, retries: int = 0, retry_seconds: float = 0.02
) -> Iterator[Manager]:
    manager = Manager(Loading(loads, retries, retry_seconds), poll_seconds=0.02)
    manager.start()
    manager.serve([ServedModel("m", base, policy) if policy else ServedModel("m", base)])
    try:
        yield manager
    finally:
        manager.stop()


def states(manager: Manager) -> dict[int, State]:
    try:
        return {status.version: status.state for status in manager.statuses("m", None)}
    except ServingError:
        return {}


def until(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + _SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_an_unwanted_version_is_closed_only_after_its_last_request(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    loads = Loads()
    with managing(tmp_path, loads) as manager:
        until(lambda: states(manager) == {1: State.AVAILABLE})
        with manager.acquire("m", None) as (_, version):
            assert version == 1
            (tmp_path / "2").mkdir()
            until(lambda: states(manager) == {2: State.AVAILABLE, 1: State.UNLOADING})
            time.sleep(0.05)
            assert loads.closed == []
        until(lambda: states(manager) == {2: State.AVAILABLE, 1: State.END})
        assert loads.closed == [1]


def test_a_failed_version_is_tried_again_only_after_its_directory_was_away(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    loads = Loads()
    with managing(tmp_path, loads, retries=2) as manager:
        until(lambda: states(manager) == {1: State.AVAILABLE})
        (tmp_path / "staging").mkdir()
        (tmp_path / "staging" / "broken").touch()
        (tmp_path / "staging").rename(tmp_path / "2")
        until(lambda: states(manager) == {2: State.END, 1: State.AVAILABLE})
        (status,) = manager.statuses("m", 2)
        assert str(status.error) == "DATA_LOSS: m 2 is broken"
        (tmp_path / "2" / "broken").unlink()  # mended in place: too late
        time.sleep(0.1)
        assert loads.tried == [1, 2, 2, 2]

        (tmp_path / "2").rename(tmp_path / "away")
        until(lambda: 2 not in manager.aspired["m"])
        (tmp_path / "away").rename(tmp_path / "2")
        until(lambda: states(manager) == {2: State.AVAILABLE, 1: State.END})
        assert loads.tried == [1, 2, 2, 2, 2]


def test_taking_a_broken_version_away_ends_its_retries(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "broken").touch()
    loads = Loads()
    with managing(tmp_path, loads, retries=5, retry_seconds=60) as manager:
        until(lambda: loads.tried)
        assert states(manager) == {1: State.LOADING}
        assert [status.error for status in manager.statuses("m", 1)] == [None], "none before the last retry"
        shutil.rmtree(tmp_path / "1")
        until(lambda: states(manager) == {1: State.END})
        (tmp_path / "2").mkdir()
        until(lambda: states(manager) == {2: State.AVAILABLE, 1: State.END})
        assert loads.tried == [1, 2]


def test_a_vanished_base_path_unloads_nothing_and_an_emptied_one_everything(tmp_path: Path) -> None:
    base = tmp_path / "base"
    for version in ("1", "2"):
        (base / version).mkdir(parents=True)
    with managing(base, Loads(), policy=AllVersions()) as manager:
        both = {2: State.AVAILABLE, 1: State.AVAILABLE}
        until(lambda: states(manager) == both)
        base.rename(tmp_path / "elsewhere")
        time.sleep(0.1)
        assert states(manager) == both
        base.mkdir()
        until(lambda: states(manager) == {2: State.END, 1: State.END})
        with (
            pytest.raises(ServingError, match=r"Servable not found for request: Latest\(m\)"),
            manager.acquire("m", None),
        ):
            pass


def test_waiting_ends_when_one_version_serves_or_all_have_failed(tmp_path: Path) -> None:
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
    (tmp_path / "2" / "broken").touch()
    with managing(tmp_path, Loads(), policy=AllVersions()) as manager:
        manager.wait_until_available(["m"], given_up=lambda: False)
        assert states(manager) == {2: State.END, 1: State.AVAILABLE}
    with managing(tmp_path, Loads()) as manager, pytest.raises(ServingError) as refused:
        manager.wait_until_available(["m"], given_up=lambda: False)
    assert refused.value.message == (
        "1 servable(s) did not become available: {{{name: m version: 2} due to error: DATA_LOSS: m 2 is broken}, }"
    )


def test_waiting_for_an_empty_base_path_lasts_until_given_up(tmp_path: Path) -> None:
    given_up = threading.Event()
    with managing(tmp_path, Loads()) as manager:
        threading.Timer(0.2, given_up.set).start()
        manager.wait_until_available(["m"], given_up=given_up.is_set)
        assert given_up.is_set()
