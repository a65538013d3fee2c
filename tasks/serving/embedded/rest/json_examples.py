"""REST classify and regress bodies: convert JSON to `tf.Example`s.

Rules and texts: `FillClassifyRegressRequestFromJson` in tensorflow_serving/util/json_tensor.cc.
"""

from __future__ import annotations

from collections.abc import MutableSequence
from typing import Any

import numpy as np

from tasks.serving.embedded.errors import invalid
from tasks.serving.embedded.rest.json_leaves import base64_bytes, is_base64_object
from tasks.serving.embedded.rest.json_tensors import is_absent, member, parse_body, signature_name
from tasks.serving.embedded.rest.json_values import JsonValue, json_type
from tasks.serving.embedded.rest.json_writer import echo
from tasks.serving.protos import Example, ExamplesRequest, Feature

_LISTS = {"bytes": "bytes_list", "float": "float_list", "int64": "int64_list"}


def fill_request(body: bytes, request: ExamplesRequest) -> None:
    """Write a classify or regress body into its request message (`ClassificationRequest`, `RegressionRequest`).

    Raises:
        ServingError: the first fault, in the real server's order.
    """
    document = parse_body(body)
    name = signature_name(document)
    if name:
        request.model_spec.signature_name = _field_text(name)
    context = member(document, "context")
    has_context = not is_absent(context)
    if has_context:
        _fill_example(context, request.input.example_list_with_context.context)
    examples = member(document, "examples")
    if is_absent(examples):
        # The real server says "classify" of regress too.
        raise invalid(
            f"JSON Value: {echo(document)} When method is classify, key 'examples' is expected and was not found"
        )
    if not isinstance(examples, list):
        raise invalid(f"JSON Value: {echo(document)} Expecting 'examples' value to be an list/array")
    if not examples:
        raise invalid(f"JSON Value: {echo(document)} 'examples' value is an empty array")
    filled = request.input.example_list_with_context if has_context else request.input.example_list
    for example in examples:
        _fill_example(example, filled.examples.add())


def _fill_example(value: JsonValue, example: Example) -> None:
    example.SetInParent()
    if not isinstance(value, tuple):
        raise invalid(f"Example must be JSON object but got JSON {json_type(value)}")
    for name, content in value:
        feature = example.features.feature[_field_text(name)]
        feature.Clear()
        for item in content if isinstance(content, list) else [content]:
            _add(item, name, feature)


def _field_text(text: str) -> str:
    """Return text that a string field can hold: bytes that are not UTF-8 become replacement characters."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _add(item: JsonValue, name: str, feature: Feature) -> None:
    if item is None or isinstance(item, list) or (isinstance(item, tuple) and not is_base64_object(item)):
        raise invalid(f"Feature: {name} has element with unexpected JSON type: {json_type(item)}")
    if isinstance(item, str):
        _list_of("bytes", name, feature).append(item.encode("utf-8", "surrogateescape"))
    elif isinstance(item, tuple):
        _list_of("bytes", name, feature).append(base64_bytes(item))
    elif isinstance(item, float):
        with np.errstate(over="ignore"):
            _list_of("float", name, feature).append(float(np.float32(item)))
    else:
        values = _list_of("int64", name, feature)
        if item >= 2**63:
            raise invalid(f"Feature: {name} has uint64_t element. Only int64_t is supported.")
        values.append(int(item))


def _list_of(kind: str, name: str, feature: Feature) -> MutableSequence[Any]:
    chosen = feature.WhichOneof("kind")
    if chosen not in (None, _LISTS[kind]):
        expected = chosen.removesuffix("_list")
        raise invalid(f"Unexpected element type in feature: {name} expecting type: {expected}")
    values: MutableSequence[Any] = getattr(feature, _LISTS[kind]).value
    return values
