"""Requests of both protocols: the current configuration, its labels, and the version that a `ModelSpec` names.

Source: tensorflow_serving/model_servers/server_core.cc, get_model_status_impl.cc and
tensorflow_serving/servables/tensorflow/get_model_metadata_impl.cc.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tasks.serving.embedded import log, model_configs, tensors
from tasks.serving.embedded.errors import invalid
from tasks.serving.embedded.inference import classify_regress, predict
from tasks.serving.embedded.inference.predict import DEFAULT_SIGNATURE, PredictCall, T
from tasks.serving.embedded.model_configs import Labels
from tasks.serving.embedded.tensors import Array
from tasks.serving.embedded.versions.manager import Manager
from tasks.serving.embedded.versions.servable import Servable
from tasks.serving.protos import (
    ExamplesRequest,
    MetadataRequest,
    MetadataResponse,
    ModelRequest,
    ModelServerConfig,
    ModelSpec,
    MultiInferenceRequest,
    MultiInferenceResponse,
    PredictRequest,
    PredictResponse,
    ResultResponse,
    StatusResponse,
)


class Core:
    """Answer the request messages of tensorflow_serving/apis. Safe to use from many threads."""

    def __init__(self, manager: Manager, *, lenient_labels: bool) -> None:
        from tensorflow_serving.config import model_server_config_pb2

        self._manager = manager
        self._lenient_labels = lenient_labels
        self._reloading = threading.Lock()
        self._config = model_server_config_pb2.ModelServerConfig()
        self._labels: Labels = {}

    def reload(self, config: ModelServerConfig, given_up: Callable[[], bool]) -> None:
        """Apply a `ModelServerConfig`, and return when the models it adds are available.

        As in the real server, a configuration that passes `validate` replaces the current one even when its labels
        or platforms are then refused.

        Raises:
            ServingError: the configuration is illegal, or a model it adds failed to load.
        """
        with self._reloading:
            model_configs.validate(config, self._config)
            if config.WhichOneof("config") is None:
                log.info("Taking no action for empty config.")
                return
            self._config = config
            self._labels = model_configs.labels(
                config, self._labels, self._manager.is_available, lenient=self._lenient_labels
            )
            log.info("Adding/updating models.")
            for model in config.model_config_list.config:
                log.info(f" (Re-)adding model: {model.name}")
            added = self._manager.serve(model_configs.served_models(config))
            self._manager.wait_until_available(added, given_up)
            log.info("Finished adding/updating models")

    @contextmanager
    def servable(self, model_spec: ModelSpec) -> Iterator[tuple[Servable, int]]:
        """Hold the version that a `ModelSpec` names.

        Raises:
            ServingError: no name, an unknown label, or nothing available.
        """
        if not model_spec.name:
            raise invalid("ModelSpec has no name specified.")
        choice = model_spec.WhichOneof("version_choice")
        version: int | None = None
        if choice == "version":
            version = model_spec.version.value
        elif choice == "version_label":
            label = model_spec.version_label
            if label not in self._labels.get(model_spec.name, {}):
                raise invalid(f"Unrecognized servable version label: {label}")
            version = self._labels[model_spec.name][label]
        with self._manager.acquire(model_spec.name, version) as held:
            yield held

    def predict(self, request: PredictRequest, timeout_ms: int | None) -> PredictResponse:
        """Return the `PredictResponse` to a `PredictRequest`."""
        from tensorflow_serving.apis import predict_pb2

        call = PredictCall(
            request.model_spec.signature_name, request.inputs, tensors.from_proto, list(request.output_filter)
        )
        response: PredictResponse = predict_pb2.PredictResponse()
        outputs, version = self.predict_arrays(request, call, timeout_ms)
        for alias, output in outputs.items():
            tensors.fill_proto(response.outputs[alias], output)
        _answered_by(response.model_spec, request.model_spec.name, call.signature_key, version)
        return response

    def predict_arrays(
        self, request: ModelRequest, call: PredictCall[T], timeout_ms: int | None
    ) -> tuple[dict[str, Array], int]:
        """Return outputs by alias and the version that answered; only `request.model_spec` is read."""
        _require_model_spec(request)
        with self.servable(request.model_spec) as (servable, version):
            return predict.predict(servable, call, timeout_ms), version

    def classify(self, request: ExamplesRequest, timeout_ms: int | None) -> ResultResponse:
        """Return the `ClassificationResponse` to a `ClassificationRequest`."""
        from tensorflow_serving.apis import classification_pb2

        return self._on_examples(
            classification_pb2.ClassificationResponse, classify_regress.classify, request, timeout_ms
        )

    def regress(self, request: ExamplesRequest, timeout_ms: int | None) -> ResultResponse:
        """Return the `RegressionResponse` to a `RegressionRequest`."""
        from tensorflow_serving.apis import regression_pb2

        return self._on_examples(regression_pb2.RegressionResponse, classify_regress.regress, request, timeout_ms)

    def _on_examples(
        self,
        response_type: Callable[..., ResultResponse],
        run: Callable[[Servable, ExamplesRequest, int | None], Any],
        request: ExamplesRequest,
        timeout_ms: int | None,
    ) -> ResultResponse:
        _require_model_spec(request)
        spec = request.model_spec
        with self.servable(spec) as (servable, version):
            response = response_type(result=run(servable, request, timeout_ms))
        _answered_by(response.model_spec, spec.name, spec.signature_name or DEFAULT_SIGNATURE, version)
        return response

    def multi_inference(self, request: MultiInferenceRequest, timeout_ms: int | None) -> MultiInferenceResponse:
        """Return the `MultiInferenceResponse` to a `MultiInferenceRequest`; the first task names the version."""
        from tensorflow_serving.apis import classification_pb2, inference_pb2, model_pb2

        spec = request.tasks[0].model_spec if request.tasks else model_pb2.ModelSpec()
        with self.servable(spec) as (servable, version):
            results = classify_regress.multi_inference(servable, request, timeout_ms)
        response: MultiInferenceResponse = inference_pb2.MultiInferenceResponse()
        for task, result in zip(request.tasks, results, strict=True):
            is_classification = isinstance(result, classification_pb2.ClassificationResult)
            kind = "classification_result" if is_classification else "regression_result"
            answer = response.results.add(**{kind: result})
            signature_name = task.model_spec.signature_name or DEFAULT_SIGNATURE
            _answered_by(answer.model_spec, task.model_spec.name, signature_name, version)
        return response

    def metadata(self, request: MetadataRequest) -> MetadataResponse:
        """Return the `GetModelMetadataResponse` to a `GetModelMetadataRequest`."""
        from tensorflow_serving.apis import get_model_metadata_pb2

        _require_model_spec(request)
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                raise invalid(f"Metadata field {field} is not supported")
        with self.servable(request.model_spec) as (servable, version):
            signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=servable.signatures)
        response: MetadataResponse = get_model_metadata_pb2.GetModelMetadataResponse()
        response.metadata["signature_def"].Pack(signatures)
        _answered_by(response.model_spec, request.model_spec.name, "", version)
        return response

    def status(self, request: ModelRequest) -> StatusResponse:
        """Return the `GetModelStatusResponse` to a `GetModelStatusRequest`; a label is ignored."""
        from tensorflow_serving.apis import get_model_status_pb2

        _require_model_spec(request)
        spec = request.model_spec
        version = spec.version.value if spec.HasField("version") else None
        response: StatusResponse = get_model_status_pb2.GetModelStatusResponse()
        for status in self._manager.statuses(spec.name, version):
            entry = response.model_version_status.add(version=status.version, state=int(status.state))
            entry.status.SetInParent()
            if status.error is not None:
                entry.status.error_code = int(status.error.code)
                entry.status.error_message = status.error.message
        return response


def _require_model_spec(request: ModelRequest) -> None:
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")


def _answered_by(model_spec: ModelSpec, name: str, signature_name: str, version: int) -> None:
    model_spec.name = name
    model_spec.version.value = version
    if signature_name:
        model_spec.signature_name = signature_name
