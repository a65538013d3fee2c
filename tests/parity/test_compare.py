"""The comparison: nothing that differs passes, and nothing that was not compared is called passed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tasks.errors import NondeterministicError, ParityError, PipelineError
from tasks.parity import compare
from tasks.records.baseline import Baseline, Environment, TensorFact, Variable
from tasks.records.parity import Limit, ParityReport, ParityRow, ParityTest, Tolerance
from tasks.records.signature import Method, Signature, TensorSpec
from tasks.tensors import tensor_file
from tasks.tensors.tensor_file import Array, Tensors

BOUNDS = Limit(absolute=(1e-5,), relative=(1e-5,))
HERE = Environment(tensorflow="2", cpu="x", onednn=True, intra_op_threads=0, inter_op_threads=0)
ARRAYS = hnp.arrays(
    st.sampled_from([np.float32, np.float64, np.int64, np.int32, np.uint8, np.bool_]),
    hnp.array_shapes(max_dims=3, max_side=4),
)


def row(expected: Any, got: Any, test: ParityTest = ParityTest.EXACT) -> ParityRow:
    return compare.compare("form", "s", "y", test, np.asarray(expected), np.asarray(got), BOUNDS)


@given(ARRAYS, st.sampled_from([ParityTest.EXACT, ParityTest.SERVED]))
def test_everything_equals_itself_nan_included(array: Array, test: ParityTest) -> None:
    found = row(array, array.copy(), test)
    assert found.passed is (None if array.size == 0 else True)
    assert found.mismatched == 0


@given(ARRAYS, st.data())
def test_one_flipped_bit_is_never_exact(array: Array, data: st.DataObject) -> None:
    content = bytearray(np.ascontiguousarray(array).tobytes())
    position = data.draw(st.integers(0, len(content) * 8 - 1))
    content[position // 8] ^= 1 << (position % 8)
    got = np.frombuffer(bytes(content), dtype=array.dtype).reshape(array.shape)
    found = row(array, got)
    assert found.passed is False
    assert found.mismatched == 1
    assert found.worst is not None


@pytest.mark.parametrize(
    ("expected", "got", "passed"),
    [
        (np.float32(1.0), np.float32(1.0 + 1.5e-5), True),
        (np.float32(1.0), np.float32(1.0 + 4e-5), False),
        (np.float32(100.0), np.float32(100.0009), True),
        (np.float32(np.nan), np.float32(np.nan), True),
        (np.float32(np.nan), np.float32(0.0), False),
        (np.float32(0.0), np.float32(np.nan), False),
        (np.float32(np.inf), np.float32(np.inf), True),
        (np.float32(np.inf), np.float32(-np.inf), False),
        (np.float32(np.inf), np.float32(3e38), False),
        (np.int64(2**53), np.int64(2**53 + 1), False),
        (np.array([b"a", b"b"], object), np.array([b"a", b"c"], object), False),
        (np.array([b"a\0"], object), np.array([b"a"], object), False),
        (np.float32(1.0), np.float64(1.0), False),
        (np.zeros((2, 1), np.float32), np.zeros((1, 2), np.float32), False),
        (np.zeros((0,), np.float32), np.zeros((0,), np.float32), None),
    ],
    ids=str,
)
def test_served_answers_are_held_to_the_tolerance(expected: Any, got: Any, passed: bool | None) -> None:
    assert row(expected, got, ParityTest.SERVED).passed is passed


def test_an_exact_comparison_knows_minus_zero() -> None:
    assert row(np.float32(0.0), np.float32(-0.0)).passed is False
    assert row(np.float32(0.0), np.float32(-0.0), ParityTest.SERVED).passed is True


def test_bfloat16_is_a_float() -> None:
    import ml_dtypes

    ones = np.ones(3, ml_dtypes.bfloat16)
    assert row(ones, ones, ParityTest.SERVED).passed is True
    assert row(ones, -ones, ParityTest.SERVED).passed is False
    assert row(ones, np.array([1, 1, 1.0078125], ml_dtypes.bfloat16)).passed is False


def test_a_report_of_nothing_is_not_a_pass() -> None:
    assert ParityReport(rows=()).passed is False
    unmade = ParityRow(candidate="f", signature="s", output="y", test=ParityTest.EXACT, passed=None, note="not made")
    assert ParityReport(rows=(unmade,)).passed is False
    made = unmade.model_copy(update={"passed": True})
    assert ParityReport(rows=(unmade, made)).passed is True


class Answers:
    """A form that answers what it is told to."""

    form = "form"
    signatures: Mapping[str, Signature] = {}

    def __init__(self, outputs: Tensors) -> None:
        self.outputs = outputs

    def predict(self, signature: str, inputs: Mapping[str, Array]) -> Tensors:
        if "error" in self.outputs:
            raise ValueError("no such signature")
        return self.outputs

    def values(self) -> Iterator[TensorFact]:
        return iter(())


X = TensorSpec(tensor="x:0", dtype="float32", shape=(None,))
SIGNATURE = Signature(key="s", method=Method.PREDICT, inputs={"x": X}, outputs={"scores": X, "class": X})
SCORES = np.array([[0.5, 0.5 + 1e-6], [0.9, 0.1]], np.float32)
BASELINE: Tensors = {"s/scores": SCORES, "s/class": np.array([1, 0])}
PROBE: Tensors = {"s/x": np.zeros(2, np.float32)}


def judged(outputs: Tensors, test: ParityTest = ParityTest.SERVED) -> dict[str, bool | None]:
    rows = compare.outputs(Answers(outputs), [SIGNATURE], PROBE, BASELINE, test, Tolerance())
    return {found.output: found.passed for found in rows}


def test_an_output_too_few_or_too_many_is_a_difference() -> None:
    assert judged({"scores": SCORES}) == {"scores": True, "class": False}
    assert judged({"scores": SCORES, "class": np.array([1, 0]), "more": SCORES})["more"] is False


def test_an_error_instead_of_an_answer_is_a_difference() -> None:
    assert judged({"error": SCORES}) == {"*": False}


def test_a_probe_without_a_baseline_is_an_error_and_no_pass() -> None:
    with pytest.raises(PipelineError):
        compare.outputs(Answers({}), [SIGNATURE], PROBE, {}, ParityTest.EXACT, Tolerance())


def test_a_class_may_differ_only_where_the_two_best_are_tied() -> None:
    tied, other = np.array([0, 0]), np.array([1, 1])
    assert judged({"scores": SCORES, "class": tied}) == {"scores": True, "class": True}
    assert judged({"scores": SCORES, "class": other})["class"] is False
    assert judged({"scores": SCORES, "class": tied}, ParityTest.EXACT)["class"] is False


@pytest.mark.parametrize(("apart", "passed"), [(3.9e-5, True), (4.1e-5, False)])
def test_a_tie_is_what_two_scores_can_come_to_within_the_tolerance_of_each(apart: float, passed: bool) -> None:
    """Two scores of 1 may each move by 2e-5 at most, against each other: what lies further apart keeps its order."""
    scores = np.array([[1.0, 1.0 - apart], [0.9, 0.1]])
    rows = compare.outputs(
        Answers({"scores": scores, "class": np.array([1, 0])}),
        [SIGNATURE],
        PROBE,
        {"s/scores": scores, "s/class": np.array([0, 0])},
        ParityTest.SERVED,
        Tolerance(),
    )
    assert {found.output: found.passed for found in rows} == {"scores": True, "class": passed}


def test_a_tie_excuses_no_other_dtype_and_no_infinite_score() -> None:
    assert judged({"scores": SCORES, "class": np.array([1, 0], np.int32)})["class"] is False
    assert judged({"scores": SCORES, "class": np.array([1.0, 0.0], np.float32)})["class"] is False
    assert judged({"scores": SCORES, "class": np.array([2, 0])})["class"] is False
    infinite = np.array([[np.inf, 0.0]], np.float32)
    rows = compare.outputs(
        Answers({"scores": infinite, "class": np.array([1])}),
        [SIGNATURE],
        PROBE,
        {"s/scores": infinite, "s/class": np.array([0])},
        ParityTest.SERVED,
        Tolerance(),
    )
    assert {found.output: found.passed for found in rows} == {"scores": True, "class": False}


@pytest.mark.parametrize(
    "bounds", [{"absolute": float("inf")}, {"relative": -1.0}, {"outputs": {"y": (1.0, float("nan"))}}]
)
def test_no_tolerance_lets_everything_pass(bounds: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"finite|greater"):
        Tolerance.model_validate(bounds)


@pytest.mark.parametrize("error", [MemoryError(), OSError(24, "Too many open files")], ids=str)
def test_a_machine_without_room_is_no_verdict(error: Exception) -> None:
    class Full(Answers):
        def predict(self, signature: str, inputs: Mapping[str, Array]) -> Tensors:
            raise error

    with pytest.raises(type(error)):
        compare.outputs(Full({}), [SIGNATURE], PROBE, BASELINE, ParityTest.EXACT, Tolerance())


def test_tolerance_may_be_set_for_one_output() -> None:
    tolerance = Tolerance(outputs={"s/scores": (0.5, 0.0)})
    rows = compare.outputs(
        Answers({"scores": SCORES + np.float32(0.3), "class": np.array([1, 0])}),
        [SIGNATURE],
        PROBE,
        BASELINE,
        ParityTest.SERVED,
        tolerance,
    )
    assert all(found.passed for found in rows)


def fact(name: str, number: float) -> TensorFact:
    return tensor_file.fact(name, np.array([number], np.float32))


def test_values_are_matched_by_name_first_and_by_content_only_where_the_name_is_gone() -> None:
    def failures(expected: list[TensorFact], got: list[TensorFact]) -> list[str]:
        return [found.output for found in compare.values("form", expected, got) if found.passed is False]

    one, two = fact("a", 1), fact("b", 2)
    assert failures([one, two], [one, two]) == []
    assert failures([one, two], [fact("renamed/a", 1), fact("renamed/b", 2)]) == []
    assert failures([one, two], [fact("a", 2), fact("b", 1)]) == ["a", "b"]
    assert failures([one, two], [one]) == ["b"]
    assert failures([one], [fact("a", 1.0001), fact("c", 1)]) == ["a"]
    # Two equal values under new names need two equal values, not one twice.
    assert failures([one, fact("b", 1)], [fact("r/a", 1), fact("r/b", 2)]) == ["b"]
    assert failures([one], [fact("a", 1), fact("a", 2)]) == ["a"]


def test_no_variable_to_compare_is_said_and_not_passed() -> None:
    (found,) = compare.values("form", [], [fact("a", 1)])
    assert found.passed is None
    assert "no variable" in found.note


@pytest.mark.parametrize(
    ("update", "error"),
    [({"unstable": ("s/y",)}, NondeterministicError), ({"nonfinite": ("s/y",)}, ParityError)],
    ids=["nondeterministic", "not finite"],
)
def test_an_unfit_baseline_is_refused(update: dict[str, Any], error: type[PipelineError]) -> None:
    baseline = Baseline(step=1, environment=HERE, variables=())
    compare.require_usable(baseline)
    with pytest.raises(error, match="s/y"):
        compare.require_usable(baseline.model_copy(update=update))


def test_a_variable_that_must_be_finite_is_and_another_need_not_be() -> None:
    lost = tensor_file.fact("w", np.array([1.0, np.nan, -np.inf], np.float32))
    assert lost.nonfinite == 2
    baseline = Baseline(step=1, environment=HERE, variables=(Variable(name="w", key="w/ema", value=lost),))
    compare.require_usable(baseline)
    compare.require_usable(baseline, {"v"})
    with pytest.raises(ParityError, match=r"w \(2 of 3 values\)"):
        compare.require_usable(baseline, {"w"})


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64", "bfloat16", "float8_e5m2"])
def test_what_is_not_finite_is_counted_in_every_dtype_of_floats(dtype: str) -> None:
    array = np.array([1.0, np.nan, np.inf, 0.0]).astype(tensor_file.numpy_dtype(dtype))
    assert tensor_file.nonfinite(array) == 2


def test_integers_and_strings_are_finite() -> None:
    for array in (np.array([2**62]), np.array([True]), np.array([b"nan"], object), np.array(["inf"])):
        assert tensor_file.nonfinite(array) == 0


def test_a_value_that_nobody_recorded_is_named_and_a_renamed_one_is_none() -> None:
    def named(expected: list[TensorFact], got: list[TensorFact]) -> list[str]:
        return [found.output for found in compare.unexpected("form", expected, got)]

    one, two = fact("a", 1), fact("b", 2)
    assert named([one, two], [two, one]) == []
    assert named([one, two], [fact("r/a", 1), two]) == []
    assert named([one, two], [one, two, fact("c", 3)]) == ["c"]
    assert named([one, two], [one, two, fact("c", 1)]) == ["c"]
    assert named([], [one]) == ["a"]


def test_another_environment_is_not_compared_bit_for_bit() -> None:
    assert compare.test_for(HERE, HERE) is ParityTest.EXACT
    for field, value in (("tensorflow", "3"), ("cpu", "y"), ("onednn", False), ("intra_op_threads", 1)):
        assert compare.test_for(HERE, HERE.model_copy(update={field: value})) is ParityTest.SERVED
