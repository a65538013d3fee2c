"""Fixtures for tests of the flow: a finished run of `half_plus_two`, processes that are ended, and a Prefect server."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeOnce
from tests.flows.cli.process import QUICK, Shell, tfship
from tests.flows.prefect_api import PrefectApi, make_database, started


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def shipped(made_once: MakeOnce) -> Path:
    """A folder in which half_plus_two was run to its end with the default paths. Read only."""

    def ship(place: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(place)
            answer = tfship("run", *QUICK)
        assert answer.code == 0, answer.err

    return made_once("shipped", ship)


@pytest.fixture
def copied(shipped: Path, folder: Path) -> Path:
    """A copy of it in the test's own folder: a moved store, with nothing left to build."""
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
def prefect_home(made_once: MakeOnce) -> Path:
    """A PREFECT_HOME whose database has its tables, which take longer to create than a server to start. Copy it."""
    return made_once("prefect", make_database)


@pytest.fixture(scope="session")
def prefect_api(prefect_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectApi]:
    """A Prefect server with a database of its own."""
    home = tmp_path_factory.mktemp("prefect") / "home"
    shutil.copytree(prefect_home, home)
    with started(home) as api:
        yield api
