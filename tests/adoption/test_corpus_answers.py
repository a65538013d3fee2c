"""Real models give the answers that the corpus's README records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import isolate
from tasks.errors import CoverageError, ImpureError, NondeterministicError, UsageError
from tasks.records.forms import Form
from tests.adoption.pipeline import Shipyard, require_shipped
from tests.makers import one_network_in_every_form

MEASURED: dict[str, Any] = {}
"""No declared tolerance: what is right for these models is measured."""


def test_puzzle15_ships_and_the_authors_own_pb_agrees(yard: Shipyard, wild: Path) -> None:
    given = {"inputs": ["input"], "outputs": ["result"]}
    ours = yard.ship(wild / "puzzle15" / "modeldir", "puzzle15", given=given, tolerance=MEASURED)
    theirs = yard.ship(wild / "puzzle15" / "frozen_model.pb", "puzzle15-pb", given=given, tolerance=MEASURED)
    require_shipped(ours)
    require_shipped(theirs)
    assert any("C:/Python35" in note for note in ours.adopted.notes)
    (x,) = isolate.call(one_network_in_every_form.tensors_in, ours.artifact("adopt") / "probe.tensors").values()
    assert [x] == list(
        isolate.call(one_network_in_every_form.tensors_in, theirs.artifact("adopt") / "probe.tensors").values()
    )
    np.testing.assert_array_equal(*(run.baseline["serving_default/result"] for run in (ours, theirs)))


def test_cartpole_asks_which_of_two_checkpoints_is_meant(yard: Shipyard, wild: Path) -> None:
    error = yard.refused(wild / "cartpole-pg")
    assert isinstance(error, UsageError)
    for name in ("cart-pole-50th-episode", "cart-pole-100th-episode"):
        assert name in error.found
        assert str(wild / "cartpole-pg" / name) in error.remedy
    assert "`checkpoint` names cart-pole-50th-episode" in error.found


def test_cartpole_takes_the_one_that_is_named_and_says_so(yard: Shipyard, wild: Path) -> None:
    answers = []
    for episode in ("50th", "100th"):
        error = yard.refused(wild / "cartpole-pg" / f"cart-pole-{episode}-episode")
        options = options_in(error)
        taken = yard.ship(
            wild / "cartpole-pg" / f"cart-pole-{episode}-episode", "cartpole", given=options, until="adopt"
        )
        assert taken.adopted.chosen == f"cart-pole-{episode}-episode, as requested"
        answers += [taken.baseline]
    assert answers[0].keys() == answers[1].keys()
    assert any((answers[0][name] != answers[1][name]).any() for name in answers[0]), "their weights differ"


def test_lenet_proposes_outputs_and_the_pin_of_dropout(yard: Shipyard, wild: Path) -> None:
    error = yard.refused(wild / "lenet-traffic")
    assert isinstance(error, UsageError)
    assert "the likeliest first" in error.found
    assert "--input Placeholder:0 --pin Placeholder_2=1.0 --output add_4:0" in error.remedy
    without = yard.refused(wild / "lenet-traffic", given={"inputs": ["Placeholder"], "outputs": ["add_4"]})
    assert isinstance(without, UsageError)
    assert "dropout" in without.found
    assert "--pin Placeholder_2=1.0" in without.remedy


def test_lenet_ships_with_the_pin_and_is_nondeterministic_with_dropout_on(yard: Shipyard, wild: Path) -> None:
    given = {"inputs": ["Placeholder"], "outputs": ["add_4"], "pins": {"Placeholder_2": 1.0}}
    shipped = yard.ship(wild / "lenet-traffic", "lenet", given=given, tolerance=MEASURED)
    require_shipped(shipped)
    assert shipped.adopted.pins == {"Placeholder_2:0": 1.0}
    on = given | {"pins": {"Placeholder_2": 0.5}}
    with pytest.raises(ImpureError, match=r"serving_default/add_4.*random numbers, by dropout"):
        yard.ship(wild / "lenet-traffic", "lenet-on", given=on)
    with pytest.raises(NondeterministicError, match="serving_default/add_4"):
        yard.ship(wild / "lenet-traffic", "lenet-declared", given=on | {"impure": ["random"]})


def test_threaded_lstm_is_refused_and_what_was_never_saved_is_named(yard: Shipyard, wild: Path) -> None:
    error = yard.refused(wild / "threaded-lstm", given={"inputs": ["Placeholder"], "outputs": ["add"]})
    assert isinstance(error, CoverageError)
    assert "rnn/basic_lstm_cell/bias" in str(error)
    assert "rnn/basic_lstm_cell/kernel" in str(error)
    assert "initial values are never put in its place" in error.remedy


def test_v1_neo_freezes_with_no_variable_left(yard: Shipyard, wild: Path) -> None:
    shipped = yard.ship(
        wild / "v1-neo", "neo", given={"inputs": ["Placeholder"], "outputs": ["Softmax"]}, tolerance=MEASURED
    )
    require_shipped(shipped)
    assert shipped.adopted.form is Form.SAVER_V1
    assert isolate.call(one_network_in_every_form.variable_ops_in, shipped.artifact("freeze") / "frozen_graph.pb") == []


def test_taxi_names_the_tensors_at_which_its_training_graph_is_cut_and_ships_so(yard: Shipyard, wild: Path) -> None:
    error = yard.refused(wild / "taxi-estimator")
    assert isinstance(error, UsageError)
    assert "IteratorGetNext:0" in error.found
    assert "cut the graph here" in error.found
    given = options_in(error)
    assert len(given["inputs"]) == 12
    one_less = yard.refused(wild / "taxi-estimator", given=given | {"inputs": given["inputs"][1:]})
    assert "cut the graph at the tensors after it" in one_less.remedy
    assert given["inputs"][0] in one_less.remedy
    shipped = yard.ship(wild / "taxi-estimator", "taxi", given=given, tolerance=MEASURED)
    require_shipped(shipped)
    assert shipped.adopted.chosen == "model.ckpt-1000, the newest of 3"
    assert shipped.adopted.available == ("model.ckpt-0", "model.ckpt-999", "model.ckpt-1000")


def test_the_export_of_taxi_is_adopted_with_its_examples_and_vocabularies(yard: Shipyard, wild: Path) -> None:
    folder = wild / "taxi-estimator" / "export" / "chicago-taxi" / "1646034756"
    shipped = yard.ship(folder, "taxi-export", until="adopt")
    assert {one.key for one in shipped.names.signatures} == {
        "classification",
        "predict",
        "regression",
        "serving_default",
    }
    assert len(shipped.names.assets) == 2
    assert len(np.unique(shipped.baseline["predict/logits"])) > 1, "the examples reach the answers"


def test_iris_lists_its_tensors_and_asks_for_code(yard: Shipyard, wild: Path) -> None:
    error = yard.refused(wild / "iris-2shard")
    assert isinstance(error, UsageError)
    assert "layer-1/bias" in error.found
    assert "--model module:Model" in error.remedy


def test_official_resnet_answers_as_its_author_recorded(yard: Shipyard, wild: Path, tmp_path: Path) -> None:
    """The author's input is a variable of the checkpoint: it is the probe, and the graph is cut after it."""
    folders = {
        "batch-size-32_bottleneck_projection_version-1_width-8_channels-4": "Relu_2",
        "reference_data_test/dense": "dense_1/BiasAdd",
    }
    for number, (name, output) in enumerate(folders.items()):
        folder = wild / "official-resnet-ref" / name
        isolate.call(
            one_network_in_every_form.variable_as_probe,
            folder / "model.ckpt",
            "input_tensor",
            tmp_path / f"{number}.npz",
        )
        given = {"graph": folder / "expected_graph", "inputs": ["x=input_tensor/read"], "outputs": [output]}
        probe = {"file": tmp_path / f"{number}.npz"}
        shipped = yard.ship(folder / "model.ckpt", f"resnet-{number}", given=given, probe=probe, tolerance=MEASURED)
        require_shipped(shipped)
        recorded = json.loads((folder / "results.json").read_text())
        (answer,) = shipped.baseline.values()
        rank = answer.ndim
        shape, (first, last, total) = recorded[-rank - 3 : -3], recorded[-3:]
        assert list(answer.shape) == shape
        flat = answer.ravel()
        np.testing.assert_allclose([flat[0], flat[-1]], [first, last], rtol=2e-5, atol=1e-6)
        # Errors of the addends add up while the addends cancel: what they are compared with is their own size.
        assert abs(float(flat.sum()) - total) <= 1e-5 * float(np.abs(flat).sum())


