"""A model server's gRPC client, which is one more form of the model. Runs in a child: the protos import TensorFlow.

Protocol: tensorflow_serving/apis/*.proto. `rest.py` is the same over REST.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from tasks.errors import ChildFailed, PipelineError
from tasks.parity.transient_errors import failure, transient
from tasks.records.baseline import TensorFact
from tasks.records.forms import CandidateForm
from tasks.records.serving import Cause, Endpoint
from tasks.records.signature import Method, Signature
from tasks.serving.clients import plain_http
from tasks.serving.clients.admission import admitted, is_full
from tasks.serving.protos import ExamplesRequest, ModelRequest, PredictRequest
from tasks.tensors.tensor_file import Array, Tensors, as_array

# Status codes that say nothing about the model (grpc/statuscodes.md).
_TRANSIENT = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "CANCELLED", "ABORTED"})
_UNLIMITED = -1  # a message is cut off by protobuf's own 2 GiB (grpc/impl/channel_arg_names.h: -1 is no limit)


class NotCarriedError(PipelineError):
    """The protocol cannot carry the request or its answer: neither a failure nor a comparison."""


class AnsweredError(Exception):
    """The server answered a request with an error, which the comparison records as a finding about the model."""


@contextmanager
def reaching(protocol: str, seconds: float) -> Iterator[None]:
    """Turn what the libraries raise into errors of ours.

    Raises:
        AnsweredError: the server answered an error.
        EnvironmentFailure: this machine cannot send the request.
        ChildFailed: the server cannot be reached, or is too slow.
    """
    import grpc
    import httpx

    try:
        yield
    except grpc.RpcError as error:
        found = f"{error.code().name}: {error.details()}"
        if error.code().name not in _TRANSIENT:
            raise AnsweredError(found) from None
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            _require_sent(protocol, found)
        raise _not_answered(protocol, seconds, found) from None
    except httpx.HTTPStatusError as error:
        raise _not_answered(protocol, seconds, f"{error.response.status_code} {error.response.text[:300]}") from None
    except httpx.TransportError as error:
        found = f"{type(error).__name__}: {error}"
        _require_sent(protocol, found)
        raise _not_answered(protocol, seconds, found) from None


def _require_sent(protocol: str, found: str) -> None:
    """Raise EnvironmentFailure where a connection failed for want of something on this machine: of file descriptors, say."""
    if transient(about := OSError(found)):
        raise failure(about, f"a connection to the server over {protocol}") from None


def _not_answered(protocol: str, seconds: float, found: str) -> ChildFailed:
    """Return the failure of a request that got no answer for a reason that says nothing about the model."""
    where, expected = f"the server over {protocol}", f"an answer within {seconds:g} s"
    remedy = "check in its log whether the server still runs, or raise `serving.request_timeout`."
    if is_full(found):
        remedy = (
            "give the server more threads (--grpc_max_threads in `serving.flags`; four for each CPU by default) or longer "
            "queues (`max_enqueued_batches` of its batching parameters), or raise `serving.request_timeout`."
        )
        return ChildFailed(where, f"{expected}, however full the server is", found, remedy, cause=Cause.FULL)
    if found.startswith("RESOURCE_EXHAUSTED") and "larger than max" in found:
        remedy = "shorten the probe, or raise the limit of what stands between (the server itself has none)."
        return ChildFailed(where, "messages of the probe's size taken", found, remedy, cause=Cause.TOO_LARGE)
    if found.startswith("RESOURCE_EXHAUSTED"):
        remedy = "give the server more memory (`serving.memory`), or shorten the probe."
        return ChildFailed(where, "enough memory for the request", found, remedy, cause=Cause.TOO_LARGE)
    return ChildFailed(where, expected, found, remedy)


class GrpcPredictor:
    """A served model over gRPC, by default in its latest version, else in the one with this number or this label.

    `versions` collects the versions that its answers name, 0 for an answer without one; `turned_away` counts attempts that
    the server turned away because it was full.
    """

    form = CandidateForm.SERVED_GRPC

    def __init__(
        self,
        endpoint: Endpoint,
        name: str,
        signatures: Mapping[str, Signature],
        seconds: float,
        *,
        version: int | str | None = None,
    ) -> None:
        import grpc
        from tensorflow_serving.apis import prediction_service_pb2_grpc

        options = [
            ("grpc.max_send_message_length", _UNLIMITED),
            ("grpc.max_receive_message_length", _UNLIMITED),
        ]
        self.channel = grpc.insecure_channel(endpoint.grpc, options=options)
        self.service = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.name, self.version, self.signatures, self.seconds = name, version, signatures, seconds
        self.versions: set[int] = set()
        self.turned_away = 0
        self._counting = threading.Lock()

    def send(self, call: Any, request: Any) -> Any:
        """Return the answer to a request, sent again while the server is full.

        Raises:
            AnsweredError: the server answered with an error.
            ChildFailed: the server did not answer.
        """
        with reaching("gRPC", self.seconds):
            return admitted(lambda left: call(request, timeout=left), self.seconds, self._count)

    def _count(self) -> None:
        with self._counting:  # one predictor serves several threads
            self.turned_away += 1

    def predict(self, signature: str, inputs: Mapping[str, Array]) -> Tensors:
        """See `Predictor`.

        Raises:
            AnsweredError: the server answered with an error.
            NotCarriedError: the protocol cannot carry a dtype of the signature.
            ChildFailed: the server did not answer.
        """
        import tensorflow as tf

        spec = self.signatures[signature]
        request, call = self.call(signature, inputs)
        answer = self.send(call, request)
        self.versions.add(int(answer.model_spec.version.value))
        if spec.called_by is Method.PREDICT:
            return {name: as_array(tf.make_ndarray(tensor)) for name, tensor in answer.outputs.items()}
        if spec.called_by is Method.REGRESS:
            return regressed(spec, [regression.value for regression in answer.result.regressions])
        rows = [[(c.label.encode(), c.score) for c in row.classes] for row in answer.result.classifications]
        return classified(spec, rows)

    def call(self, signature: str, inputs: Mapping[str, Array]) -> tuple[PredictRequest | ExamplesRequest, Any]:
        """Return a request for the signature's method, and the service method to call with it."""
        spec = self.signatures[signature]
        if spec.called_by is Method.PREDICT:
            return self.request(signature, inputs), self.service.Predict
        return self._classification(spec, inputs)

    def request(self, signature: str, inputs: Mapping[str, Array]) -> PredictRequest:
        """Return a PredictRequest for this model."""
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        request: PredictRequest = predict_pb2.PredictRequest()
        self._address(request, signature)
        for name, array in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
        return request

    def _classification(self, spec: Signature, inputs: Mapping[str, Array]) -> tuple[ExamplesRequest, Any]:
        import tensorflow as tf
        from tensorflow_serving.apis import classification_pb2, regression_pb2

        classify = spec.called_by is Method.CLASSIFY
        request = classification_pb2.ClassificationRequest() if classify else regression_pb2.RegressionRequest()
        self._address(request, spec.key)
        (examples,) = inputs.values()
        for encoded in examples.ravel():
            request.input.example_list.examples.append(tf.train.Example.FromString(encoded))
        return request, self.service.Classify if classify else self.service.Regress

    def _address(self, request: ModelRequest, signature: str) -> None:
        """Say which model, version and signature a request is for."""
        request.model_spec.name = self.name
        request.model_spec.signature_name = signature
        if isinstance(self.version, int):
            request.model_spec.version.value = self.version
        elif self.version is not None:
            request.model_spec.version_label = self.version

    def metadata(self) -> list[Signature]:
        """Return the signatures that the server reports."""
        from tensorflow_serving.apis import get_model_metadata_pb2

        from tasks.forms.saved_model import signatures_in

        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = self.name
        answer = self.send(self.service.GetModelMetadata, request)
        reported = get_model_metadata_pb2.SignatureDefMap()
        answer.metadata["signature_def"].Unpack(reported)
        return signatures_in(reported.signature_def)

    def status(self) -> dict[int, str]:
        """Return the state of each version, as ModelService reports it."""
        from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc

        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = self.name
        service = model_service_pb2_grpc.ModelServiceStub(self.channel)
        answer = self.send(service.GetModelStatus, request)
        states = get_model_status_pb2.ModelVersionStatus.State
        return {int(one.version): str(states.Name(one.state)) for one in answer.model_version_status}

    def values(self) -> Iterator[TensorFact]:
        """Return an empty iterator: a server does not expose its variables."""
        return iter(())

    def close(self) -> None:
        """Close the channel."""
        self.channel.close()


