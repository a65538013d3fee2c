"""The embedded server gives the answers that a real tensorflow_model_server 2.20.0 gave, case by case."""

from __future__ import annotations

import ast
import base64
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from tests.serving.embedded.embedded_server import RunningServer, serving

_FOLDER = os.environ.get("TFSHIP_GOLDEN", "")
_TOLERANCE = 1e-6

pytestmark = pytest.mark.skipif(
    not _FOLDER, reason="set TFSHIP_GOLDEN to the folder of answers recorded from a real server (cases.json, models)"
)


def _cases() -> list[dict[str, Any]]:
    if not _FOLDER:
        return []
    cases: list[dict[str, Any]] = json.loads((Path(_FOLDER) / "cases.json").read_text())["cases"]
    return cases


def _of(protocol: str) -> list[Any]:
    return [pytest.param(case, id=case["name"]) for case in _cases() if case["protocol"] == protocol]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    directory = tmp_path_factory.mktemp("golden")
    config = directory / "models.config"
    template = (Path(_FOLDER) / "models.config").read_text()
    config.write_text(template.replace("$MODELS", str(Path(_FOLDER).resolve() / "models")))
    arguments = [f"--model_config_file={config}", "--allow_version_labels_for_unavailable_models=true"]
    with serving(arguments, directory) as running:
        yield running


@pytest.mark.parametrize("case", _of("rest"))
def test_rest(case: dict[str, Any], client: httpx.Client) -> None:
    asked, expected = case["request"], case["response"]
    content = base64.b64decode(asked["body_b64"]) if "body_b64" in asked else asked.get("body", "").encode()
    answer = client.request(asked["method"], asked["path"], headers=asked.get("headers"), content=content or None)
    assert answer.status_code == expected["status"], answer.text
    if expected["body"].startswith("<"):
        return
    if not expected["body"]:
        assert answer.content == b""
        return
    _same(json.loads(answer.content), json.loads(expected["body"]))
    assert answer.headers["content-type"] == dict(expected["headers"])["Content-Type"]


def _same(got: Any, expected: Any, where: str = "") -> None:
    if isinstance(expected, float) and isinstance(got, float):
        close = math.isclose(got, expected, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
        assert close or (math.isnan(got) and math.isnan(expected)), f"{where}: {got} is not {expected}"
        return
    assert type(got) is type(expected), f"{where}: {got!r} is not {expected!r}"
    if isinstance(expected, dict):
        assert got.keys() == expected.keys(), where
        for key, value in expected.items():
            _same(got[key], value, f"{where}/{key}")
    elif isinstance(expected, list):
        assert len(got) == len(expected), where
        for index, value in enumerate(expected):
            _same(got[index], value, f"{where}/{index}")
    else:
        assert got == expected, where


@pytest.mark.parametrize("case", _of("grpc"))
def test_grpc(case: dict[str, Any], channel: grpc.Channel) -> None:
    from google.protobuf import text_format

    asked, expected = case["request"], case["response"]
    request_type, response_type = _messages(asked["method"].rpartition("/")[2])
    if asked["textproto"].startswith("b'"):
        serialized = ast.literal_eval(asked["textproto"])
    else:
        serialized = text_format.Parse(asked["textproto"], request_type()).SerializeToString()
    call = channel.unary_unary(asked["method"])
    if expected["code"] == "OK":
        got = response_type.FromString(call(serialized, timeout=30))
        _same_message(got, text_format.Parse(expected["message_textproto"], response_type()))
        return
    with pytest.raises(grpc.RpcError) as refused:
        call(serialized, timeout=30)
    assert (refused.value.code().name, refused.value.details()) == (expected["code"], expected["details"])


def _messages(method: str) -> tuple[Any, Any]:
    from tensorflow_serving.apis import (
        classification_pb2,
        get_model_metadata_pb2,
        get_model_status_pb2,
        inference_pb2,
        predict_pb2,
        regression_pb2,
    )

    return {
        "Classify": (classification_pb2.ClassificationRequest, classification_pb2.ClassificationResponse),
        "Regress": (regression_pb2.RegressionRequest, regression_pb2.RegressionResponse),
        "MultiInference": (inference_pb2.MultiInferenceRequest, inference_pb2.MultiInferenceResponse),
        "GetModelMetadata": (
            get_model_metadata_pb2.GetModelMetadataRequest,
            get_model_metadata_pb2.GetModelMetadataResponse,
        ),
        "GetModelStatus": (get_model_status_pb2.GetModelStatusRequest, get_model_status_pb2.GetModelStatusResponse),
    }.get(method, (predict_pb2.PredictRequest, predict_pb2.PredictResponse))


def _same_message(got: Any, expected: Any) -> None:
    from google.protobuf import json_format

    options = {"preserving_proto_field_name": True}
    _same(json_format.MessageToDict(got, **options), json_format.MessageToDict(expected, **options))
