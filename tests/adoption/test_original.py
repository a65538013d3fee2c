"""A source model's graph is the one that TensorFlow's loader takes, and reading it runs nothing of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks import isolate
from tasks.adoption import source_graph
from tasks.errors import DamagedError, UsageError
from tasks.forms.detect import detect
from tasks.records.adoption import ModelOptions
from tests.makers import originals as made


@pytest.mark.parametrize("sets", [[["serve"], ["serve"]], [["serve", "serve"], ["serve"]], [["a", "b"], ["b", "a"]]])
def test_two_graphs_of_one_set_of_tags_are_damage(tmp_path: Path, sets: list[list[str]]) -> None:
    isolate.call(made.of_tags, sets, tmp_path / "model")
    with pytest.raises(DamagedError, match=f"two of {','.join(sorted(set(sets[0])))}"):
        isolate.call(made.factor, tmp_path / "model", ModelOptions())
    with pytest.raises(DamagedError):
        isolate.call(made.signature_keys, tmp_path / "model")


def test_a_graph_is_chosen_by_its_set_of_tags(tmp_path: Path) -> None:
    isolate.call(made.of_tags, [["serve", "gpu"], ["serve"]], tmp_path / "model")
    assert isolate.call(made.factor, tmp_path / "model", ModelOptions()) == 2.0
    assert isolate.call(made.factor, tmp_path / "model", ModelOptions(tags=("gpu", "serve"))) == 1.0
    assert isolate.call(made.signature_keys, tmp_path / "model") == ["serving_default"]
    with pytest.raises(UsageError, match="--tags"):
        isolate.call(made.factor, tmp_path / "model", ModelOptions(tags=("tpu",)))


def test_a_saved_model_is_read_in_the_form_that_its_name_says_as_loaders_do(tmp_path: Path) -> None:
    for name in ("saved_model.pbtxt", "saved_model.pb"):
        isolate.call(made.of_tags, [["serve"]], tmp_path / name)
        isolate.call(made.as_text, tmp_path / name, name)
    assert isolate.call(made.factor, tmp_path / "saved_model.pbtxt", ModelOptions()) == 1.0
    with pytest.raises(DamagedError, match="a complete SavedModel"):
        isolate.call(source_graph.graph, detect(tmp_path / "saved_model.pb"), ModelOptions())


@pytest.mark.parametrize("form", ["graph.pb", "model"])
@pytest.mark.parametrize("kind", made.READS)
def test_importing_a_graph_reads_no_file_and_leaves_it_as_able(tmp_path: Path, kind: str, form: str) -> None:
    isolate.call(made.reading, kind, tmp_path / "seven", tmp_path / form)
    assert isolate.call(made.imported, tmp_path / form, untouched=True) == ([7], [7]), "TensorFlow folds no more?"
    assert isolate.call(made.imported, tmp_path / form, untouched=False) == ([None], [7])