def classified(spec: Signature, rows: list[list[tuple[bytes, float]]]) -> Tensors:
    """Convert a Classify answer to the arrays of the signature's outputs: `classes` and `scores`, whichever it declares.

    (CLASSIFY_OUTPUT_CLASSES and CLASSIFY_OUTPUT_SCORES in tensorflow/python/saved_model/signature_constants.py.)
    """
    width = max((len(row) for row in rows), default=0)
    labels = np.full((len(rows), width), b"", dtype=object)
    scores = np.zeros((len(rows), width), dtype=np.float32)
    for index, row in enumerate(rows):
        for column, (label, score) in enumerate(row):
            labels[index, column], scores[index, column] = label, score
    return {name: array for name, array in (("classes", labels), ("scores", scores)) if name in spec.outputs}


def regressed(spec: Signature, values: list[float]) -> Tensors:
    """Convert a Regress answer to the array of the signature's one output."""
    ((name, output),) = spec.outputs.items()
    shape = (len(values), 1) if output.shape is not None and len(output.shape) == 2 else (len(values),)
    return {name: np.array(values, dtype=np.float32).reshape(shape)}


def status(endpoint: Endpoint, name: str, seconds: float) -> dict[int, tuple[str, str]]:
    """Return the state and error message of each version over REST; empty while the server does not answer.

    Needs no TensorFlow (`GET /v1/models/NAME`).
    """
    import httpx

    try:
        with plain_http.client(seconds) as client:
            answer = client.get(f"{endpoint.rest}/v1/models/{name}")
        return {
            int(entry["version"]): (str(entry["state"]), str(entry["status"].get("error_message", "")))
            for entry in answer.json()["model_version_status"]
        }
    except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError):  # no server, or not a model server
        return {}
