"""The values of a form are the same whether they are read whole, in pieces, or many at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks import isolate
from tests.makers import large_tensors


def test_pieces_have_the_facts_of_the_whole() -> None:
    assert isolate.call(large_tensors.differing) == []


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    isolate.call(large_tensors.save, folder)
    return folder


@pytest.mark.parametrize("small", [False, True], ids=["whole", "pieces"])
@pytest.mark.parametrize("loader", ["loaded_v1", "loaded_v2"])
def test_either_loader_gives_the_same(saved: Path, loader: str, small: bool) -> None:
    assert isolate.call(large_tensors.loaded_otherwise, saved, loader, small) == []


def test_many_small_variables_are_read_at_once() -> None:
    assert isolate.call(large_tensors.runs_for, 1100) == 2
