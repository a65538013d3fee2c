"""Lookup tables are filled from the model's own files and from no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks import isolate
from tasks.errors import DamagedError, UsageError
from tests.makers import lookup_tables as made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("words.txt", "a/words.txt", "b/words.txt"):
        place = tmp_path / "model" / "assets" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(name)
    (tmp_path / "model" / "secret.txt").write_text("secret")
    return tmp_path / "model"


def test_an_asset_is_followed_through_functions_branches_and_variables(folder: Path) -> None:
    answers = isolate.call(made.judged, [(kind, "asset") for kind in made.HONEST], folder)
    assert answers == {f"{kind}, asset": ("", "") for kind in made.HONEST}


def test_any_other_file_is_refused_however_its_name_comes_there(folder: Path) -> None:
    kinds = [(kind, "secret") for kind in made.HONEST]
    others = ("inside", "two callers", "made of it", "assigned twice", "given away", "shared")
    kinds += [(kind, "asset") for kind in others]
    for kind, (loading, _) in isolate.call(made.judged, kinds, folder).items():
        assert loading.startswith("UnsafeGraph: model: "), kind
        assert "InitializeTableFromTextFileV2" in loading and "reads a file of this machine" in loading, kind


def test_outputs_that_fill_a_table_themselves_are_refused(folder: Path) -> None:
    (answer,) = isolate.call(made.judged, [("in the outputs", "asset")], folder).values()
    assert answer[1].startswith("UnsafeGraph") and "which y:0 would run" in answer[1]


def test_declared_assets_go_by_their_whole_path(folder: Path) -> None:
    found = isolate.call(made.of_two, ("words.txt", "b/words.txt"), folder, declared=True)
    assert found == {"words.txt": "words.txt", "2-words.txt": "b/words.txt"}


@pytest.mark.parametrize("written", ["c/words.txt", "../secret.txt", "/etc/passwd", "a/../../secret.txt"])
def test_a_declared_asset_is_taken_from_nowhere_else(folder: Path, written: str) -> None:
    with pytest.raises(DamagedError, match="the file that fills a table"):
        isolate.call(made.of_two, ("words.txt", written), folder, declared=True)


def test_paths_of_another_machine_are_told_apart_by_their_folders(folder: Path) -> None:
    found = isolate.call(made.of_two, ("/home/her/a/words.txt", "C:\\data\\b\\words.txt"), folder, declared=False)
    assert found == {"words.txt": "a/words.txt", "2-words.txt": "b/words.txt"}


def test_one_file_is_never_two_vocabularies(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"/x/words\.txt and /y/words\.txt") as refused:
        isolate.call(made.of_two, ("/x/words.txt", "/y/words.txt"), folder, declared=False)
    assert "x/words.txt and y/words.txt" in refused.value.remedy


def test_a_group_in_the_collection_is_taken_apart_and_never_initialises_a_variable() -> None:
    operation, filling, again = isolate.call(made.grouped)
    assert (operation, filling) == ("tfship_tables", ["LookupTableImportV2"])
    assert again == "tfship_tables_"
