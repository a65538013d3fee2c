"""A signature is called by its own method where a server answers it, and by Predict where none does."""

from __future__ import annotations

import pytest

from tasks.records.signature import Method, Signature, TensorSpec

Shape = tuple[int | None, ...] | None
Tensors = dict[str, tuple[str, Shape]]
EXAMPLES: Tensors = {"inputs": ("string", (None,))}


def signature(method: Method, inputs: Tensors, outputs: Tensors) -> Signature:
    def specs(side: Tensors) -> dict[str, TensorSpec]:
        return {name: TensorSpec(tensor=f"{name}:0", dtype=dtype, shape=shape) for name, (dtype, shape) in side.items()}

    return Signature(key="s", method=method, inputs=specs(inputs), outputs=specs(outputs))


@pytest.mark.parametrize(
    ("method", "outputs"),
    [
        (Method.REGRESS, {"outputs": ("float32", (None,))}),
        (Method.REGRESS, {"outputs": ("float32", (None, 1))}),
        (Method.REGRESS, {"outputs": ("float32", (None, None))}),
        (Method.REGRESS, {"outputs": ("float32", None)}),
        (Method.CLASSIFY, {"classes": ("string", (None, 3)), "scores": ("float32", (None, 3))}),
        (Method.CLASSIFY, {"scores": ("float32", None)}),
    ],
)
def test_what_a_server_answers_is_called_by_its_own_method(method: Method, outputs: Tensors) -> None:
    assert signature(method, EXAMPLES, outputs).called_by is method


@pytest.mark.parametrize(
    ("method", "inputs", "outputs", "reason"),
    [
        (Method.REGRESS, {"inputs": ("float32", (None,))}, {"outputs": ("float32", None)}, "inputs: float32 [?]"),
        (Method.REGRESS, {"x": ("string", None)}, {"outputs": ("float32", None)}, "x: string of unknown rank"),
        (Method.REGRESS, EXAMPLES, {"outputs": ("float32", (None, 2))}, "outputs: float32 [?, 2]"),
        (Method.REGRESS, EXAMPLES, {"outputs": ("float32", ())}, "outputs: float32 []"),
        (Method.REGRESS, EXAMPLES, {"outputs": ("float64", (None,))}, "float64"),
        (Method.REGRESS, EXAMPLES, {"y": ("float32", (None,))}, "y: float32"),
        (Method.CLASSIFY, EXAMPLES, {"classes": ("string", (None,))}, "classes: string [?]"),
        (Method.CLASSIFY, EXAMPLES, {"classes": ("int64", (None, 3))}, "int64"),
        (Method.CLASSIFY, EXAMPLES, {"scores": ("float32", (None, 3)), "more": ("float32", None)}, "more"),
        (Method.CLASSIFY, EXAMPLES, {}, "none"),
    ],
)
def test_what_no_server_answers_is_called_by_predict_and_says_why(
    method: Method, inputs: Tensors, outputs: Tensors, reason: str
) -> None:
    one = signature(method, inputs, outputs)
    assert one.called_by is Method.PREDICT and reason in one.unanswerable
