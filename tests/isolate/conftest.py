"""Fork servers of two kinds: the session's, with TensorFlow, and light ones that a test may kill."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks import isolate
from tasks.isolate import Settings
from tasks.isolate.server import PRELOADED

ROOT = Path(__file__).resolve().parents[2]
MakeSettings = Callable[..., Settings]


@pytest.fixture(scope="session")
def light(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a server that finds empty modules in TensorFlow's place: all of the machinery, none of the wait."""
    return _settings(tmp_path_factory.mktemp("light"), "")


@pytest.fixture
def finding(tmp_path: Path) -> Iterator[MakeSettings]:
    """`finding(program)`: settings of a server that runs that program when it imports TensorFlow, and ends with the test."""
    made = []

    def settings(program: str) -> Settings:
        made.append(_settings(tmp_path / "modules", program))
        return made[-1]

    yield settings
    for one in made:
        isolate.shutdown(one)


def _settings(folder: Path, tensorflow: str) -> Settings:
    for module in PRELOADED:
        *packages, name = module.split(".")
        for depth in range(len(packages) + 1):
            parent = folder.joinpath(*packages[:depth])
            parent.mkdir(parents=True, exist_ok=True)
            if depth:
                (parent / "__init__.py").touch()
        folder.joinpath(*packages, f"{name}.py").touch()
    (folder / "tensorflow.py").write_text(tensorflow)
    return Settings((("PYTHONPATH", f"{folder}{os.pathsep}{ROOT}"),), modules=())
