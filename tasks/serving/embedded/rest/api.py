"""The REST API: `/v1/models/NAME[/versions/N|/labels/L][:predict|:classify|:regress|/metadata]`.

Sources in tensorflow_serving/model_servers: http_rest_api_handler.cc and http_rest_api_util.cc (paths, order of
refusals), http_server.cc (paths outside /v1).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tasks.graphs.protos import Message
from tasks.serving.embedded import log
from tasks.serving.embedded.core import Core
from tasks.serving.embedded.errors import Code, ServingError, invalid
from tasks.serving.embedded.flags import Flags
from tasks.serving.embedded.inference.predict import PredictCall
from tasks.serving.embedded.monitoring import Metrics
from tasks.serving.embedded.rest.json_answers import classify_answer, predict_answer, regress_answer
from tasks.serving.embedded.rest.json_examples import fill_request
from tasks.serving.embedded.rest.json_tensors import predict_body
from tasks.serving.embedded.rest.json_writer import error_body
from tasks.serving.embedded.tensors import Array
from tasks.serving.protos import ModelSpec

_MAX_UNZIPPED_BYTES = 100 * 2**20
"""`ZLib::kMaxUncompressedBytes` in tensorflow_serving/util/net_http/compression/gzip_zlib.h."""
_DRAIN_SECONDS = 10.0
_JSON = "application/json"
_MODEL = r"(?:(?:/versions/(?P<version>\d+))|(?:/labels/(?P<label>[^/:]+)))?"
_INFERENCE_PATH = re.compile(
    rf"/v1/models/(?P<name>[^/:]+){_MODEL}:(?P<verb>classify|regress|predict)", re.IGNORECASE | re.ASCII
)
_MODEL_PATH = re.compile(rf"/v1/models(?:/(?P<name>[^/:]+))?{_MODEL}(?:/(?P<part>metadata))?", re.IGNORECASE | re.ASCII)
_API_PATH = re.compile(r"/v1/.*", re.IGNORECASE)
_NOT_FOUND_PAGE = "<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>\n</HEAD><BODY>\n<H1>Not Found</H1>\n</BODY></HTML>\n"


@dataclass(frozen=True)
class _Target:
    """The model and version that a path names."""

    name: str
    version: int | None
    label: str | None

    def fill(self, model_spec: ModelSpec) -> None:
        model_spec.name = self.name
        if self.version is not None:
            model_spec.version.value = self.version
        if self.label is not None:
            model_spec.version_label = self.label


class RestApi:
    """The API as an ASGI application, with a thread pool for inference."""

    def __init__(self, core: Core, metrics: Metrics, flags: Flags, metrics_path: str | None) -> None:
        self._core = core
        self._metrics = metrics
        self._timeout_ms = flags.rest_api_timeout_in_ms if flags.rest_api_timeout_in_ms > 0 else None
        self._max_body_bytes = flags.rest_api_max_body_bytes
        self._metrics_path = metrics_path
        self._threads = ThreadPoolExecutor(max(flags.rest_api_num_threads, 1), thread_name_prefix="rest")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        request = Request(scope, receive)
        response = await self._respond(request, scope)
        await response(scope, receive, send)

    async def _respond(self, request: Request, scope: Scope) -> Response:
        # The real server matches the raw target, query string and escapes included.
        target = scope["raw_path"].decode("utf-8", "surrogateescape")
        if scope["query_string"]:
            target += "?" + scope["query_string"].decode("utf-8", "surrogateescape")
        if target == self._metrics_path:
            return Response(self._metrics.page(), media_type="text/plain")
        if not _API_PATH.fullmatch(target):
            return Response(_NOT_FOUND_PAGE, 404, media_type="text/html")
        if request.method == "OPTIONS":
            preflight = 200 if "origin" in request.headers else 400
            return Response(b"", preflight, headers={"content-type": "text/html; charset=ISO-8859-1"})
        body = await self._body(request)
        if body is None:
            message = f"Request body is larger than {self._max_body_bytes} bytes"
            return Response(error_body(message), 413, headers={"content-type": _JSON})
        is_zipped = "gzip" in request.headers.get("content-encoding", "")
        loop = asyncio.get_running_loop()
        status, content = await loop.run_in_executor(
            self._threads, self._answer, request.method, target, body, is_zipped
        )
        return Response(content, status, headers={"content-type": _JSON})

    async def _body(self, request: Request) -> bytes | None:
        """Return the body, or None if it is too long, in which case nothing of it is kept."""
        chunks: list[bytes] = []
        length = 0
        stream = request.stream()
        async for chunk in stream:
            length += len(chunk)
            if length > self._max_body_bytes:
                chunks.clear()
                # Read the rest, for a while: a client still sending when the connection closes may not get the answer.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_DRAIN_SECONDS):
                        async for _ in stream:
                            pass
                return None
            chunks.append(chunk)
        return b"".join(chunks)

    def _answer(self, method: str, target: str, body: bytes, is_zipped: bool) -> tuple[int, bytes]:
        try:
            return 200, self._dispatch(method, target, _unzipped(body) if is_zipped else body)
        except _UnreadableError as error:
            return error.http_status, b""
        except ServingError as error:
            return error.http_status, error_body(error.message)
        except Exception as error:  # the client always gets an answer, and the log the reason
            log.error(f"{method} {target} failed: {type(error).__name__}: {error}")
            return 500, error_body(f"{type(error).__name__}: {error}")

    def _dispatch(self, method: str, target: str, body: bytes) -> bytes:
        if method == "POST" and (found := _INFERENCE_PATH.fullmatch(target)):
            model = _named(found)
            answers = {"predict": self._predict, "classify": self._classify, "regress": self._regress}
            if found["verb"] in answers:  # the path is case-insensitive, the verb is not
                with self._metrics.observe(model.name, found["verb"].capitalize(), "REST"):
                    return answers[found["verb"]](model, body)
        elif method == "GET" and (found := _MODEL_PATH.fullmatch(target)):
            model = _named(found)
            if not model.name:
                raise invalid("Missing model name in request.")
            return self._metadata(model) if found["part"] == "metadata" else self._status(model)
        raise invalid(f"Malformed request: {method} {target}")

    def _predict(self, model: _Target, body: bytes) -> bytes:
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest()
        model.fill(request.model_spec)

        def input_types(signature_name: str) -> dict[str, int]:
            key = signature_name or "serving_default"
            with self._core.servable(request.model_spec) as (servable, _):
                if key not in servable.signatures:
                    raise invalid(f'Serving signature name: "{key}" not found in signature def')
                return {alias: info.dtype for alias, info in servable.signatures[key].inputs.items()}

        read = predict_body(body, input_types)
        call: PredictCall[Array] = PredictCall(read.signature_name, read.inputs, lambda _, tensor: tensor)
        outputs, _ = self._core.predict_arrays(request, call, self._timeout_ms)
        return predict_answer(outputs, by_row=read.by_row)

    def _classify(self, model: _Target, body: bytes) -> bytes:
        from tensorflow_serving.apis import classification_pb2

        request = classification_pb2.ClassificationRequest()
        model.fill(request.model_spec)
        fill_request(body, request)
        return classify_answer(self._core.classify(request, self._timeout_ms).result)

    def _regress(self, model: _Target, body: bytes) -> bytes:
        from tensorflow_serving.apis import regression_pb2

        request = regression_pb2.RegressionRequest()
        model.fill(request.model_spec)
        fill_request(body, request)
        return regress_answer(self._core.regress(request, self._timeout_ms).result)

    def _status(self, model: _Target) -> bytes:
        from tensorflow_serving.apis import get_model_status_pb2

        request = get_model_status_pb2.GetModelStatusRequest()
        model.fill(request.model_spec)
        return (_json_text(self._core.status(request)) + "\n").encode()

    def _metadata(self, model: _Target) -> bytes:
        from tensorflow_serving.apis import get_model_metadata_pb2

        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        model.fill(request.model_spec)
        response = self._core.metadata(request)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        return (
            f'{{\n"model_spec":{_json_text(response.model_spec)}\n,\n'
            f'"metadata": {{"signature_def": {_json_text(signatures)}\n}}\n}}\n'
        ).encode()


class _UnreadableError(ServingError):
    """A version number out of range: the real server refuses it before it writes any body."""


def _named(found: re.Match[str]) -> _Target:
    name, label = (
        None if part is None else unquote_to_bytes(part.encode("utf-8", "surrogateescape")).decode("utf-8", "replace")
        for part in (found["name"], found["label"])
    )
    version = None if found["version"] is None else int(found["version"])
    if version is not None and version >= 2**63:
        raise _UnreadableError(Code.INVALID_ARGUMENT, f"Failed to convert version: {found['version']} to numeric.")
    return _Target(name or "", version, label)


def _unzipped(body: bytes) -> bytes:
    """Return the body without its gzip coding; empty if it is invalid or too long when decompressed."""
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        unpacked = unpacker.decompress(body, _MAX_UNZIPPED_BYTES)
    except zlib.error:
        return b""
    return unpacked if unpacker.eof else b""


def _json_text(message: Message) -> str:
    from google.protobuf import json_format

    text: str = json_format.MessageToJson(
        message, indent=1, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return text
