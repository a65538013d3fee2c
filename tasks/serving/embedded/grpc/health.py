"""`grpc.health.v1.Health`, which the real server offers under `--enable_grpc_healthcheck_service`.

Protocol: https://github.com/grpc/grpc/blob/master/doc/health-checking.md; the answers are those of C++'s own service,
src/cpp/server/health/default_health_check_service.cc in gRPC, which knows only the empty name, the server itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from tasks.serving.embedded.descriptors import Field, message_classes

CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
_SERVING, _SERVICE_UNKNOWN = 1, 3


def handlers() -> dict[str, grpc.RpcMethodHandler]:
    """Return handlers of the service's two methods by path. A server that answers is serving, for it loads models first."""
    classes = message_classes(
        "tfship.health",
        {
            "HealthCheckRequest": [Field("service", 1, "string")],
            "HealthCheckResponse": [Field("status", 1, "int32")],
        },
    )
    response = classes["HealthCheckResponse"]

    def check(request: Any, context: grpc.ServicerContext) -> Any:
        if request.service:
            context.abort(grpc.StatusCode.NOT_FOUND, "service name unknown")
        return response(status=_SERVING)

    def watch(request: Any, context: grpc.ServicerContext, send: Callable[[Any], None]) -> None:
        send(response(status=_SERVICE_UNKNOWN if request.service else _SERVING))

    # The stream stays open until the client ends it; a thread for each watcher would leave none for requests.
    watch.experimental_non_blocking = True  # type: ignore[attr-defined]
    coding = {
        "request_deserializer": classes["HealthCheckRequest"].FromString,
        "response_serializer": response.SerializeToString,
    }
    return {
        CHECK: grpc.unary_unary_rpc_method_handler(check, **coding),
        WATCH: grpc.unary_stream_rpc_method_handler(watch, **coding),
    }
