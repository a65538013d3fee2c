"""Laws for any model: row and column formats agree, numbers keep every bit, errors are the client's.

The model is `mirror` of makers/servables.py, whose outputs are its inputs: signatures of every dtype, names of every kind.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests.serving.embedded.embedded_server import RunningServer, serving

_NUMERIC = ("float32", "float64", "int8", "uint8", "int16", "int32", "int64", "uint32", "uint64", "bool")
_PATH = "/v1/models/sp%C3%ADegel.v-1:predict"
_MODEL = "spíegel.v-1"
_property = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[RunningServer]:
    directory = tmp_path_factory.mktemp("properties")
    shutil.copytree(models / "mirror", directory / "mirror" / "7")
    for name in ("graded", "misnamed"):
        shutil.copytree(models / name, directory / name / "1")
    (directory / "models.config").write_text(
        "model_config_list {"
        f' config {{ name: "{_MODEL}" base_path: "{directory}/mirror" model_platform: "tensorflow" }}'
        f' config {{ name: "misnamed" base_path: "{directory}/misnamed" model_platform: "tensorflow" }}'
        f' config {{ name: "graded" base_path: "{directory}/graded" model_platform: "tensorflow" }} }}'
    )
    with serving([f"--model_config_file={directory}/models.config"], directory) as running:
        yield running


def _tensors(dtype: str) -> st.SearchStrategy[Any]:
    shapes = arrays.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=3)
    return arrays.arrays(dtype, shapes)


def _post(client: httpx.Client, body: object) -> httpx.Response:
    return client.post(_PATH, content=json.dumps(body).encode())


class _Number(str):
    """A number as it is written."""


def _answered(response: httpx.Response, key: str) -> Any:
    assert response.status_code == 200, response.text
    document = json.loads(response.content, parse_float=_Number)
    assert list(document) == [key]
    return document[key]


def _same(got: Any, wanted: Any, dtype: np.dtype[Any]) -> None:
    if isinstance(wanted, list):
        assert isinstance(got, list) and len(got) == len(wanted)
        for one, other in zip(got, wanted, strict=True):
            _same(one, other, dtype)
    elif isinstance(wanted, float) and np.isfinite(wanted):
        assert isinstance(got, _Number), f"{got!r} does not look like a decimal"
        assert dtype.type(got) == dtype.type(wanted) and np.signbit(dtype.type(got)) == np.signbit(wanted)
    elif isinstance(wanted, float):
        assert str(got) == str(wanted)
    else:
        assert type(got) is type(wanted) and got == wanted


@_property
@given(data=st.data(), dtype=st.sampled_from(_NUMERIC))
def test_rows_columns_and_grpc_answer_every_bit(
    client: httpx.Client, channel: grpc.Channel, data: st.DataObject, dtype: str
) -> None:
    tensor = data.draw(_tensors(dtype))
    values = tensor.tolist()
    key, alias = f"of {dtype}", f"{dtype}/ein gäng"
    by_row = _answered(_post(client, {"signature_name": key, "instances": values}), "predictions")
    named = [{alias: value} for value in values]
    by_name = _answered(_post(client, {"instances": named, "signature_name": key}), "predictions")
    by_column = _answered(_post(client, {"signature_name": key, "inputs": values}), "outputs")
    named_column = _answered(_post(client, {"signature_name": key, "inputs": {alias: values}}), "outputs")
    for got in (by_row, by_name, by_column, named_column):
        _same(got, values, tensor.dtype)

    from tasks.serving.embedded import tensors

    answer = _grpc_predict(channel, key, {alias: tensor})
    got = tensors.from_proto("y", answer.outputs[f"{dtype}.out"])
    assert got.dtype == tensor.dtype and got.shape == tensor.shape
    assert got.tobytes() == tensor.tobytes() or np.array_equal(got, tensor, equal_nan=True)
    assert (answer.model_spec.name, answer.model_spec.version.value, answer.model_spec.signature_name) == (
        _MODEL,
        7,
        key,
    )


def _grpc_predict(channel: grpc.Channel, key: str, inputs: dict[str, Any]) -> Any:
    from tensorflow_serving.apis import predict_pb2

    from tasks.serving.embedded import tensors

    request = predict_pb2.PredictRequest()
    request.model_spec.name = _MODEL
    request.model_spec.signature_name = key
    for alias, array in inputs.items():
        tensors.fill_proto(request.inputs[alias], array)
    call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    return predict_pb2.PredictResponse.FromString(call(request.SerializeToString(), timeout=30))


@_property
@given(st.lists(st.binary(max_size=12), min_size=1, max_size=5), st.booleans())
def test_bytes_go_and_come_as_base64(client: httpx.Client, strings: list[bytes], columns: bool) -> None:
    values = [{"b64": base64.b64encode(string).decode()} for string in strings]
    body = {"inputs": values} if columns else {"instances": [{"given_bytes": value} for value in values]}
    answer = _answered(_post(client, {"signature_name": "bytes", **body}), "outputs" if columns else "predictions")
    assert answer == values


@_property
@given(st.lists(st.text(max_size=12), min_size=1, max_size=5))
def test_text_comes_back_as_text(client: httpx.Client, texts: list[str]) -> None:
    assume(all(text.isprintable() or "\0" not in text for text in texts))
    body = {"signature_name": "of string", "instances": texts}
    assert _answered(_post(client, body), "predictions") == texts


@_property
@given(
    left=st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=4),
    right=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=4, max_size=4),
)
def test_several_outputs_have_names_in_both_forms(client: httpx.Client, left: list[float], right: list[int]) -> None:
    right = right[: len(left)]
    rows = [{"l": one, "r[0]": other} for one, other in zip(left, right, strict=True)]
    by_row = _answered(_post(client, {"signature_name": "both", "instances": rows}), "predictions")
    by_column = _answered(_post(client, {"signature_name": "both", "inputs": {"l": left, "r[0]": right}}), "outputs")
    _same([row["L"] for row in by_row], left, np.dtype(np.float32))
    assert [row["R"] for row in by_row] == right
    assert by_row == [{"L": one, "R": two} for one, two in zip(by_column["L"], by_column["R"], strict=True)]


_GOOD = {"signature_name": "both", "inputs": {"l": [1.5], "r[0]": [2]}}
_WRONG = st.one_of(
    st.sampled_from(["l", "r[0]"]).map(lambda alias: {**_GOOD, "inputs": {alias: [1]}}),
    st.text(min_size=1).filter(lambda name: name != "both").map(lambda name: {**_GOOD, "signature_name": name}),
    st.one_of(st.text(), st.booleans(), st.none(), st.floats(0.1, 0.9)).map(
        lambda value: {**_GOOD, "inputs": {"l": [1.5], "r[0]": [value]}}
    ),
    st.integers(1, 3).map(lambda more: {**_GOOD, "inputs": {"l": [[1.5], [1.5] * (more + 1)], "r[0]": [2]}}),
    st.sampled_from([2**63, -(2**63) - 1, 10**30]).map(lambda n: {**_GOOD, "inputs": {"l": [1.5], "r[0]": [n]}}),
    st.just({**_GOOD, "instances": [{"l": 1.5, "r[0]": 2}]}),
    st.just({"signature_name": "both", "instances": [{"l": 1.5, "r[0]": 2}, {"l": 1.5}]}),
    st.just({"signature_name": "both", "instances": [{"l": 1.5, "r[0]": 2}, {"l": [1.5], "r[0]": 2}]}),
    st.just({"signature_name": "both", "instances": [1.5]}),
    st.just({"signature_name": "of string", "instances": [{"b64": "?"}]}),
)


@_property
@given(_WRONG)
def test_what_is_wrong_is_the_clients_error_and_the_next_is_answered(client: httpx.Client, body: object) -> None:
    refused = _post(client, body)
    assert 400 <= refused.status_code < 500, refused.text
    assert isinstance(refused.json()["error"], str)
    assert _post(client, _GOOD).json() == {"outputs": {"L": [1.5], "R": [2]}}


@_property
@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=4))
def test_examples_are_classified_and_regressed_alike_over_both_protocols(
    client: httpx.Client, channel: grpc.Channel, marks: list[float]
) -> None:
    from tensorflow_serving.apis import inference_pb2

    examples = [{"mark": mark} for mark in marks]
    classified = client.post("/v1/models/graded:classify", json={"examples": examples}).json()["results"]
    points = {"signature_name": "points", "examples": examples}
    regressed = client.post("/v1/models/graded/versions/1:regress", json=points).json()["results"]

    request = inference_pb2.MultiInferenceRequest()
    for key, method in (("", "classify"), ("points", "regress")):
        task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name, task.model_spec.signature_name = "graded", key
    for mark in marks:
        example = request.input.example_list.examples.add()
        example.features.feature["mark"].float_list.value.append(mark)
    call = channel.unary_unary("/tensorflow.serving.PredictionService/MultiInference")
    answer = inference_pb2.MultiInferenceResponse.FromString(call(request.SerializeToString(), timeout=30))
    both, points_alone = (result for result in answer.results)
    assert [value.value for value in points_alone.regression_result.regressions] == pytest.approx(regressed, rel=1e-6)
    for row, mark, over_grpc in zip(classified, marks, both.classification_result.classifications, strict=True):
        assert [label for label, _ in row] == [found.label for found in over_grpc.classes] == ["pass", "fail"]
        assert [score for _, score in row] == pytest.approx([mark, 1 - mark], abs=1e-6)
        assert [score for _, score in row] == pytest.approx([found.score for found in over_grpc.classes], rel=1e-6)


@pytest.mark.parametrize(
    ("signature", "words"),
    [
        (
            "idle",
            "Tried to fetch data for 'idle:0', which produces no output.  To run to a node but not fetch any data",
        ),
        ("gone", "FetchOutputs node gone:0: not found"),
        ("beyond", "FetchOutputs x:3: output index too large, must be < 1"),
        ("fed gone", "FeedInputs: unable to find feed output gone:0"),
        ("fed beyond", "FeedInputs: x:3 should have output index < 1"),
        ("fed idle", "FeedInputs: idle:0 should have output index < 0"),
    ],
)
def test_a_signature_of_what_is_no_tensor_is_refused_as_the_session_does(
    client: httpx.Client, signature: str, words: str
) -> None:
    def asked(key: str) -> httpx.Response:
        return client.post("/v1/models/misnamed:predict", json={"signature_name": key, "instances": [1.5]})

    refused = asked(signature)
    assert refused.status_code in (400, 404) and words in refused.json()["error"]
    assert asked("short").json() == {"predictions": [1.5]}, "a name without an index means output 0"


def test_a_tensor_of_unknown_rank_has_the_dimensions_that_it_has(channel: grpc.Channel) -> None:
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = _MODEL, "of float32"
    given = request.inputs["float32/ein gäng"]
    given.dtype, given.tensor_shape.unknown_rank = 1, True
    given.float_val.append(1.5)
    call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    (answer,) = predict_pb2.PredictResponse.FromString(call(request.SerializeToString(), timeout=60)).outputs.values()
    assert (list(answer.float_val), len(answer.tensor_shape.dim)) == ([1.5], 0)


def test_who_names_no_signature_is_told_which_one_answered(channel: grpc.Channel) -> None:
    from tensorflow_serving.apis import classification_pb2

    request = classification_pb2.ClassificationRequest()
    request.model_spec.name = "graded"
    request.input.example_list.examples.add().features.feature["mark"].float_list.value.append(0.5)
    call = channel.unary_unary("/tensorflow.serving.PredictionService/Classify")
    answer = classification_pb2.ClassificationResponse.FromString(call(request.SerializeToString(), timeout=60))
    assert answer.model_spec.signature_name == "serving_default"


def test_an_integer_of_more_than_63_bits_is_no_feature(client: httpx.Client) -> None:
    refused = client.post("/v1/models/graded:classify", json={"examples": [{"mark": 2**63}]})
    assert "Feature: mark has uint64_t element. Only int64_t is supported." in refused.json()["error"]
