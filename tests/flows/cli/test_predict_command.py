"""`tfship predict` prints a model's answers to a file of inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import isolate
from tests.flows.cli.process import Answer, tfship
from tests.makers import compared_models


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forms")
    isolate.call(compared_models.every, folder)
    return folder


@pytest.fixture
def rows(folder: Path) -> Path:
    np.savez(folder / "rows.npz", x=np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32))
    return folder / "rows.npz"


def _document(answer: Answer) -> dict[str, Any]:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    assert answer.code == 0, answer.err
    found: dict[str, Any] = json.loads(answer.out, parse_constant=refuse)
    return found


def test_every_form_answers_the_same_document(forms: Path, rows: Path) -> None:
    answers = [
        tfship("predict", forms / form, "--inputs", rows, *compared_models.OPTIONS).out
        for form in ("model.ckpt", "frozen.pb", "saved_model")
    ]
    assert len(set(answers)) == 1
    document = json.loads(answers[0])
    assert document["signature_name"] == "serving_default"
    assert np.array(document["outputs"]["logits"]).shape == (5, 3)
    assert np.allclose(np.array(document["outputs"]["probs"]).sum(axis=1), 1.0)


def test_a_keras_archive_answers_by_its_own_names(forms: Path, rows: Path) -> None:
    document = _document(tfship("predict", forms / "model.keras", "--inputs", rows))
    assert np.array(document["outputs"]["out"]).shape == (5, 3)


def test_json_holds_strings_bytes_integers_and_what_is_not_finite(forms: Path, folder: Path) -> None:
    np.save(folder / "x.npy", np.array([0.0, -1.0, np.inf], np.float32))
    outputs = _document(tfship("predict", forms / "talk", "--inputs", "x.npy"))["outputs"]
    assert outputs["word"][:2] == ["0", "-1"]
    assert outputs["raw"] == [{"b64": "/wA="}] * 3 and outputs["text_bytes"] == [{"b64": "YQ=="}] * 3
    assert outputs["count"][:2] == [0, -1] and outputs["yes"] == [False, False, True]
    assert outputs["log"] == ["-Infinity", "NaN", "Infinity"] and outputs["inverse"] == ["Infinity", -1.0, 0.0]
    assert outputs["tenth"][:2] == [0.1, 0.1] and outputs["half"] == [0.0, -1.0, "Infinity"]


def test_an_npz_holds_the_arrays_bit_for_bit(forms: Path, rows: Path) -> None:
    answer = tfship("predict", forms / "frozen.pb", "--inputs", rows, "--out", "out.npz", *compared_models.OPTIONS)
    assert (answer.code, answer.out) == (0, "")
    document = _document(tfship("predict", forms / "frozen.pb", "--inputs", rows, *compared_models.OPTIONS))
    with np.load("out.npz") as held:
        assert set(held) == {"logits", "probs"} and held["logits"].dtype == np.float32
        assert (held["logits"] == np.array(document["outputs"]["logits"], np.float32)).all()
    assert not Path("out.npz.new").exists()


def test_only_the_signatures_that_there_are_inputs_for_answer(forms: Path, folder: Path) -> None:
    rows = np.ones((2, 2), np.float32)
    np.savez(folder / "one.npz", **{"extra/x": rows})  # type: ignore[arg-type]
    np.savez(folder / "any.npz", x=rows)
    one = _document(tfship("predict", forms / "both", "--inputs", "one.npz"))
    assert one == {"signature_name": "extra", "outputs": {"y": [[5.0], [5.0]], "z": [[5.0], [5.0]]}}
    every = _document(tfship("predict", forms / "both", "--inputs", "any.npz"))
    assert [answer["signature_name"] for answer in every["predictions"]] == ["extra", "serving_default"]
    chosen = tfship("predict", forms / "both", "--inputs", "any.npz", "--signature", "serving_default")
    assert _document(chosen) == {"signature_name": "serving_default", "outputs": {"y": [[5.0], [5.0]]}}
    assert tfship("predict", forms / "both", "--inputs", "any.npz", "--out", "both.npz").code == 0
    with np.load("both.npz") as held:
        assert set(held) == {"serving_default/y", "extra/y", "extra/z"}


def test_a_fixed_batch_answers_every_row(forms: Path, rows: Path) -> None:
    fixed = _document(tfship("predict", forms / "one row.pb", "--inputs", rows, *compared_models.OPTIONS))
    free = _document(tfship("predict", forms / "frozen.pb", "--inputs", rows, *compared_models.OPTIONS))
    assert np.allclose(fixed["outputs"]["logits"], free["outputs"]["logits"], atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("frozen.pb", "--inputs", "nowhere.npz"), 2, "nowhere.npz"),
        (("frozen.pb", "--inputs", "narrow.npz"), 2, "float32[?, 4]"),
        (("nowhere", "--inputs", "rows.npz"), 2, "nowhere"),
        (("frozen.pb", "--inputs", "rows.npz", "--out", "no/such/out.npz"), 4, "no/such/out.npz"),
        (("frozen.pb", "--inputs", "broken.npz"), 2, "broken.npz"),
    ],
    ids=["no file", "other width", "no model", "no folder", "no npz"],
)
def test_what_a_user_can_cause_is_a_message(
    forms: Path, rows: Path, folder: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    np.savez(folder / "narrow.npz", x=np.ones((2, 3), np.float32))
    (folder / "broken.npz").write_bytes(b"PK\x03\x04 nothing")
    answer = tfship("predict", forms / arguments[0], *arguments[1:], *compared_models.OPTIONS)
    assert answer.code == code and said in answer.err and "Remedy: " in answer.err
    assert answer.out == "" and "Traceback" not in answer.err


def test_inputs_that_the_model_fails_on_are_a_message(forms: Path, folder: Path) -> None:
    np.save(folder / "x.npy", np.array([7], np.int32))
    answer = tfship("predict", forms / "picky.pb", "--inputs", "x.npy", "--input", "x:0", "--output", "y:0")
    assert answer.code == 2 and "expected an answer" in answer.err and "Traceback" not in answer.err
    assert "--inputs" in answer.err and "--probe" not in answer.err


def test_puzzle15_answers_from_its_authors_frozen_graph(wild: Path, folder: Path) -> None:
    (folder / "rows.json").write_text('{"input": [[0.5, -1.5], [2.0, 3.0]]}')
    puzzle = wild / "puzzle15" / "frozen_model.pb"
    answer = tfship("predict", puzzle, "--inputs", "rows.json", "--input", "input:0", "--output", "result:0")
    assert np.array(_document(answer)["outputs"]["result"]).shape == (2, 2)
