"""Model options on the command line: missing files, options that do not apply, tensors that do not exist."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tasks import isolate
from tests.flows.cli.process import Answer, tfship
from tests.makers import cli_models, compared_models


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forms")
    isolate.call(compared_models.written, folder)
    isolate.call(cli_models.keras_files, folder)
    (folder / "alone").mkdir()
    for path in folder.glob("model.ckpt.*"):
        if path.suffix != ".meta":
            shutil.copyfile(path, folder / "alone" / path.name)
    np.savez(folder / "rows.npz", x=np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32))
    (folder / "map.yaml").write_text("a: b\n")
    return folder


def predicted(forms: Path, model: str, *options: str | Path) -> Answer:
    return tfship("predict", forms / model, "--inputs", forms / "rows.npz", *options)


FILES = [
    *((("run",), option) for option in ("--graph", "--var-map", "--probe", "--evaluate")),
    *((("plan",), option) for option in ("--graph", "--evaluate")),
    *((("verify",), option) for option in ("--graph", "--var-map", "--probe")),
    *((("predict", "--inputs", "rows.npz"), option) for option in ("--graph", "--var-map")),
    (("inspect",), "--graph"),
    (("train", "--from", "model.ckpt"), "--batches"),
]


MISSING = [(*one, "nowhere") for one in FILES]
MISSING += [(*one, "folder") for one in FILES if one[1] != "--graph"]  # a SavedModel's folder is a graph


@pytest.mark.parametrize(("command", "option", "path"), MISSING, ids=lambda value: "".join(value))
def test_a_file_that_is_not_there_is_named_by_its_option(
    forms: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], option: str, path: str
) -> None:
    monkeypatch.chdir(forms)
    (folder / "folder").mkdir()
    name, *more = command
    models = [] if name == "train" else ["model.ckpt", "frozen.pb"] if name == "verify" else ["model.ckpt"]
    answer = tfship(name, *models, *more, option, folder / path)
    assert (answer.code, answer.out) == (2, ""), answer
    assert answer.err.startswith(f"tfship: {option} {folder / path}: expected a file, found ")
    assert not (forms / ".tfship").exists(), "nothing was started"


def test_a_file_that_only_the_configuration_names_is_missed_as_well(forms: Path, folder: Path) -> None:
    (folder / "tfship.yaml").write_text("probe: {file: nowhere.npz}\n")
    answer = tfship("run", forms / "model.ckpt", "--config", "tfship.yaml")
    assert answer.code == 2 and answer.err.startswith("tfship: --probe nowhere.npz: expected a file, found nothing")


USELESS = {
    "the graph of a graph": ("frozen.pb", "--graph", "frozen.pb"),
    "the graph of a SavedModel": ("saved_model", "--graph", "frozen.pb"),
    "the graph of a Keras model": ("model.keras", "--graph", "frozen.pb"),
    "a name map without keys": ("frozen.pb", "--var-map", "map.yaml"),
    "a name map of a Keras model": ("model.keras", "--var-map", "map.yaml"),
    "the code of a graph": ("frozen.pb", "--model", "half_plus_two"),
    "the code of a SavedModel": ("saved_model", "--model", "half_plus_two"),
    "tags of a checkpoint": ("model.ckpt", "--tags", "serve"),
    "tags of a graph": ("frozen.pb", "--tags", "serve"),
    "tags of a Keras model": ("model.keras", "--tags", "serve"),
}


@pytest.mark.parametrize(("model", "option", "value"), USELESS.values(), ids=USELESS.keys())
def test_an_option_that_the_form_has_no_use_for_is_refused(
    forms: Path, monkeypatch: pytest.MonkeyPatch, model: str, option: str, value: str
) -> None:
    monkeypatch.chdir(forms)
    answer = predicted(forms, model, option, value)
    assert (answer.code, answer.out) == (2, ""), answer
    assert answer.err.startswith(f"tfship: {option}") and f"leave {option} out" in answer.err


def test_code_of_a_graph_is_none_of_a_keras_archive(forms: Path) -> None:
    answer = predicted(forms, "model.keras", "--model", "half_plus_two")
    assert (answer.code, answer.out) == (2, ""), answer
    assert "expected a build() that returns Objects" in answer.err


def test_graph_and_code_for_one_checkpoint_are_one_too_many(forms: Path) -> None:
    answer = predicted(forms, "alone/model.ckpt", "--graph", forms / "frozen.pb", "--model", "half_plus_two")
    assert answer.code == 2 and "--model, which builds the graph" in answer.err


def test_tags_are_for_those_that_are_compared_and_have_some(forms: Path) -> None:
    both = (forms / "model.ckpt", forms / "saved_model", *compared_models.OPTIONS)
    assert tfship("verify", *both, "--tags", "serve").code == 0
    answer = tfship("verify", *both, "--tags", "other")
    assert answer.code == 2 and "--tags" in answer.err
    answer = tfship("verify", forms / "model.ckpt", forms / "frozen.pb", *compared_models.OPTIONS, "--tags", "serve")
    assert answer.code == 2 and "--tags serve does not apply to" in answer.err


@pytest.mark.parametrize("option", [("--input", "x"), ("--pin", "k=1"), ("--tags", "serve"), ("--signature", "key")])
def test_code_is_told_nothing_that_only_a_saved_model_can_use(folder: Path, option: tuple[str, str]) -> None:
    for command in ("run", "plan"):
        answer = tfship(command, "half_plus_two", *option)
        assert answer.code == 2 and f"half_plus_two, which is code.\nRemedy: leave {option[0]} out" in answer.err
    assert not (folder / ".tfship").exists()


def test_code_beside_a_checkpoint_that_is_trained_on_belongs_first(forms: Path) -> None:
    answer = tfship("train", "--from", forms / "model.ckpt", "--model", "half_plus_two", "--steps", "9")
    assert answer.code == 2 and "tfship train half_plus_two --from" in answer.err


def test_a_meta_beside_its_data_is_a_graph_all_the_same(forms: Path) -> None:
    own = predicted(forms, "model.ckpt", *compared_models.OPTIONS)
    lent = predicted(forms, "alone/model.ckpt", "--graph", forms / "model.ckpt.meta", *compared_models.OPTIONS)
    assert own.code == 0 and (lent.code, lent.out) == (0, own.out)
    answer = predicted(forms, "alone/model.ckpt", "--graph", forms / "model.keras", *compared_models.OPTIONS)
    assert answer.code == 2 and "--graph" in answer.err


def test_a_variable_itself_is_no_input(forms: Path) -> None:
    answer = predicted(forms, "model.ckpt", "--input", "x", "--input", "dense/kernel", "--output", "logits")
    assert answer.code == 2 and "--input dense/kernel: expected a tensor" in answer.err
    assert "name what reads it: dense/kernel/read:0" in answer.err


def test_labels_are_never_joined_into_an_input_of_any_width(folder: Path) -> None:
    isolate.call(cli_models.any_width, folder / "sums.pb")
    sums = ("predict", "sums.pb", "--input", "x", "--output", "y", "--inputs", "rows.csv")
    (folder / "rows.csv").write_text("a,b,label\n1,2,7\n3,4,8\n")
    answer = tfship(*sums)
    assert answer.code == 2 and answer.out == "" and "'label' among them" in answer.err
    (folder / "rows.csv").write_text("x.0,x.1,label\n1,2,7\n3,4,8\n")
    assert tfship(*sums).document["outputs"]["y"] == [3.0, 7.0]
    (folder / "rows.csv").write_text("a,b,label\n1,2,spam\n3,4,ham\n")
    assert tfship(*sums).document["outputs"]["y"] == [3.0, 7.0], "text is no number, and is left out"
