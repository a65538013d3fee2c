"""`PredictionService` and `ModelService` over gRPC.

Protocol: tensorflow_serving/apis/prediction_service.proto and model_service.proto. Unknown methods and invalid messages
are answered as the C++ server does: UNIMPLEMENTED and INTERNAL without details.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import grpc

from tasks.graphs.protos import Message
from tasks.serving.clients.admission import NO_THREAD
from tasks.serving.embedded import log
from tasks.serving.embedded.core import Core
from tasks.serving.embedded.errors import Code, ServingError, invalid
from tasks.serving.embedded.flags import Flags, channel_arguments
from tasks.serving.embedded.grpc import health
from tasks.serving.embedded.monitoring import Metrics
from tasks.serving.protos import ReloadResponse

_PREDICTION_SERVICE = "tensorflow.serving.PredictionService"
_MODEL_SERVICE = "tensorflow.serving.ModelService"
_UNLIMITED = -1
_STATUS = {Code(status.value[0]): status for status in grpc.StatusCode}
_NO_DEADLINE_SECONDS = 10 * 365 * 86_400


def serve(core: Core, metrics: Metrics, flags: Flags) -> tuple[grpc.Server, int]:
    """Start the server; return it and its port (a free one for 0).

    Raises:
        RuntimeError: the port is taken.
    """
    handlers = _Handlers(flags.grpc_max_threads)
    server = grpc.server(
        # Handlers mostly wait inside TensorFlow, which releases the interpreter; reloads may wait for minutes. Two threads more
        # than may work, to refuse what is too much.
        ThreadPoolExecutor(handlers.most + 2, thread_name_prefix="grpc"),
        options=[
            ("grpc.max_receive_message_length", _UNLIMITED),
            ("grpc.max_send_message_length", _UNLIMITED),
            ("grpc.so_reuseport", 0),  # a taken port is an error, not a second listener
            *channel_arguments(flags.grpc_channel_arguments),
        ],
    )
    known = {path: handlers.limited(handler) for path, handler in _handlers(core, metrics).items()}
    if flags.enable_grpc_healthcheck_service:
        known |= health.handlers()
    server.add_generic_rpc_handlers((_Known(known), _Unknown()))
    chosen = server.add_insecure_port(f"{flags.host}:{flags.port}")
    if flags.grpc_socket_path:
        server.add_insecure_port(f"unix:{flags.grpc_socket_path}")
    server.start()
    return server, chosen


class _Handlers:
    """The number of requests that are answered at once; one more is refused at once, as by gRPC's synchronous C++ server.

    That server keeps one of its `--grpc_max_threads` threads waiting for requests. When a request leaves none to wait, it is
    refused (`ThreadManager::MainWorkLoop`, grpc/src/cpp/thread_manager/thread_manager.cc). Its health service needs no
    thread.
    """

    def __init__(self, threads: int) -> None:
        self.most = max(threads - 1, 0)
        self._free = threading.Semaphore(self.most)

    def limited(self, handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
        """Return the handler, held to the limit."""

        def answer(serialized: bytes, context: grpc.ServicerContext) -> bytes:
            if not self._free.acquire(blocking=False):
                _refuse(context, Code.RESOURCE_EXHAUSTED, NO_THREAD)
            try:
                response: bytes = handler.unary_unary(serialized, context)
                return response
            finally:
                self._free.release()

        return grpc.unary_unary_rpc_method_handler(answer)


def _handlers(core: Core, metrics: Metrics) -> dict[str, grpc.RpcMethodHandler]:
    from tensorflow_serving.apis import (
        classification_pb2,
        get_model_metadata_pb2,
        get_model_status_pb2,
        inference_pb2,
        model_management_pb2,
        predict_pb2,
        regression_pb2,
    )

    def timed(call: Callable[[Any, int | None], Message]) -> Callable[[Any, grpc.ServicerContext], Message]:
        return lambda request, context: call(request, _timeout_ms(context))

    def reload(request: Any, context: grpc.ServicerContext) -> Message:
        if request.config.WhichOneof("config") != "model_config_list":
            raise invalid(
                "ServerModelConfig type not supported by HandleReloadConfigRequest."
                " Only ModelConfigList is currently supported"
            )
        core.reload(request.config, given_up=lambda: not context.is_active())
        response: ReloadResponse = model_management_pb2.ReloadConfigResponse()
        response.status.SetInParent()
        return response

    methods: dict[str, tuple[Any, Callable[[Any, grpc.ServicerContext], Message]]] = {
        f"/{_PREDICTION_SERVICE}/Predict": (predict_pb2.PredictRequest, timed(core.predict)),
        f"/{_PREDICTION_SERVICE}/Classify": (classification_pb2.ClassificationRequest, timed(core.classify)),
        f"/{_PREDICTION_SERVICE}/Regress": (regression_pb2.RegressionRequest, timed(core.regress)),
        f"/{_PREDICTION_SERVICE}/MultiInference": (inference_pb2.MultiInferenceRequest, timed(core.multi_inference)),
        f"/{_PREDICTION_SERVICE}/GetModelMetadata": (
            get_model_metadata_pb2.GetModelMetadataRequest,
            lambda request, _: core.metadata(request),
        ),
        f"/{_MODEL_SERVICE}/GetModelStatus": (
            get_model_status_pb2.GetModelStatusRequest,
            lambda request, _: core.status(request),
        ),
        f"/{_MODEL_SERVICE}/HandleReloadConfigRequest": (model_management_pb2.ReloadConfigRequest, reload),
    }
    return {path: _handler(path, message, call, metrics) for path, (message, call) in methods.items()}


def _handler(
    path: str, message: Any, call: Callable[[Any, grpc.ServicerContext], Message], metrics: Metrics
) -> grpc.RpcMethodHandler:
    from google.protobuf.message import DecodeError

    api = path.rpartition("/")[2]

    def answer(serialized: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            request = message.FromString(serialized)
        except DecodeError:
            _refuse(context, Code.INTERNAL, "")
        spec = getattr(request, "model_spec", None)
        try:
            with metrics.observe(spec.name if spec is not None else "", api, "GRPC"):
                response: bytes = call(request, context).SerializeToString()
                return response
        except ServingError as error:
            refusal = error
        except Exception as error:  # the client always gets an answer, and the log the reason
            log.error(f"{api} failed: {type(error).__name__}: {error}")
            refusal = ServingError(Code.INTERNAL, f"{type(error).__name__}: {error}")
        _refuse(context, refusal.code, refusal.grpc_details)

    # Bytes in and out: an invalid message is refused above, in the real server's words.
    return grpc.unary_unary_rpc_method_handler(answer)


def _refuse(context: grpc.ServicerContext, code: Code, details: str) -> NoReturn:
    context.abort(_STATUS[code], details)
    raise AssertionError("abort raises")


def _timeout_ms(context: grpc.ServicerContext) -> int | None:
    """Return the call's remaining time, or None; a call without a deadline reports some 292 billion years."""
    remaining = context.time_remaining()
    return None if remaining is None or remaining > _NO_DEADLINE_SECONDS else max(1, int(remaining * 1000))


class _Known(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio ships no types
    def __init__(self, handlers: dict[str, grpc.RpcMethodHandler]) -> None:
        self._handlers = handlers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._handlers.get(handler_call_details.method)


class _Unknown(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio ships no types
    """Handle any other method, streaming or not. Without this, Python's gRPC adds details that C++'s does not."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        def refuse(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            _refuse(context, Code.UNIMPLEMENTED, "")

        return grpc.stream_stream_rpc_method_handler(refuse)
