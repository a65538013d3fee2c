"""Asking a model server, over gRPC and REST, as one more form of the model. Runs in a child: the protos import TensorFlow.

Protocol facts: tensorflow_serving/apis/*.proto for gRPC, and the REST API as described in TensorFlow Serving's
`g3doc/api_rest.md` (columnar format: one list for each input, under `inputs`).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from tasks.errors import ChildFailed, PipelineError
from tasks.forms.tensors import Array, Tensors, as_array, numpy_dtype
from tasks.records.baseline import TensorFact
from tasks.records.serving import Endpoint
from tasks.records.signature import Method, Signature, TensorSpec

# What REST's JSON has no way to carry (tensorflow_serving/util/json_tensor.cc).
NOT_IN_JSON = frozenset({"bfloat16", "float16", "uint16", "complex64", "complex128"})
# Answers that say nothing about the model (grpc/statuscodes.md; RFC 9110).
_TRANSIENT = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "CANCELLED", "ABORTED"})
_BUSY = frozenset({429, 502, 503, 504})
_MESSAGE_BYTES = 512 * 2**20


class NotCarriedError(PipelineError):
    """This protocol cannot carry a dtype that the signature uses: not a failure, but not a comparison either."""


class AnsweredError(Exception):
    """The server answered a request with an error: a finding about the model, for the comparison to record."""


@contextmanager
def reaching(protocol: str, seconds: float) -> Iterator[None]:
    """Tell a server that cannot be reached, or is too slow, from one that answers with an error."""
    import grpc
    import httpx

    remedy = "see whether the server still runs (its log), or raise `serving.request_timeout`."
    try:
        yield
    except grpc.RpcError as error:
        if error.code().name in _TRANSIENT:
            found = f"{error.code().name}: {error.details()}"
            raise ChildFailed(f"the server over {protocol}", f"an answer within {seconds:g} s", found, remedy) from None
        raise AnsweredError(f"{error.code().name}: {error.details()}") from None
    except httpx.TransportError as error:
        found = f"{type(error).__name__}: {error}"
        raise ChildFailed(f"the server over {protocol}", f"an answer within {seconds:g} s", found, remedy) from None


class GrpcPredictor:
    """A served model over gRPC. `version` is what the last answer said it came from."""

    form = "served (gRPC)"

    def __init__(self, endpoint: Endpoint, name: str, signatures: Mapping[str, Signature], seconds: float) -> None:
        import grpc
        from tensorflow_serving.apis import prediction_service_pb2_grpc

        options = [
            ("grpc.max_send_message_length", _MESSAGE_BYTES),
            ("grpc.max_receive_message_length", _MESSAGE_BYTES),
        ]
        self.channel = grpc.insecure_channel(endpoint.grpc, options=options)
        self.service = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.name, self.signatures, self.seconds = name, signatures, seconds
        self.version: int | None = None

    def predict(self, signature: str, inputs: Mapping[str, Array]) -> Tensors:
        """See `Predictor`.

        Raises:
            AnsweredError: the server answered with an error.
            NotCarriedError: the protocol cannot carry a dtype of the signature.
            ChildFailed: the server did not answer.
        """
        spec = self.signatures[signature]
        if spec.method is Method.PREDICT:
            return self._predict(signature, inputs)
        request, call = self._classification(spec, inputs)
        with reaching("gRPC", self.seconds):
            answer = call(request, timeout=self.seconds)
        self.version = int(answer.model_spec.version.value)
        if spec.method is Method.REGRESS:
            (output,) = spec.outputs
            values = [regression.value for regression in answer.result.regressions]
            return {output: np.array(values, dtype=np.float32).reshape(_shape(spec.outputs[output], len(values)))}
        rows = [[(c.label.encode(), c.score) for c in row.classes] for row in answer.result.classifications]
        return _classified(spec, rows)

    def _predict(self, signature: str, inputs: Mapping[str, Array]) -> Tensors:
        import tensorflow as tf

        with reaching("gRPC", self.seconds):
            answer = self.service.Predict(self.request(signature, inputs), timeout=self.seconds)
        self.version = int(answer.model_spec.version.value)
        return {name: as_array(tf.make_ndarray(tensor)) for name, tensor in answer.outputs.items()}

    def request(self, signature: str, inputs: Mapping[str, Array]) -> Any:
        """A PredictRequest for this model."""
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest()
        request.model_spec.name = self.name
        request.model_spec.signature_name = signature
        for name, array in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
        return request

    def _classification(self, spec: Signature, inputs: Mapping[str, Array]) -> tuple[Any, Any]:
        import tensorflow as tf
        from tensorflow_serving.apis import classification_pb2, regression_pb2

        classify = spec.method is Method.CLASSIFY
        request = classification_pb2.ClassificationRequest() if classify else regression_pb2.RegressionRequest()
        request.model_spec.name = self.name
        request.model_spec.signature_name = spec.key
        (examples,) = inputs.values()
        for encoded in examples.ravel():
            request.input.example_list.examples.append(tf.train.Example.FromString(encoded))
        return request, self.service.Classify if classify else self.service.Regress

    def metadata(self) -> list[Signature]:
        """The signatures that the server reports."""
        from tensorflow_serving.apis import get_model_metadata_pb2

        from tasks.forms.saved_model import signatures_in

        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = self.name
        with reaching("gRPC", self.seconds):
            answer = self.service.GetModelMetadata(request, timeout=self.seconds)
        reported = get_model_metadata_pb2.SignatureDefMap()
        answer.metadata["signature_def"].Unpack(reported)
        return signatures_in(reported.signature_def)

    def values(self) -> Iterator[TensorFact]:
        """None: a server does not show its variables."""
        return iter(())

    def close(self) -> None:
        """Close the channel."""
        self.channel.close()


class RestPredictor:
    """A served model over REST."""

    form = "served (REST)"

    def __init__(self, endpoint: Endpoint, name: str, signatures: Mapping[str, Signature], seconds: float) -> None:
        import httpx

        self.model = f"{endpoint.rest}/v1/models/{name}"
        self.client = httpx.Client(timeout=seconds, trust_env=False)
        self.signatures = signatures

    def predict(self, signature: str, inputs: Mapping[str, Array]) -> Tensors:
        """See `Predictor`.

        Raises:
            AnsweredError: the server answered with an error.
            NotCarriedError: the protocol cannot carry a dtype of the signature.
            ChildFailed: the server did not answer.
        """
        spec = self.signatures[signature]
        carried = {spec.dtype for spec in (*spec.inputs.values(), *spec.outputs.values())} & NOT_IN_JSON
        if carried:
            raise NotCarriedError("REST", "a dtype that JSON can carry", ", ".join(sorted(carried)), "use gRPC.")
        if spec.method is Method.PREDICT:
            columns = {name: jsonable(array) for name, array in inputs.items()}
            answer = self.ask(":predict", {"signature_name": signature, "inputs": columns})["outputs"]
            outputs = {next(iter(spec.outputs)): answer} if len(spec.outputs) == 1 else answer
            return {name: _parsed(value, spec.outputs.get(name)) for name, value in outputs.items()}
        (examples,) = inputs.values()
        body = {"signature_name": signature, "examples": [_example(encoded) for encoded in examples.ravel()]}
        if spec.method is Method.REGRESS:
            (output,) = spec.outputs
            values = self.ask(":regress", body)["results"]
            return {output: np.array(values, dtype=np.float32).reshape(_shape(spec.outputs[output], len(values)))}
        rows = self.ask(":classify", body)["results"]
        return _classified(spec, [[(label.encode(), score) for label, score in row] for row in rows])

    def ask(self, verb: str, body: Mapping[str, Any]) -> Any:
        """POST one request; the answer's JSON.

        Raises:
            AnsweredError: the server answered with an error.
            ChildFailed: it did not answer.
        """
        with reaching("REST", self.client.timeout.read or 0):
            answer = self.client.post(self.model + verb, content=json.dumps(body))
        if answer.status_code in _BUSY:
            found, remedy = f"{answer.status_code} {answer.text[:300]}", "see the server's log; run again."
            raise ChildFailed("the server over REST", "an answer", found, remedy)
        if answer.status_code != 200:
            raise AnsweredError(f"{answer.status_code} {answer.text[:300]}")
        return json.loads(answer.text)

    def values(self) -> Iterator[TensorFact]:
        """None: a server does not show its variables."""
        return iter(())

    def close(self) -> None:
        """Close the connections."""
        self.client.close()


def jsonable(array: Array) -> Any:
    """An array as nested lists for JSON; strings as `{"b64": …}`."""
    if array.dtype.kind in "OSU":
        encoded = [{"b64": base64.b64encode(item).decode()} for item in array.ravel().tolist()]
        nested = np.empty(array.shape, dtype=object)
        nested.ravel()[:] = encoded
        return nested.tolist()
    return array.tolist()


def _parsed(value: Any, spec: TensorSpec | None) -> Array:
    """JSON as an array of the expected dtype; left as it is where it does not fit, so that the comparison sees it."""
    flat, shape = _flattened(value)
    if spec is None or shape is None:
        return np.array(json.dumps(value), dtype=object)
    if spec.dtype == "string":
        texts = [base64.b64decode(item["b64"]) if isinstance(item, dict) else item for item in flat]
        array = np.empty(len(flat), dtype=object)
        if all(isinstance(text, (str, bytes)) for text in texts):
            array[:] = [text.encode() if isinstance(text, str) else text for text in texts]
            return array.reshape(shape)
        return np.array(flat).reshape(shape)
    wanted = numpy_dtype(spec.dtype)
    kinds: dict[str, type] = {"f": float, "i": int, "u": int, "b": bool}
    if not all(type(item) is kinds.get(wanted.kind) for item in flat):
        return np.array(flat, dtype=None if flat else wanted).reshape(shape)
    try:
        with np.errstate(over="ignore"):
            return np.array(flat, dtype=wanted).reshape(shape)
    except OverflowError:  # a number that the dtype cannot hold
        return np.array(flat, dtype=object).reshape(shape)


def _flattened(value: Any) -> tuple[list[Any], tuple[int, ...] | None]:
    """Nested lists as (items, shape); no shape where the lists are ragged."""
    shape: list[int] = []
    level = [value]
    while level and isinstance(level[0], list):
        if any(not isinstance(row, list) or len(row) != len(level[0]) for row in level):
            return level, None
        shape.append(len(level[0]))
        level = [item for row in level for item in row]
    return level, tuple(shape)


def _classified(spec: Signature, rows: list[list[tuple[bytes, float]]]) -> Tensors:
    """Classify answers as the arrays of the signature's outputs: `classes` and `scores`, whichever it declares.

    (tensorflow/python/saved_model/signature_constants.py: CLASSIFY_OUTPUT_CLASSES, CLASSIFY_OUTPUT_SCORES.)
    """
    width = max((len(row) for row in rows), default=0)
    labels = np.full((len(rows), width), b"", dtype=object)
    scores = np.zeros((len(rows), width), dtype=np.float32)
    for index, row in enumerate(rows):
        for column, (label, score) in enumerate(row):
            labels[index, column], scores[index, column] = label, score
    return {name: array for name, array in (("classes", labels), ("scores", scores)) if name in spec.outputs}


def _shape(spec: TensorSpec, rows: int) -> tuple[int, ...]:
    return (rows, 1) if spec.shape is not None and len(spec.shape) == 2 else (rows,)


def _example(encoded: bytes) -> dict[str, Any]:
    """A serialized `tf.Example` as REST wants it: flat lists by feature name."""
    import tensorflow as tf

    features = {}
    for name, feature in tf.train.Example.FromString(encoded).features.feature.items():
        if feature.WhichOneof("kind") == "bytes_list":
            features[name] = [{"b64": base64.b64encode(item).decode()} for item in feature.bytes_list.value]
        else:
            features[name] = list(feature.float_list.value or feature.int64_list.value)
    return features


def status(endpoint: Endpoint, name: str, seconds: float) -> dict[int, tuple[str, str]]:
    """version -> (state, error message), as the server reports it; empty while it does not answer.

    Needs no TensorFlow (`GET /v1/models/NAME`).
    """
    import httpx

    try:
        answer = httpx.get(f"{endpoint.rest}/v1/models/{name}", timeout=seconds, trust_env=False)
        entries = answer.json().get("model_version_status", [])
    except (httpx.HTTPError, ValueError):
        return {}
    return {int(entry["version"]): (entry["state"], entry["status"].get("error_message", "")) for entry in entries}
