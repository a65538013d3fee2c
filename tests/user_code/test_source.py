"""A model's key covers everything that could change it; a model without a key is trained again each time."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tasks.errors import PipelineError, UsageError
from tasks.records.settings import SaverPolicy, Training
from tasks.step import Run
from tasks.train import train
from tasks.user_code import source as sources
from tasks.user_code.source import ModelSource

HALF = (
    "import numpy as np\nfrom tasks.examples.half_plus_two import HalfPlusTwo\n{more}\n\n"
    "class Mine(HalfPlusTwo):\n    hyperparameters = {{'steps': 0}}\n"
)


def written(folder: Path, more: str = "DATA = ()") -> ModelSource:
    folder.mkdir(exist_ok=True)
    (folder / "mine.py").write_text(HALF.format(more=more))
    return sources.resolve("mine:Mine", folder)


@pytest.mark.parametrize(
    ("imported", "file"),
    [
        ("import beside", "beside.py"),
        ("from package import part", "package/part.py"),
        ("from package import part", "package/__init__.py"),
        ("import package", "package/__init__.py"),
    ],
)
def test_an_edited_import_is_another_model(tmp_path: Path, imported: str, file: str) -> None:
    (tmp_path / "package").mkdir()
    for name in ("beside.py", "package/__init__.py", "package/part.py", "package.py"):
        (tmp_path / name).write_text("x = 1\n")
    model = written(tmp_path, f"{imported}\nDATA = ()")
    before = sources.digests(model)
    assert before[1]
    (tmp_path / file).write_text("x = 2\n")
    assert sources.digests(model) != before


def test_an_import_that_the_path_leads_to_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "shared.py").write_text("x = 1\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "lib")])
    model = written(tmp_path / "project", "import shared\nDATA = ()")
    before = sources.digests(model)
    (tmp_path / "lib" / "shared.py").write_text("x = 2\n")
    assert sources.digests(model) != before


@pytest.mark.parametrize("call", ["importlib.import_module('x')", "exec('x = 1')", "__import__('x')"])
def test_what_a_text_does_not_name_makes_it_undigestible(tmp_path: Path, call: str) -> None:
    model = written(tmp_path, f"import importlib\nDATA = ()\ndef late():\n    {call}\n")
    assert not sources.digests(model)[1]


def test_two_data_files_of_one_name_are_two(tmp_path: Path) -> None:
    model = written(tmp_path)
    files = [tmp_path / "a" / "train.csv", tmp_path / "b" / "train.csv"]
    for file in files:
        file.parent.mkdir()
        file.write_text("1")
    before = sources.digests(model, files)
    for file in files:
        file.write_text("2")
        assert sources.digests(model, files) != before
        file.write_text("1")
        assert sources.digests(model, files) == before


@pytest.mark.parametrize("declared", ["DATA = ('a',)\nDATA += ('b',)", "DATA = tuple('ab')", "DATA = 'a.csv'"])
def test_data_that_cannot_be_read_off_the_text_is_an_error(tmp_path: Path, declared: str) -> None:
    with pytest.raises(UsageError, match="DATA"):
        sources.digests(written(tmp_path, declared))


def test_a_moved_project_is_the_same_project(tmp_path: Path, run: Run) -> None:
    model = written(tmp_path / "here")
    key = train.recipe(model, Training())[0].key
    (tmp_path / "here").rename(tmp_path / "there")
    moved = sources.resolve("mine:Mine", tmp_path / "there")
    assert train.recipe(moved, Training())[0].key == key


def test_an_edit_while_it_trains_is_not_kept_under_the_old_key(tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "project"
    model = written(folder)
    real = train.builder

    def edited(source: ModelSource, training: Training, out: Path) -> None:
        real(source, training, out=out)
        (folder / "mine.py").write_text(HALF.format(more="DATA = ()\nEDITED = True"))

    train.builder = edited
    try:
        with pytest.raises(PipelineError, match="a change while it ran"):
            train(model, Training())
    finally:
        train.builder = real
    assert run.store.artifacts("train") == []


def test_what_cannot_be_digested_is_never_gone_on_with(tmp_path: Path, run: Run) -> None:
    model = written(tmp_path, "")
    recipe, digestible = train.recipe(model, Training(saver=SaverPolicy()))
    assert not digestible
    staging = run.store.staging("train", recipe.key)
    staging.mkdir(parents=True)
    (staging / "left over").write_text("from other data")
    made = train(model, Training(saver=SaverPolicy()))
    assert not (made.path / "left over").exists()
