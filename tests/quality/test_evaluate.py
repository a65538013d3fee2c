"""Quality on labelled data and the probe's sensitivity: planted faults are detected, and nothing is guessed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import isolate
from tasks.errors import PipelineError, UsageError
from tasks.quality import evaluate
from tasks.records.baseline import TensorFact
from tasks.records.signature import Method, Signature, TensorSpec
from tasks.tensors.tensor_file import Array, Tensors
from tests.makers import probe_sensitivity_models

KEY = "serving_default"
ROWS = np.random.default_rng(0).normal(size=(101, 3)).astype(np.float32)
TRUTH = np.argmax(ROWS, axis=1)


def signature(shape: tuple[int | None, ...] = (None, 3), **more: tuple[str, tuple[int | None, ...]]) -> Signature:
    specs = {"x": ("float32", shape), **more}
    inputs = {name: TensorSpec(tensor=f"{name}:0", dtype=dtype, shape=dims) for name, (dtype, dims) in specs.items()}
    return Signature(key=KEY, method=Method.PREDICT, inputs=inputs, outputs={})


class Answers:
    """A model of one signature that answers what it is told to make of x; it keeps the sizes of its batches."""

    form = "told"

    def __init__(self, told: Any, shape: tuple[int | None, ...] = (None, 3)) -> None:
        self.told, self.batches = told, []  # type: ignore[var-annotated]
        self.signatures: Mapping[str, Signature] = {KEY: signature(shape)}

    def predict(self, signature: str, inputs: Mapping[str, Array]) -> Tensors:
        self.batches.append(len(inputs["x"]))
        return {name: np.asarray(array) for name, array in self.told(inputs["x"]).items()}

    def values(self) -> Iterator[TensorFact]:
        return iter(())


def scores(x: Array) -> dict[str, Array]:
    return {"embedding": x @ np.ones((3, 5), np.float32), "logits": x, "count": np.full(len(x), 7)}


def evaluated(told: Any, labels: Any, **options: Any) -> Any:
    return evaluate.evaluate(Answers(told), KEY, {"x": ROWS}, np.asarray(labels), 16, **options)


def test_a_perfect_classifier_is_perfect_in_every_class_and_every_batch() -> None:
    model = Answers(scores)
    found = evaluate.evaluate(model, KEY, {"x": ROWS}, TRUTH, 16, file="labels.csv")
    assert (found.file, found.output, found.rows, found.accuracy, found.macro_f1) == ("labels.csv", "logits", 101, 1, 1)
    assert [(row.label, row.f1) for row in found.classes] == [("0", 1), ("1", 1), ("2", 1)]
    assert sum(row.support for row in found.classes) == 101
    assert model.batches == [16] * 6 + [5]


def test_labels_off_by_one_row_are_seen() -> None:
    assert evaluated(scores, np.roll(TRUTH, 1)).accuracy < 0.5


def test_a_class_that_is_never_found_has_no_recall() -> None:
    found = evaluated(lambda x: {"class": np.minimum(np.argmax(x, 1), 1)}, TRUTH)
    by_label = {row.label: row for row in found.classes}
    assert (by_label["2"].recall, by_label["2"].f1, by_label["0"].recall) == (0, 0, 1)
    assert by_label["1"].precision == pytest.approx(by_label["1"].support / (101 - by_label["0"].support))


@pytest.mark.parametrize(
    ("told", "labels", "output"),
    [
        pytest.param(lambda x: {"logits": -x, "class": np.argmax(x, 1)}, TRUTH, "class", id="integers named class"),
        pytest.param(lambda x: {"answer": np.argmax(x, 1)[:, None]}, TRUTH.astype(float), "answer", id="the only one"),
        pytest.param(
            lambda x: {"label": np.array([b"a", b"b", b"c"], object)[np.argmax(x, 1)], "scores": -x},
            np.array(["a", "b", "c"])[TRUTH],
            "label",
            id="strings",
        ),
        pytest.param(
            lambda x: {"classes": np.array([[b"0", b"1", b"2"]] * len(x), object), "scores": x},
            TRUTH,
            "classes",
            id="TF Serving's classify",
        ),
        pytest.param(
            lambda x: {"z": np.argmax(x, 1), "probabilities": x}, TRUTH, "probabilities", id="scores named so"
        ),
    ],
)
def test_the_output_that_names_classes_is_judged(told: Any, labels: Any, output: str) -> None:
    found = evaluated(told, labels)
    assert (found.output, found.accuracy) == (output, 1.0)


def test_a_probability_for_two_classes_and_numbers_for_fractions() -> None:
    found = evaluated(lambda x: {"p": 1 / (1 + np.exp(-x[:, :1]))}, (ROWS[:, 0] > 0).astype(int))
    assert (found.accuracy, found.notes) == (1.0, ("a probability of 0.5 or more is class 1",))
    found = evaluated(lambda x: {"y": x[:, :1] + 1}, ROWS[:, 0])
    assert (found.accuracy, found.mae, found.rmse) == (None, pytest.approx(1), pytest.approx(1))
    assert evaluated(lambda x: {"y": x[:, 0], "z": x}, ROWS[:, 0]).r2 == 1.0


def test_rows_with_nan_scores_are_wrong_and_no_class() -> None:
    found = evaluated(lambda x: {"logits": np.where(x[:, :1] > 0, x, np.nan)}, TRUTH)
    lost = int((ROWS[:, 0] <= 0).sum())
    assert found.accuracy == pytest.approx(1 - lost / 101)
    assert found.notes == (f"{lost} rows have scores that are NaN: they count as wrong",)
    assert [row.label for row in found.classes] == ["0", "1", "2"]
    with pytest.raises(PipelineError, match="101 that are NaN"):
        evaluated(lambda x: {"y": x[:, 0] * np.nan}, ROWS[:, 0])


@pytest.mark.parametrize(
    ("told", "labels", "options", "said"),
    [
        pytest.param(scores, np.array(["a"] * 101), {}, "labels which are strings", id="strings for scores"),
        pytest.param(lambda x: {"a": x, "b": x}, TRUTH, {}, "a float32.*, b float32", id="two alike"),
        pytest.param(scores, TRUTH, {"output": "nope"}, "'nope'", id="no such output"),
        pytest.param(lambda x: {"y": x.sum()}, TRUTH, {}, "found none", id="no rows"),
        pytest.param(lambda x: {"y": x}, ROWS[:, 0], {}, "fractions", id="fractions for scores"),
    ],
)
def test_what_cannot_be_judged_is_said(told: Any, labels: Any, options: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        evaluated(told, labels, **options)


def test_a_batch_that_fails_is_named() -> None:
    def told(x: Array) -> dict[str, Array]:
        if (x == ROWS[40]).all(axis=1).any():
            raise ValueError("no")
        return scores(x)

    with pytest.raises(PipelineError, match="rows 32 to 47"):
        evaluated(told, TRUTH)


def test_a_fixed_batch_is_filled_up_and_cut_again() -> None:
    model = Answers(scores, shape=(4, 3))
    found = evaluate.evaluate(model, KEY, {"x": ROWS}, TRUTH, 16)
    assert (found.accuracy, found.rows, set(model.batches)) == (1.0, 101, {4})


# Labelled files ---------------------------------------------------------------------------------------------------------


def written(folder: Path, content: str) -> Path:
    path = folder / "labels.txt"
    path.write_text(content)
    return path


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        pytest.param("a,b,c,label\n1,2,3,1\n4,5,6,0\n", [1, 0], id="CSV"),
        pytest.param("x.0,x.1,x.2,id,y\n1,2,3,u,cat\n4,5,6,v,dog\n", ["cat", "dog"], id="CSV of strings"),
        pytest.param("target,a,b,c\n1.5,1,2,3\n2,4,5,6\n", [1.5, 2], id="CSV of numbers"),
        pytest.param(
            json.dumps([{"x": [1, 2, 3], "labels": "cat"}, {"x": [4, 5, 6], "labels": "7"}]), ["cat", "7"], id="rows"
        ),
        pytest.param(json.dumps({KEY: {"x": [[1, 2, 3], [4, 5, 6]], "label": [[0, 1], [1, 0]]}}), [1, 0], id="one-hot"),
        pytest.param(json.dumps({"x": [[1, 2, 3], [4, 5, 6]], "label": [[True], [False]]}), [1, 0], id="bools"),
    ],
)
def test_labels_are_read_beside_the_inputs(tmp_path: Path, content: str, labels: list[Any]) -> None:
    inputs, found, key = evaluate.labelled(written(tmp_path, content), [signature()])
    assert (inputs["x"].tolist(), found.tolist(), key) == ([[1, 2, 3], [4, 5, 6]], labels, KEY)


def test_labels_by_another_name_and_a_batch_that_is_fixed(tmp_path: Path) -> None:
    path = written(tmp_path, "a,b,c,wine,label\n1,2,3,1,9\n4,5,6,0,9\n")
    inputs, found, _ = evaluate.labelled(path, [signature((1, 4))], "wine")
    assert (inputs["x"].shape, found.tolist()) == ((2, 4), [1, 0])
    with pytest.raises(UsageError, match="'label' among them"):  # an input of any width does not tell whose it is
        evaluate.labelled(path, [signature((1, None))], "wine")
    archive = tmp_path / "p"
    with archive.open("wb") as stream:
        np.savez(stream, x=ROWS, label=TRUTH)
    assert evaluate.labelled(archive, [signature()])[1].tolist() == TRUTH.tolist()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param("a,b,c\n1,2,3\n", "labels, as 'label'", id="none"),
        pytest.param("a,b,c,y,label\n1,2,3,1,1\n", "one column of labels, found 'label', 'y'", id="two"),
        pytest.param("a,b,label\n1,2,1\n", "2 values a row", id="too few inputs"),
        pytest.param("z,label\nq,1\nr,2\n", "'x' for the signature|float32", id="no inputs"),
        pytest.param("a,b,c,label\n1,2,3,\n", "row 0: expected a label, found an empty cell", id="empty label"),
        pytest.param("a,b,c,label\n1,2,3,nan\n", "row 0: expected a label, found nan", id="NaN label"),
        pytest.param(json.dumps({"x": [[1, 2, 3]], "label": [1, 2]}), "1 of x, 2 labels", id="too many labels"),
        pytest.param(json.dumps({"x": [[1, 2, 3]], "label": [[1, 2]]}), "one label a row", id="labels of two"),
        pytest.param(json.dumps({"x": [[1, 2, 3]], "label": [{}]}), "expected a value", id="labels that are none"),
    ],
)
def test_labels_that_are_none_are_refused(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        evaluate.labelled(written(tmp_path, content), [signature()])


def test_an_input_is_not_taken_for_labels(tmp_path: Path) -> None:
    wanted = signature((None,), y=("float32", (None,)))
    with pytest.raises(UsageError, match="labels"):
        evaluate.labelled(written(tmp_path, "x,y\n1,2\n"), [wanted])
    inputs, labels, _ = evaluate.labelled(written(tmp_path, "x,y,label\n1,2,3\n"), [wanted])
    assert (sorted(inputs), labels.tolist()) == (["x", "y"], [3])


# The probe's worth, in a child ------------------------------------------------------------------------------------------


def test_a_probe_of_one_row_repeated_is_worth_nothing_and_it_is_said() -> None:
    assert isolate.call(probe_sensitivity_models.of_equal_rows).constant == ("s/logits",)
    assert isolate.call(probe_sensitivity_models.of_equal_rows).one_class == ("s/class",)
    assert isolate.call(probe_sensitivity_models.of_drawn_rows).constant == ()
    assert isolate.call(probe_sensitivity_models.of_drawn_rows).one_class == ()
    assert isolate.call(probe_sensitivity_models.of_one_sided_rows).one_class == ("s/logits", "s/class")


@pytest.mark.parametrize("resource", [True, False])
def test_a_variable_whose_change_no_output_sees_is_named(resource: bool) -> None:
    found = isolate.call(probe_sensitivity_models.of_drawn_rows, resource)
    assert found.unnoticed == ("dead",)
    assert (found.tried, found.variables, found.not_tried) == (4, 4, ())


def test_what_cannot_be_fed_is_not_tried_and_never_noticed() -> None:
    found = isolate.call(probe_sensitivity_models.of_variables_in_functions)
    assert found.not_tried == ("gathered", "in_function")
    assert (found.tried, found.unnoticed) == (1, ())
    assert sorted(found.notes) == [
        "1 of 3 variables not tried: read by ResourceGather, which cannot be fed",
        "1 of 3 variables not tried: read by StatefulPartitionedCall, which cannot be fed",
    ]


def test_at_most_64_variables_are_tried_the_largest_first_and_in_time() -> None:
    found = isolate.call(probe_sensitivity_models.of_many_variables, 120.0)
    assert (found.tried, found.variables) == (64, 70)
    assert found.not_tried == ("v5", "v4", "v3", "v2", "v1", "v0")
    assert isolate.call(probe_sensitivity_models.of_many_variables, 0.0).tried == 0


def test_a_model_that_answers_at_random_is_not_tried() -> None:
    found = isolate.call(probe_sensitivity_models.of_a_random_model)
    assert (found.tried, found.notes) == (0, ("1 of 1 variables not tried: the outputs differ from run to run",))


def test_a_frozen_graphs_constants_are_tried_and_another_forms_values_are_not() -> None:
    assert isolate.call(probe_sensitivity_models.of_a_frozen_graph).unnoticed == ("dead",)
    found = isolate.call(probe_sensitivity_models.of_another_form)
    assert (found.tried, found.variables, found.not_tried) == (0, 1, ("w",))


def test_feeding_changes_nothing_that_stays() -> None:
    isolate.call(probe_sensitivity_models.nothing_stays_changed)


def test_a_change_that_makes_the_model_fail_is_noticed() -> None:
    found = isolate.call(probe_sensitivity_models.of_an_index)
    assert (found.tried, found.unnoticed) == (1, ())
