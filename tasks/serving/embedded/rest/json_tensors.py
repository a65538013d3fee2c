"""REST predict bodies: convert JSON to input tensors.

Rules and texts: `FillPredictRequestFromJson` in tensorflow_serving/util/json_tensor.cc.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.serving.embedded.errors import ServingError, invalid
from tasks.serving.embedded.rest.json_leaves import as_array, flattened, is_base64_object, leading_shape
from tasks.serving.embedded.rest.json_parser import parse
from tasks.serving.embedded.rest.json_values import JsonObject, JsonParseError, JsonValue
from tasks.serving.embedded.rest.json_writer import echo
from tasks.serving.embedded.tensors import Array

_ABSENT = object()


@dataclass(frozen=True)
class PredictBody:
    """A predict request: its signature, its inputs by alias, and the layout of the answer."""

    signature_name: str
    inputs: dict[str, Array]
    by_row: bool


def parse_body(body: bytes) -> JsonObject:
    """Parse a request's JSON object.

    Raises:
        ServingError: the body is not JSON, or not an object.
    """
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    try:
        document = parse(body)
    except JsonParseError as error:
        raise invalid(f"JSON Parse error: {error.words} at offset: {error.offset}") from None
    if not isinstance(document, tuple):
        raise invalid(f"JSON Value: {echo(document)} Is not object")
    return document


def member(document: JsonObject, name: str) -> Any:
    """Return the first member of that name, as RapidJSON's `FindMember` does, or a value that `is_absent` recognises."""
    return next((value for key, value in document if key == name), _ABSENT)


def is_absent(value: Any) -> bool:
    """Tell whether `member` found nothing; `null` is a member."""
    return value is _ABSENT


def signature_name(document: JsonObject) -> str:
    """Return the optional `signature_name`, by default an empty string."""
    name = member(document, "signature_name")
    if is_absent(name):
        return ""
    if not isinstance(name, str):
        raise invalid(
            f"JSON Value: {echo(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return name


def predict_body(body: bytes, input_types: Callable[[str], Mapping[str, int]]) -> PredictBody:
    """Parse a predict request.

    `input_types` returns the DataType number of each input alias of a signature. It is called after the JSON is parsed
    and before its tensors are read, so a body that is not JSON is refused before the model is looked up.

    Raises:
        ServingError: the first fault, in the real server's order.
    """
    document = parse_body(body)
    signature = signature_name(document)
    types = input_types(signature)
    if not types:
        raise invalid(f"Failed to get input map for signature: {signature or 'DEFAULT'}")
    instances, inputs = member(document, "instances"), member(document, "inputs")
    if is_absent(instances):
        if is_absent(inputs):
            raise invalid("Missing 'inputs' or 'instances' key")
        return PredictBody(signature, _from_inputs(inputs, types), by_row=False)
    if not is_absent(inputs):
        raise invalid(
            f"JSON Value: {echo(document)} Not formatted correctly expecting only"
            " one of 'inputs' or 'instances' keys to exist "
        )
    if not isinstance(instances, list):
        raise invalid(f"JSON Value: {echo(document)} Expecting 'instances' to be an list/array")
    if not instances:
        raise invalid(f"JSON Value: {echo(document)} No values in 'instances' array")
    return PredictBody(signature, _from_instances(instances, types), by_row=True)


def _from_inputs(value: JsonValue, types: Mapping[str, int]) -> dict[str, Array]:
    if isinstance(value, tuple) and not is_base64_object(value):
        named: dict[str, Array] = {}
        for alias, data_type in sorted(types.items()):
            item = member(value, alias)
            if is_absent(item):
                raise invalid(f"Missing named input: {alias} in 'inputs' object.")
            named[alias] = _tensor(alias, item, data_type)
        return named
    if len(types) > 1:
        raise invalid(
            "inputs is a plain value/list, but expecting an object as multiple"
            " input tensors required as per tensorinfo_map"
        )
    alias, data_type = next(iter(types.items()))
    return {alias: _tensor(alias, value, data_type)}


def _tensor(alias: str, value: JsonValue, data_type: int) -> Array:
    shape = leading_shape(value)
    return as_array(alias, flattened(value, shape, data_type), shape, data_type)


def _from_instances(instances: list[JsonValue], types: Mapping[str, int]) -> dict[str, Array]:
    if not isinstance(instances[0], tuple) and len(types) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple"
            " input tensors required as per tensorinfo_map"
        )
    batch = _Batch(types)
    if isinstance(instances[0], tuple) and not is_base64_object(instances[0]):
        for index, element in enumerate(instances):
            batch.add_object(index, element)
    else:
        alias = min(types)
        for index, element in enumerate(instances):
            batch.add_value(index, alias, element)
    return {alias: batch.tensor(alias, len(instances)) for alias in batch.shapes}


class _Batch:
    """Instances gathered row by row; every row of one input has the shape of the first."""

    def __init__(self, types: Mapping[str, int]) -> None:
        self.types = types
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.leaves: dict[str, list[Any]] = {}

    def add_object(self, index: int, element: JsonValue) -> None:
        if not isinstance(element, tuple) or is_base64_object(element):
            raise invalid(f"Expecting object but got list at item {index} of input list")
        for name, value in element:
            try:
                self.add(name, value)
            except ServingError as error:
                raise invalid(
                    f"Failed to process element: {index} key: {name} of 'instances' list. Error: {error}"
                ) from None
        if {name for name, _ in element} != set(self.types):
            raise invalid(
                f"Failed to process element: {index} of 'instances' list. JSON object: {echo(element)}"
                f" keys must be equal to: {','.join(sorted(self.types))}"
            )

    def add_value(self, index: int, alias: str, element: JsonValue) -> None:
        if isinstance(element, tuple) and not is_base64_object(element):
            raise invalid(f"Expecting value/list but got object at item {index} of input list")
        try:
            self.add(alias, element)
        except ServingError as error:
            raise invalid(f"Failed to process element: {index} of 'instances' list. Error: {error}") from None

    def add(self, name: str, value: JsonValue) -> None:
        if name not in self.types:
            raise invalid(f"JSON object: does not have named input: {name}")
        shape = leading_shape(value)
        leaves = flattened(value, shape, self.types[name])
        if name not in self.shapes:
            self.shapes[name], self.leaves[name] = shape, leaves
            return
        expected = self.shapes[name]
        if math.prod(expected) != len(leaves):
            raise invalid(f"Expecting tensor size: {math.prod(expected)} but got: {len(leaves)}")
        if expected != shape:
            raise invalid(f"Expecting shape {_bracketed(expected)} but got: {_bracketed(shape)}")
        self.leaves[name].extend(leaves)

    def tensor(self, alias: str, rows: int) -> Array:
        shape = (rows, *self.shapes[alias])
        # A repeated name in an instance adds its value twice: values beyond the shape are ignored.
        return as_array(alias, self.leaves[alias][: rows * math.prod(shape[1:])], shape, self.types[alias])


def _bracketed(shape: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, shape))}]"
