"""Invalid requests, each of which must get the error that the real server gives it. Runs in a child.

The errors: tensorflow_serving/servables/tensorflow/predict_util.cc, classifier.cc, regressor.cc and
tensorflow_serving/util/json_tensor.cc, as observed on a running server.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tasks.records.serving import Cause, Check
from tasks.records.signature import Method, Signature
from tasks.serving.checks.requests import KnownRequest
from tasks.serving.clients.grpc import AnsweredError, GrpcPredictor
from tasks.serving.clients.rest import IN_JSON, RestPredictor, jsonable
from tasks.tensors.tensor_file import Array, Tensors

_INVALID = frozenset({"INVALID_ARGUMENT"})
_NO_SIGNATURE = _INVALID | {"FAILED_PRECONDITION"}
_NOT_FOUND = frozenset({"NOT_FOUND"})
# The server does not check ranks: any of these answers will do, as long as the server survives.
_EITHER = frozenset({"OK", "INVALID_ARGUMENT", "FAILED_PRECONDITION", "NOT_FOUND"})

Case = tuple[str, Callable[[Any], object], frozenset[str]]


def over_grpc(grpc: GrpcPredictor, good: KnownRequest, version: int) -> Iterator[Check]:
    """Send variants of a valid request, each with one fault, by the method of its signature."""
    request, call = grpc.call(good.signature.key, good.inputs)
    for case, change, expected in _cases(good.signature, version):
        bad = type(request)()
        bad.CopyFrom(request)
        change(bad)
        try:
            grpc.send(call, bad)
            answered = "OK"
        except AnsweredError as error:
            answered = str(error).partition(":")[0]
        yield _check("gRPC", case, " or ".join(sorted(expected)), answered, passed=answered in expected)


def _cases(signature: Signature, version: int) -> Iterator[Case]:
    yield "unknown signature", lambda request: setattr(request.model_spec, "signature_name", "no such"), _NO_SIGNATURE
    yield "unknown model", lambda request: setattr(request.model_spec, "name", "no_such_model"), _NOT_FOUND
    yield "another version", lambda request: setattr(request.model_spec.version, "value", version + 1), _NOT_FOUND
    if signature.called_by is not Method.PREDICT:
        yield "no examples", lambda request: request.ClearField("input"), _INVALID
        return
    yield "unknown output", lambda request: request.output_filter.append("no such"), _INVALID
    if signature.inputs:
        name = min(signature.inputs)
        yield "missing input", lambda request: request.inputs.pop(name), _INVALID
        yield "wrong dtype", lambda request: _retype(request, name), _INVALID
        yield "wrong rank", lambda request: request.inputs[name].tensor_shape.dim.add(size=1), _EITHER


def over_rest(rest: RestPredictor, good: KnownRequest, version: int) -> Iterator[Check]:
    """Send invalid bodies and URLs, and variants of a valid request with one fault each."""
    model, signature = rest.model, good.signature
    elsewhere = f"{model.rpartition('/')[0]}/no_such_model:predict"
    cases: list[tuple[str, str, Any, int]] = [
        ("broken JSON", f"{model}:predict", '{"inputs": [', 400),
        ("neither inputs nor instances", f"{model}:predict", {}, 400),
        ("unknown signature", f"{model}:predict", {"signature_name": "no such", "inputs": [1.0]}, 400),
        ("unknown model", elsewhere, {"inputs": [1.0]}, 404),
        ("another version", f"{model}/versions/{version + 1}:predict", {"inputs": [1.0]}, 404),
    ]
    if signature.called_by is not Method.PREDICT:
        verb = "classify" if signature.called_by is Method.CLASSIFY else "regress"
        cases.append(("no examples", f"{model}:{verb}", {"signature_name": signature.key}, 400))
    elif signature.inputs and {spec.dtype for spec in signature.inputs.values()} <= IN_JSON:
        for case, columns in _spoiled(signature, good.inputs):
            cases.append((case, f"{model}:predict", {"signature_name": signature.key, "inputs": columns}, 400))
    for case, url, body, expected in cases:
        code = rest.post(url, body if isinstance(body, str) else json.dumps(body)).status_code
        yield _check("REST", case, str(expected), str(code), passed=code == expected)


def _spoiled(signature: Signature, inputs: Tensors) -> Iterator[tuple[str, dict[str, Any]]]:
    name = min(signature.inputs)
    others = {other: jsonable(array) for other, array in inputs.items() if other != name}
    yield "missing input", others
    yield "wrong dtype", others | {name: [1 if signature.inputs[name].dtype == "string" else "no number"]}


def _check(protocol: str, case: str, expected: str, answered: str, *, passed: bool) -> Check:
    return Check(
        protocol=protocol, case=case, expected=expected, answered=answered, passed=passed, cause=Cause.NOT_REFUSED
    )


def _retype(request: Any, name: str) -> None:
    import tensorflow as tf

    wrong: Array = np.zeros((1,), dtype=bool)
    if request.inputs[name].dtype == tf.bool.as_datatype_enum:
        wrong = np.zeros((1,), dtype=np.int64)
    request.inputs[name].CopyFrom(tf.make_tensor_proto(wrong))
