"""Predict, for either protocol: check a request, run it and name its outputs.

Sources: tensorflow_serving/servables/tensorflow/predict_util.cc, and tensorflow/cc/saved_model/util.cc for the inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from tasks.serving.embedded import tensors
from tasks.serving.embedded.errors import Code, ServingError, invalid
from tasks.serving.embedded.tensors import Array
from tasks.serving.embedded.versions.servable import Servable
from tasks.serving.protos import SignatureDef

DEFAULT_SIGNATURE = "serving_default"

T = TypeVar("T")
"""How a protocol carries a tensor."""


@dataclass(frozen=True)
class PredictCall(Generic[T]):
    """A predict request of either protocol; `read` converts an input, given its alias, to an array."""

    signature_name: str
    inputs: Mapping[str, T]
    read: Callable[[str, T], Array]
    output_filter: Sequence[str] = ()

    @property
    def signature_key(self) -> str:
        """The key of the signature to run, which the answer's `model_spec` names."""
        return self.signature_name or DEFAULT_SIGNATURE


def predict(servable: Servable, call: PredictCall[T], timeout_ms: int | None) -> dict[str, Array]:
    """Run one signature and return its outputs by alias."""
    key = call.signature_key
    if key not in servable.signatures:
        raise ServingError(Code.FAILED_PRECONDITION, f'Serving signature key "{key}" not found.')
    signature = servable.signatures[key]
    feeds = _predict_feeds(signature, call)
    aliases = _predict_aliases(signature, call.output_filter)
    outputs = servable.run(feeds, [signature.outputs[alias].name for alias in aliases], timeout_ms)
    return dict(zip(aliases, outputs, strict=True))


def _predict_feeds(signature: SignatureDef, call: PredictCall[T]) -> dict[str, Array]:
    given, wanted = sorted(call.inputs), sorted(signature.inputs)
    if len(given) > len(wanted) or (len(given) < len(wanted) and not signature.defaults):
        raise invalid(
            f"input size does not match signature: {len(given)}!={len(wanted)}"
            f" len({{{','.join(given)}}}) != len({{{','.join(wanted)}}})."
            f" Sent extra: {{{','.join(sorted(set(given) - set(wanted)))}}}."
            f" Missing but required: {{{','.join(sorted(set(wanted) - set(given)))}}}."
        )
    feeds: dict[str, Array] = {}
    used: list[str] = []
    for alias in wanted:
        feed_name = signature.inputs[alias].name
        if alias in call.inputs:
            feeds[feed_name] = call.read(alias, call.inputs[alias])
            used.append(alias)
        elif alias in signature.defaults:
            feeds[feed_name] = tensors.from_proto(alias, signature.defaults[alias])
        else:
            raise invalid(
                f"Signature input alias: {alias}(feed name: {feed_name}) not found in request and no default value"
                f" provided. Inputs expected to be in the request {{{','.join(given)}}},"
                f" or default input alias set: {','.join(sorted(signature.defaults))}"
            )
    if len(used) != len(given):
        raise invalid(
            f"Inputs contains invalid name. Used request inputs: {','.join(used)}, request input: {','.join(given)}"
        )
    return feeds


def _predict_aliases(signature: SignatureDef, output_filter: Sequence[str]) -> list[str]:
    seen: list[str] = []
    for alias in output_filter:
        if alias not in signature.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {alias}"
                f" Outputs expected to be in the set {{{','.join(sorted(signature.outputs))}}}."
            )
        if alias in seen:
            raise invalid(f"duplicate output tensor alias: {alias}")
        seen.append(alias)
    return seen or sorted(signature.outputs)
