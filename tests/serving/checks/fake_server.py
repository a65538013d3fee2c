"""The embedded server with one fault, for a test of the smoke test: `serve` in the place of the embedded runtime's own.

The flag `--lie=NAME` says which, so that every fault is another key; the real server overlooks unknown flags as well.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from typing import Any

LATER = 60  # answers, more than are sent before latency is measured


def serve(arguments: list[str]) -> int:
    """In a child: be the server, and lie."""
    from tasks.serving.embedded import server

    (how,) = [argument.partition("=")[2] for argument in arguments if argument.startswith("--lie=")]
    LIES[how]()
    code = server.serve([argument for argument in arguments if not argument.startswith("--lie=")], ready=None)
    os._exit(code)


def _instead(name: str, lie: Callable[..., Any], owner: str = "core:Core") -> None:
    """Put `lie(old, *args)` in the place of a function of the server's."""
    from importlib import import_module

    module, _, attribute = owner.partition(":")
    place = import_module(f"tasks.serving.embedded.{module}")
    place = getattr(place, attribute) if attribute else place
    old = getattr(place, name)
    setattr(place, name, lambda *args, **kwargs: lie(old, *args, **kwargs))


def _one_more_version() -> None:
    def status(old: Any, *args: Any) -> Any:
        answer = old(*args)
        answer.model_version_status.add(version=2, state=30).status.SetInParent()
        return answer

    _instead("status", status)


def _another_version_answers() -> None:
    def answered(old: Any, spec: Any, name: str, signature: str, version: int) -> None:
        old(spec, name, signature, version + 1)

    _instead("_answered_by", answered, "core")


def _one_output_less_in_the_metadata() -> None:
    def metadata(old: Any, *args: Any) -> Any:
        from tensorflow_serving.apis import get_model_metadata_pb2

        answer = old(*args)
        reported = get_model_metadata_pb2.SignatureDefMap()
        answer.metadata["signature_def"].Unpack(reported)
        outputs = reported.signature_def["serving_default"].outputs
        del outputs[min(outputs)]
        answer.metadata["signature_def"].Pack(reported)
        return answer

    _instead("metadata", metadata)


def _answers_all_over_grpc() -> None:
    from tensorflow_serving.apis import classification_pb2, predict_pb2

    for name, empty in (
        ("predict", predict_pb2.PredictResponse),
        ("classify", classification_pb2.ClassificationResponse),
    ):

        def answer(old: Any, *args: Any, empty: Any = empty) -> Any:
            from tasks.serving.embedded.errors import ServingError

            try:
                return old(*args)
            except ServingError:
                return empty()

        _instead(name, answer)


def _says_not_found_to_all() -> None:
    def predict(old: Any, *args: Any) -> Any:
        from tasks.serving.embedded.errors import Code, ServingError

        try:
            return old(*args)
        except ServingError as error:
            raise ServingError(Code.NOT_FOUND, error.message) from None

    _instead("predict", predict)


def _refused_over_rest_as(status: int) -> Callable[[], None]:
    def plant() -> None:
        def answer(old: Any, *args: Any) -> tuple[int, bytes]:
            code, body = old(*args)
            return (status if 400 <= code < 500 else code), body

        _instead("_answer", answer, "rest.api:RestApi")

    return plant


def _takes_any_input_over_rest() -> None:
    """An input that is missing or of another dtype is made up."""

    def answer(old: Any, api: Any, method: str, target: str, body: bytes, is_zipped: bool) -> tuple[int, bytes]:
        code, content = old(api, method, target, body, is_zipped)
        excused = b"Missing named input" in content or b"is not of expected type" in content
        return (200, b'{"outputs": [0.0]}') if excused else (code, content)

    _instead("_answer", answer, "rest.api:RestApi")


def _overlooks_the_output_filter() -> None:
    def predict(old: Any, core: Any, request: Any, timeout_ms: int | None) -> Any:
        request.ClearField("output_filter")
        return old(core, request, timeout_ms)

    _instead("predict", predict)


def _fails_later() -> None:
    asked = itertools.count()

    def predict(old: Any, *args: Any) -> Any:
        from tasks.serving.embedded.errors import invalid

        if next(asked) > LATER:
            raise invalid("assertion failed: too many requests")
        return old(*args)

    _instead("predict", predict)


def _says_nothing_of_warmup() -> None:
    _instead("_warm_up", lambda *_: None, "versions.load_version:VersionLoader")


LIES: dict[str, Callable[[], None]] = {
    "one more version": _one_more_version,
    "another version answers": _another_version_answers,
    "one output less in the metadata": _one_output_less_in_the_metadata,
    "answers all over gRPC": _answers_all_over_grpc,
    "says NOT_FOUND to all": _says_not_found_to_all,
    "answers all over REST": _refused_over_rest_as(200),
    "fails where it must refuse": _refused_over_rest_as(500),
    "takes any input over REST": _takes_any_input_over_rest,
    "overlooks the output filter": _overlooks_the_output_filter,
    "fails later": _fails_later,
    "says nothing of warmup": _says_nothing_of_warmup,
}
