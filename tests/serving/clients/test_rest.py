"""A REST answer is parsed as the declared dtype, or as something that the comparison sees to differ."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest

from tasks.errors import ChildFailed
from tasks.parity import compare
from tasks.records.parity import Limit, ParityTest, Tolerance
from tasks.records.serving import Endpoint
from tasks.records.settings import Serving
from tasks.records.signature import Method, Signature, TensorSpec
from tasks.serving.checks import requests
from tasks.serving.checks.requests import KnownRequest, compare_answers
from tasks.serving.clients.grpc import AnsweredError, NotCarriedError
from tasks.serving.clients.rest import RestPredictor, jsonable, parsed
from tasks.tensors.tensor_file import Array, Tensors, as_array, numpy_dtype

DRAWN = np.random.default_rng(0).bytes(40_000)
NOBODY = Endpoint(grpc="127.0.0.1:1", rest="http://127.0.0.1:1")

LIMIT = Limit(absolute=(1e-5,), relative=(1e-5,))


def read(value: Any, dtype: str) -> Array:
    return parsed(value, TensorSpec(tensor="y:0", dtype=dtype, shape=None))


@pytest.mark.parametrize(
    "array",
    [
        np.array([[1.5, -0.0], [1e30, 2.0]], np.float32),
        np.array([2**63 - 1, -(2**63)], np.int64),
        np.array([2**64 - 1, 1], np.uint64),
        np.array([True, False]),
        np.array([255, 0], np.uint8),
        np.array([b"a\0", b""], object),
        np.float32(0.5).reshape(()),
        np.array([number for number in np.frombuffer(DRAWN, np.float32) if np.isfinite(number)]),
    ],
    ids=lambda array: f"{array.dtype}{list(array.shape)}",
)
def test_every_dtype_comes_back_as_it_went(array: Array) -> None:
    found = read(jsonable(array), "string" if array.dtype == object else array.dtype.name)
    assert compare.compare("f", "s", "y", ParityTest.EXACT, array, found, LIMIT).passed


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ([1.0], "int64"),
        ([1], "float32"),
        ([True], "int32"),
        ([-1, 263], "uint8"),
        ([2**32 + 5], "int32"),
        ([5], "string"),
        ([[1, 2], [3]], "int32"),
        ([[{"b64": "YQ=="}], [{"b64": "YQ=="}, {"b64": "YQ=="}]], "string"),
        (None, "float32"),
        ({"y": 1.0}, "float32"),
    ],
    ids=str,
)
def test_other_json_is_not_made_to_fit(value: Any, dtype: str) -> None:
    found = read(value, dtype)
    expected = np.array([b"5"], object) if dtype == "string" else np.array([1], dtype=dtype)
    for wanted in (expected, np.array([255, 7], np.uint8), np.array([5], np.int32)):
        row = compare.compare("f", "s", "y", ParityTest.SERVED, wanted, found, LIMIT)
        assert row.passed is False


@pytest.mark.parametrize("flag", ["--model_base_path=/elsewhere", "--port=1", "-model_name=other"])
def test_the_flags_that_say_what_is_tested_are_ours(flag: str) -> None:
    with pytest.raises(ValueError, match="neither what is served nor where"):
        Serving(flags=(flag,))


def test_a_float32_is_written_with_no_more_digits_than_it_needs() -> None:
    assert jsonable(np.array([[0.1, 16777216.0], [1e-45, -3.4028235e38]], np.float32)) == [
        [0.1, 16777216.0],
        [1e-45, -3.4028235e38],
    ]


# What JSON cannot hold ------------------------------------------------------------------------------------------------


def signature(outputs: Tensors, **changes: Any) -> Signature:
    """A signature with an input of open batch, and outputs of unknown shape."""
    specs = {name: TensorSpec(tensor=f"{name}:0", dtype="float32", shape=None) for name in outputs}
    inputs = {"x": TensorSpec(tensor="x:0", dtype="float32", shape=(None,))}
    return Signature(
        **{"key": "serving_default", "method": Method.PREDICT, "inputs": inputs, "outputs": specs} | changes
    )


def shown(outputs: Tensors, *, by_row: bool = False, **changes: Any) -> Tensors:
    spec = signature(outputs, **changes)
    return RestPredictor(NOBODY, "model", {spec.key: spec}, 1.0, by_row=by_row).shown(spec, outputs)


@pytest.mark.parametrize(
    ("shape", "answer", "same"),
    [
        ((0, 4), [], True),
        ((0, 4), [[]], False),
        ((0, 4), [[1.0, 2.0, 3.0, 4.0]], False),
        ((2, 0, 4), [[], []], True),
        ((2, 0, 4), [], False),
        ((2, 0, 4), [[]], False),
        ((2, 0, 4), [[1.0], [2.0]], False),
        ((2, 0), [[], []], True),
        ((2, 3), [[], []], False),
        ((2, 3), [], False),
        ((3, 2), [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]], False),
    ],
    ids=str,
)
def test_only_an_empty_answer_is_excused_from_the_dimensions_that_json_does_not_write(
    shape: tuple[int, ...], answer: Any, same: bool
) -> None:
    expected = shown({"y": np.ones(shape, np.float32)})["y"]
    found = parsed(answer, TensorSpec(tensor="y:0", dtype="float32", shape=None))
    row = compare.compare("f", "s", "y", ParityTest.SERVED, expected, found, LIMIT)
    assert row.passed is (None if same else False), "nothing was compared, or it differs"


RAW = np.array([b"ok", b"\xff\xfe"], object)
TEXT = np.array([b"ok", "ü".encode()], object)


@pytest.mark.parametrize(
    ("outputs", "changes", "carried"),
    [
        ({"image": RAW}, {}, False),
        ({"image_bytes": RAW}, {}, True),
        ({"image": TEXT}, {}, True),
        ({"classes": RAW}, {"method": Method.CLASSIFY}, False),
        ({"y": np.ones((2,), np.float32)}, {"inputs": {}}, False),
        ({"y": np.ones((2,), np.float32), "z": np.ones((), np.float32)}, {}, True),
        ({"y": np.ones((2,), np.float32), "z": np.ones((), np.float32)}, {"by_row": True}, False),
        ({"y": np.ones((2,), np.float32), "z": np.ones((3,), np.float32)}, {"by_row": True}, False),
        ({"y": np.ones((2,), np.float32), "z": np.ones((2, 5), np.float32)}, {"by_row": True}, True),
    ],
)
def test_what_the_live_model_answers_says_whether_json_can_hold_it(
    outputs: Tensors, changes: dict[str, Any], carried: bool
) -> None:
    if carried:
        assert all(np.array_equal(shown(outputs, **changes)[name], outputs[name]) for name in outputs)
        return
    with pytest.raises(NotCarriedError):
        shown(outputs, **changes)


@pytest.mark.parametrize("dtype", ["quint8", "qint32", "int4", "bfloat16", "float8_e5m2", "complex64", "uint16"])
def test_a_dtype_that_is_not_in_json_is_not_carried(dtype: str) -> None:
    spec = signature({}).model_copy(update={"outputs": {"y": TensorSpec(tensor="y:0", dtype=dtype, shape=None)}})
    with pytest.raises(NotCarriedError, match=dtype):
        RestPredictor(NOBODY, "model", {spec.key: spec}, 1.0).predict(spec.key, {"x": np.ones((2,), np.float32)})


def test_a_quantised_tensor_is_its_integers() -> None:
    structured = np.array([(1,), (255,)], dtype=[("quint8", np.uint8)])
    assert as_array(structured).tolist() == [1, 255] and as_array(structured).dtype == numpy_dtype("quint8")


def test_a_request_too_long_for_rest_is_not_sent_and_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "BODY_BYTES", 10 * 2**10)
    x = np.full((3, 1_000), 0.5, np.float32)
    outputs = {"y": np.ones((3,), np.float32)}
    spec = signature(outputs)
    rest = RestPredictor(NOBODY, "model", {spec.key: spec}, 1.0)
    (row,) = compare_answers(KnownRequest("served (REST)", rest, spec, {"x": x}, outputs, 3), Tolerance())
    assert row.passed is None and row.note.startswith("not made: REST cannot carry 3 rows, 14 KiB of JSON")


@pytest.mark.parametrize(("status", "error"), [(413, NotCarriedError), (503, ChildFailed), (400, AnsweredError)])
def test_which_answers_are_about_the_model(status: int, error: type[Exception]) -> None:
    rest = RestPredictor(NOBODY, "model", {}, 1.0)
    rest.client = httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(status, text="no")))
    with pytest.raises(error):
        rest.ask(":predict", {}, "outputs")
