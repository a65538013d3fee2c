"""Signatures are declared, requested, collected or proposed, and a proposal is never taken for one of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks import isolate
from tasks.errors import DamagedError, UsageError
from tasks.records.adoption import ModelOptions
from tests.makers import graphs as made

_EXPORT = "taxi-estimator/export/chicago-taxi/1646034756"
_RESNET = "official-resnet-ref/batch-size-32_bottleneck_projection_version-1_width-8_channels-4/expected_graph"


@pytest.mark.parametrize(
    ("model", "options"),
    (
        ("lenet-traffic", "--input Placeholder:0 --pin Placeholder_2=1.0 --output add_4:0"),
        ("cartpole-pg/cart-pole-100th-episode", "--input Placeholder:0 --output Softmax:0"),
        ("puzzle15/modeldir", "--input input:0 --output result:0"),
        ("puzzle15/frozen_model.pb", "--input input:0 --output result:0"),
        ("threaded-lstm", "--input Placeholder:0 --output add:0"),
        ("v1-neo", "--input Placeholder:0 --output Softmax:0"),
        ("frozen-charrnn/frozen_model_mobile.pb", "--input input_data:0 --output probs:0"),
        ("java-graph/graph.pb", "--input input:0 --output output:0"),
        (_RESNET, "--input input_tensor/read:0 --output Relu_2:0"),
        (
            "official-resnet-ref/reference_data_test/dense/expected_graph",
            "--input input_tensor/read:0 --output dense_1/BiasAdd:0",
        ),
        (
            "taxi-estimator/model.ckpt-1000",
            " ".join(f"--input IteratorGetNext:{index}" for index in (0, 3, 4, 5, 6, 9, 10, 11, 12, 13, 14, 15))
            + " --output head/predictions/probabilities:0",
        ),
    ),
)
def test_what_is_proposed_for_models_from_the_wild_and_that_it_is_complete(
    model: str,
    options: str,
    wild: Path,
) -> None:
    proposal, found = isolate.call(made.proposed, wild / model)
    assert " ".join(found) == options
    with pytest.raises(UsageError) as asked:  # never silently
        isolate.call(made.resolved, wild / model, ModelOptions())
    assert options in asked.value.remedy
    assert proposal.outputs[0].tensor in asked.value.found and "likeliest first" in asked.value.found
    taken = isolate.call(made.resolved, wild / model, _given(options))
    (signature,) = taken.signatures
    assert signature.key == "serving_default"
    assert all(spec.tensor not in taken.pins for spec in signature.inputs.values())


def _given(options: str) -> ModelOptions:
    said: dict[str, list[str]] = {"--input": [], "--output": [], "--pin": []}
    words = options.split()
    for option, value in zip(words[::2], words[1::2], strict=True):
        said[option].append(value)
    pins: dict[str, Any] = dict(pin.split("=") for pin in said["--pin"])
    return ModelOptions(inputs=tuple(said["--input"]), outputs=tuple(said["--output"]), pins=pins)


def test_lenets_dropout_is_asked_for_by_name_and_a_label_is_called_one(wild: Path) -> None:
    proposal, _ = isolate.call(made.proposed, wild / "lenet-traffic")
    assert [(one.tensor, one.value) for one in proposal.pins] == [("Placeholder_2:0", 1.0)]
    assert "dropout" in proposal.pins[0].why
    assert proposal.inputs[0].shape == (None, 32, 32, 3)
    assert [one.tensor for one in proposal.inputs if "label" in one.why] == ["Placeholder_1:0"]
    unpinned = ModelOptions(inputs=("Placeholder:0",), outputs=("add_4",))
    with pytest.raises(UsageError, match=r"keep probability of the dropout") as refused:
        isolate.call(made.resolved, wild / "lenet-traffic", unpinned)
    assert refused.value.remedy == "add --pin Placeholder_2=1.0"


def test_an_iterator_must_be_cut_and_the_message_says_where(wild: Path) -> None:
    given = ModelOptions(inputs=("IteratorGetNext:0",), outputs=("head/predictions/probabilities",))
    with pytest.raises(UsageError, match="IteratorGetNext feeds the training graph") as refused:
        isolate.call(made.resolved, wild / "taxi-estimator" / "model.ckpt-1000", given)
    assert "cut the graph" in refused.value.remedy and "--input IteratorGetNext:15" in refused.value.remedy
    proposal, options = isolate.call(made.proposed, wild / "taxi-estimator" / "model.ckpt-1000")
    assert proposal.inputs[-1].tensor == "IteratorGetNext:16" and "label" in proposal.inputs[-1].why
    taken = isolate.call(made.resolved, wild / "taxi-estimator" / "model.ckpt-1000", _given(" ".join(options)))
    assert len(taken.cuts) == 12 and "IteratorGetNext:5" in taken.cuts


def test_declared_signatures_are_all_taken_but_those_that_initialise(wild: Path) -> None:
    taken = isolate.call(made.resolved, wild / _EXPORT, ModelOptions())
    assert [one.key for one in taken.signatures] == ["classification", "predict", "regression", "serving_default"]
    one = isolate.call(made.resolved, wild / _EXPORT, ModelOptions(signature="predict"))
    assert [signature.key for signature in one.signatures] == ["predict"]
    rossman = isolate.call(made.resolved, wild / "sm-rossman", ModelOptions())
    assert [signature.key for signature in rossman.signatures] == ["serving_default"]
    with pytest.raises(UsageError, match=r"--signature other: .*found serving_default"):
        isolate.call(made.resolved, wild / "sm-rossman", ModelOptions(signature="other"))


def test_a_model_that_holds_its_input_needs_none(wild: Path) -> None:
    taken = isolate.call(made.resolved, wild / _RESNET, ModelOptions(outputs=("Relu_2",)))
    assert taken.signatures[0].inputs == {} and "no inputs" in taken.notes[0]


KEEP = {"keep_prob": "1.0"}


@pytest.mark.parametrize(
    ("text", "alias", "shape"),
    (
        ("x", "x", (None, 3)),
        ("x:0", "x", (None, 3)),
        ("images=x:0", "images", (None, 3)),
        ("x:?,3", "x", (None, 3)),
        ("x:0:?,3:float32", "x", (None, 3)),
        ("x:[7,3]", "x", (7, 3)),
        ("x:None,3:float32", "x", (None, 3)),
        ("x:-1,?", "x", (None, 3)),
        ("x:float32", "x", (None, 3)),
        ("x::float32", "x", (None, 3)),
    ),
)
def test_every_way_to_write_an_input(text: str, alias: str, shape: tuple[int | None, ...]) -> None:
    taken = isolate.call(made.small, ModelOptions(inputs=(text,), outputs=("scope/y",), pins=KEEP))
    (signature,) = taken.signatures
    assert list(signature.inputs) == [alias]
    assert (signature.inputs[alias].tensor, signature.inputs[alias].shape) == ("x:0", shape)
    assert (signature.outputs["y"].tensor, signature.outputs["y"].dtype) == ("scope/y:0", "float32")
    assert taken.pins == {"keep_prob:0": 1.0} and taken.cuts == ()


@pytest.mark.parametrize(
    ("given", "words"),
    (
        (ModelOptions(inputs=("X",), outputs=("scope/y",)), "similar names are x"),
        (ModelOptions(inputs=("x",), outputs=("y",)), "scope/y"),
        (ModelOptions(inputs=("x:1",), outputs=("scope/y",)), "output 1 of x"),
        (ModelOptions(inputs=("x:?,4",), outputs=("scope/y",), pins=KEEP), r"agrees with \[\?,3\]"),
        (ModelOptions(inputs=("x:?",), outputs=("scope/y",), pins=KEEP), r"agrees with \[\?,3\]"),
        (ModelOptions(inputs=("x:?,3:int32",), outputs=("scope/y",)), "own dtype, float32"),
        (ModelOptions(inputs=("x:a,b",), outputs=("scope/y",)), "a shape"),
        (ModelOptions(inputs=("x:1:2:3:4",), outputs=("scope/y",)), "ALIAS"),
        (ModelOptions(inputs=("a=x", "a=count"), outputs=("counted",)), "a twice"),
        (ModelOptions(inputs=("x", "x:0"), outputs=("scope/y",)), "each tensor once"),
        (ModelOptions(inputs=("x",)), "--output as well as --input"),
        (ModelOptions(outputs=("scope/y",)), "--input as well as --output"),
        (ModelOptions(inputs=("x",), outputs=("scope/y",)), "needs? the placeholder keep_prob:0"),
        (ModelOptions(inputs=("x",), outputs=("loss",), pins=KEEP), "add --input labels:0"),
        (ModelOptions(inputs=("x",), outputs=("scope/y",), pins={"keep_prob": "much"}), "a float32 for keep_prob:0"),
        (ModelOptions(inputs=("x",), outputs=("scope/y",), pins={"keep_prob": "[1.0, 2.0]"}), r"of the shape \[\]"),
        (ModelOptions(inputs=("x",), outputs=("counted",), pins={**KEEP, "count": 1.5}), "a int32 for count:0"),
        (ModelOptions(inputs=("x",), outputs=("counted",), pins={**KEEP, "count": 2**40}), "a int32 for count:0"),
        (ModelOptions(inputs=("x",), outputs=("scope/y",), pins={"scope/y": 1.0}), "pin placeholders only"),
        (ModelOptions(inputs=("x",), outputs=("scope/y",), pins={"x": [[1, 2, 3]]}), "an input, too"),
        (ModelOptions(inputs=("x",), outputs=("scope/y",), pins={"keep_prob": 1.0, "keep_prob:0": 1.0}), "two for"),
    ),
)
def test_what_is_said_wrongly_is_said_so_with_exit_2(given: ModelOptions, words: str) -> None:
    with pytest.raises(UsageError, match=words) as refused:
        isolate.call(made.small, given)
    assert refused.value.exit_code == 2 and refused.value.remedy


@pytest.mark.parametrize(
    ("pins", "value"),
    (
        ({"keep_prob": "0.5", "count": "3"}, 3),
        ({"keep_prob": 1, "count": 3}, 3),
        ({"keep_prob": "1.", "count": "-3"}, -3),
        ({"keep_prob": "1e0", "count": 3.0}, None),
    ),
)
def test_pins_take_the_placeholders_dtype(pins: dict[str, Any], value: int | None) -> None:
    given = ModelOptions(inputs=("x",), outputs=("counted",), pins=pins)
    if value is None:
        with pytest.raises(UsageError, match="count"):
            isolate.call(made.small, given)
    else:
        assert isolate.call(made.small, given).pins["count:0"] == value


def test_text_is_pinned_as_it_is() -> None:
    given = ModelOptions(inputs=("x",), outputs=("said", "scope/y"), pins={**KEEP, "words": '["1", "no"]'})
    with pytest.raises(UsageError, match="of the shape"):
        isolate.call(made.small, given)
    given = ModelOptions(inputs=("x",), outputs=("said", "scope/y"), pins={**KEEP, "words": ["1", "no"]})
    assert isolate.call(made.small, given).pins["words:0"] == ["1", "no"]


def test_collections_that_name_both_sides_are_taken() -> None:
    taken = isolate.call(made.small, ModelOptions(pins=KEEP), collections=True)
    (signature,) = taken.signatures
    assert (list(signature.inputs), list(signature.outputs)) == (["x"], ["y"])
    assert "collections inputs, logits" in taken.notes[0]
    with pytest.raises(UsageError, match="likeliest first"):
        isolate.call(made.small, ModelOptions(pins=KEEP))


def test_declared_signatures_that_cannot_be_served_are_left_out_with_a_note() -> None:
    for kind, note in (("sparse", "coo sparse"), ("training", "for training")):
        with pytest.raises(UsageError, match=note):
            isolate.call(made.small, ModelOptions(), declared=kind)
    with pytest.raises(UsageError, match="likeliest first"):
        isolate.call(made.small, ModelOptions(), declared="init")
    with pytest.raises(DamagedError, match="nowhere:0"):
        isolate.call(made.small, ModelOptions(), declared="missing")


def test_a_declared_input_that_is_pinned_is_an_input_no_more() -> None:
    both = isolate.call(made.small, ModelOptions(), declared="yes").signatures[0]
    assert sorted(both.inputs) == ["in", "keep"]
    taken = isolate.call(made.small, ModelOptions(pins=KEEP), declared="yes")
    assert list(taken.signatures[0].inputs) == ["in"] and "keep is no input" in taken.notes[0]


def test_nonfinite_answers_are_allowed_where_the_user_says_so() -> None:
    given = ModelOptions(inputs=("x",), outputs=("scope/y",), pins=KEEP, allow_nonfinite=True, signature="mine")
    (signature,) = isolate.call(made.small, given).signatures
    assert signature.allow_nonfinite and signature.key == "mine"
