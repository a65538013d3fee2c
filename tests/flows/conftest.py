"""What the tests of the flow share: a store in which `half_plus_two` is built, and a Prefect server."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.flows.cli.process import QUICK, Shell, tfship
from tests.flows.prefect_api import PrefectApi, started


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own to run in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which half_plus_two was run to its end with the default paths. Leave it as it is."""
    place = tmp_path_factory.mktemp("shipped")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        answer = tfship("run", *QUICK)
    assert answer.code == 0, answer.err
    return place


@pytest.fixture
def copied(shipped: Path, folder: Path) -> Path:
    """The same in the test's own folder: moved, and nothing need be built."""
    shutil.copytree(shipped / ".tfship", folder / ".tfship")
    return folder


@pytest.fixture
def shell(folder: Path) -> Iterator[Callable[..., Shell]]:
    """Start a process in the test's folder; what is left of it at the end is ended."""
    running: list[Shell] = []

    def start(*arguments: str | Path, **options: Any) -> Shell:
        running.append(Shell(*arguments, cwd=folder, **options))
        return running[-1]

    yield start
    for process in running:
        process.end()


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectApi]:
    """A Prefect server with a database of its own."""
    with started(tmp_path_factory.mktemp("prefect")) as api:
        yield api
