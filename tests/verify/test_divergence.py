"""The first tensor that differs between two graphs with a planted fault is named exactly."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks import isolate
from tasks.records.adoption import ModelOptions, ProbeSource
from tasks.records.parity import Tolerance
from tasks.records.settings import SessionOptions
from tasks.verify import compare_models
from tasks.verify.divergence import Explanation
from tests.makers import compared_models

GIVEN = ModelOptions(inputs=("x:0",), outputs=("logits:0", "probs:0"))


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model with TF1's variables and, in `resource`, with resource variables; every fault of each."""
    folder = tmp_path_factory.mktemp("forms")
    isolate.call(compared_models.every, folder)
    return folder


def _explained(first: Path, other: Path, given: ModelOptions = GIVEN) -> Explanation:
    paths, options, source = [first, other], SessionOptions(), ProbeSource()
    found = compare_models.compare(paths, given, None, options, source, Tolerance(), explained=True)
    assert found.divergent is not None and found.explanation is not None
    return found.explanation


@pytest.mark.parametrize("variables", [".", "resource"])
@pytest.mark.parametrize("first", ["frozen.pb", "model.ckpt", "saved_model"])
def test_a_changed_weight_is_named_where_it_is_stored(forms: Path, variables: str, first: str) -> None:
    told = _explained(forms / variables / first, forms / variables / "weight changed.pb")
    assert told.first is not None
    assert told.first.tensor.removesuffix(":0") == "dense/kernel" and told.first.ops[1] == "Const"
    assert told.first.row.max_abs == pytest.approx(0.5) and told.first.row.mismatched == 1
    assert told.first.row.worst is not None and told.first.row.worst.index == (1, 2)
    assert told.others == ()


def test_a_weight_is_compared_byte_for_byte_however_little_it_moved(forms: Path) -> None:
    told = _explained(forms / "frozen.pb", forms / "weight changed slightly.pb")
    assert told.first is not None and told.first.tensor == "hidden/bias:0"
    assert told.others == ("dense/bias:0",)


def test_a_changed_op_is_named_with_both_ops(forms: Path) -> None:
    told = _explained(forms / "model.ckpt", forms / "op changed.pb")
    assert told.first is not None
    assert (told.first.tensor, told.first.ops, told.others) == ("relu:0", ("Relu", "Tanh"), ())
    assert told.first.inputs == (("hidden/BiasAdd",),) * 2


def test_another_input_is_named_with_both(forms: Path) -> None:
    told = _explained(forms / "frozen.pb", forms / "input swapped.pb")
    assert told.first is not None and told.first.tensor == "dense/BiasAdd:0"
    assert told.first.inputs == (("dense/MatMul", "dense/bias/read"), ("twice", "dense/bias/read"))


def test_swapped_outputs_are_named_in_a_graph_and_in_a_signature(forms: Path) -> None:
    within = _explained(forms / "frozen.pb", forms / "outputs swapped.pb")
    assert "the outputs logits and probs are swapped" in within.sentence
    assert within.first is not None and within.first.ops == ("Identity", "Softmax")
    declared = _explained(forms / "saved_model", forms / "swapped_model", ModelOptions())
    assert "the outputs logits and probs are swapped" in declared.sentence and declared.first is None
    assert "the output logits is logits:0 in the first and probs:0 in the other" in declared.sentence


def test_what_follows_a_loop_is_named_and_the_loop_is_not_looked_into(forms: Path) -> None:
    told = _explained(forms / "loop.pb", forms / "loop_changed.pb", ModelOptions(inputs=("x:0",), outputs=("y:0",)))
    assert told.first is not None and told.first.tensor == "moved/y:0"
    assert told.unlooked > 0


def test_a_function_is_opaque_and_its_call_is_named(forms: Path) -> None:
    told = _explained(forms / "called", forms / "called_changed", ModelOptions())
    assert told.first is not None and "Call" in told.first.ops[0]
    assert "its body is not looked into" in told.first.note


def test_graphs_without_names_in_common_and_keras_cannot_be_explained(forms: Path) -> None:
    renamed = ModelOptions(inputs=("x=x:0",), outputs=("probs=probs:0",))
    told = _explained(forms / "frozen.pb", forms / "exported", renamed)
    assert told.first is None
    keras = _explained(forms / "model.keras", forms / "other.keras", ModelOptions())
    assert keras.first is None and "it cannot be explained" in keras.sentence and "Keras" in keras.sentence


def test_a_model_that_does_not_answer_has_nothing_to_compare(forms: Path) -> None:
    told = _explained(forms / "easy.pb", forms / "picky.pb", ModelOptions(inputs=("x:0",), outputs=("y:0",)))
    assert told.first is None and "no two values to compare" in told.sentence and "not in [0, 3)" in told.sentence