def test_official_resnet_without_its_graph_is_asked_for_it(yard: Shipyard, wild: Path) -> None:
    error = yard.refused(wild / "official-resnet-ref" / "reference_data_test" / "dense")
    assert isinstance(error, UsageError)
    assert "--graph FILE" in error.remedy


def test_java_graph_has_variables_and_no_values(yard: Shipyard, wild: Path) -> None:
    given = {"inputs": ["input"], "outputs": ["output"]}
    error = yard.refused(wild / "java-graph" / "graph.pb", given=given)
    assert isinstance(error, CoverageError)
    assert error.expected == "values for 2 variables (W, b)"
    assert "--graph" in error.remedy


def test_frozen_charrnn_ships_with_its_batch_of_one(yard: Shipyard, wild: Path) -> None:
    given = {"inputs": ["input_data"], "outputs": ["probs"]}
    shipped = yard.ship(wild / "frozen-charrnn" / "frozen_model_mobile.pb", "charrnn", given=given, tolerance=MEASURED)
    require_shipped(shipped)
    (signature,) = shipped.names.signatures
    assert signature.inputs["input_data"].shape == (1, 1)
    assert shipped.baseline["serving_default/probs"].shape[0] == 1


def test_rossman_ships(yard: Shipyard, wild: Path) -> None:
    """A SavedModel of Keras 2 with its optimizer, which `tf.saved_model.load` refuses where there is no tf_keras."""
    shipped = yard.ship(wild / "sm-rossman", "rossman", tolerance=MEASURED)
    require_shipped(shipped)
    assert isolate.call(one_network_in_every_form.refusal_of_the_v2_loader, shipped.promoted) == ""


def options_in(error: Any) -> dict[str, Any]:
    """The settings that the options in a remedy stand for."""
    words = error.remedy.split("--")[1:]
    found: dict[str, Any] = {"inputs": [], "outputs": [], "pins": {}}
    for word in words:
        option, value = word.split()[:2]
        if option == "pin":
            name, _, pinned = value.partition("=")
            found["pins"][name] = float(pinned)
        else:
            found[f"{option}s"].append(value)
    return found
