"""Convert one JSON value to one dense tensor: its shape, its values in order, and their faults.

Rules and texts: `GetDenseTensorShape`, `FillTensorProto` and `AddValueToTensor` in
tensorflow_serving/util/json_tensor.cc. The shape comes from the first element of every list; the signature's shape is
ignored.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from tasks.serving.embedded import tensors
from tasks.serving.embedded.errors import Code, ServingError, invalid
from tasks.serving.embedded.rest.json_values import JsonObject, JsonValue, json_type
from tasks.serving.embedded.rest.json_writer import echo
from tasks.serving.embedded.tensors import Array

_FLOAT, _DOUBLE, _STRING, _BOOL = 1, 2, 7, 10
# The integers that AddValueToTensor accepts, by DataType: small types are checked as int32 and wrap.
_INTEGER_RANGES = {
    3: (-(2**31), 2**31),
    4: (-(2**31), 2**31),
    5: (-(2**31), 2**31),
    6: (-(2**31), 2**31),
    9: (-(2**63), 2**63),
    22: (0, 2**32),
    23: (0, 2**64),
}
_BASE64 = re.compile(r"([A-Za-z0-9+/]*)([=.]{0,2})")


def leading_shape(value: JsonValue) -> tuple[int, ...]:
    """Return the lengths of the value, of its first element, of that one's first element and so on."""
    shape: list[int] = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    return tuple(shape)


def flattened(value: JsonValue, shape: tuple[int, ...], data_type: int) -> list[Any]:
    """Return the values of a dense tensor in row-major order, ready for `as_array`.

    Raises:
        ServingError: the first value, in reading order, that is at the wrong depth, in a list of the wrong length or of
            the wrong type.
    """
    level: list[Any] = [value]
    for size in shape:
        if any(type(item) is not list or len(item) != size for item in level):
            return [_leaf(item, data_type) for item in _in_order(value, shape)]
        level = [inner for item in level for inner in item]
    if any(type(item) is list for item in level):
        return [_leaf(item, data_type) for item in _in_order(value, shape)]
    return [_leaf(item, data_type) for item in level]


def _in_order(value: JsonValue, shape: tuple[int, ...]) -> Iterator[JsonValue]:
    """Yield the leaves of a ragged value up to its first fault, which is raised."""
    rank = len(shape)
    stack: list[Iterator[JsonValue]] = [iter([value])]
    while stack:
        level = len(stack) - 1
        try:
            item = next(stack[-1])
        except StopIteration:
            stack.pop()
            continue
        if not isinstance(item, list):
            if level != rank:
                raise invalid(
                    f"JSON Value: {echo(item)} found at incorrect level: {level + 1}"
                    f" in the JSON DOM. Expected at level: {rank}"
                )
            yield item
        elif level >= rank:
            raise invalid(f"Encountered list at unexpected level: {level} expected < {rank}")
        elif len(item) != shape[level]:
            raise invalid(
                f"Encountered list at unexpected size: {len(item)} at level: {level} expected size: {shape[level]}"
            )
        else:
            stack.append(iter(item))


def _leaf(value: JsonValue, data_type: int) -> Any:
    kind = type(value)
    if data_type in (_FLOAT, _DOUBLE):
        if kind is float or kind is int:
            return value
    elif data_type in _INTEGER_RANGES:
        low, high = _INTEGER_RANGES[data_type]
        if kind is int and low <= value < high:  # type: ignore[operator]  # an int by `kind`
            return value
    elif data_type == _STRING:
        if isinstance(value, tuple):
            return base64_bytes(value)
        if isinstance(value, str):
            return value.encode("utf-8", "surrogateescape")
    elif data_type == _BOOL:
        if kind is bool:
            return value
    elif kind is not tuple:
        raise ServingError(
            Code.UNIMPLEMENTED, f"Conversion of JSON Value: {echo(value)} to type: {tensors.data_type_name(data_type)}"
        )
    raise invalid(
        f"JSON Value: {echo(value)} Type: {json_type(value)}"
        f" is not of expected type: {tensors.data_type_name(data_type)}"
    )


def as_array(alias: str, leaves: list[Any], shape: tuple[int, ...], data_type: int) -> Array:
    """Return the tensor of checked values.

    Raises:
        ServingError: more dimensions than a tensor can have.
    """
    if len(shape) > tensors.MAX_DIMENSIONS:
        raise tensors.parsing_error(alias)
    dtype = tensors.numpy_dtype(data_type)
    if dtype.kind == "O":
        strings = np.empty(len(leaves), object)
        strings[:] = leaves
        return strings.reshape(shape)
    # Values were checked against their TensorProto field, which is wider than the type: one too large for the type wraps
    # or becomes infinite, as in a C++ cast.
    wide = np.float64 if dtype.kind == "f" else np.int64 if dtype.itemsize < 4 and dtype.kind != "b" else dtype
    with np.errstate(over="ignore"):
        return np.array(leaves, wide).astype(dtype).reshape(shape)


def is_base64_object(value: JsonValue) -> bool:
    """Tell whether the value is `{"b64": "…"}`, without other members."""
    return isinstance(value, tuple) and len(value) == 1 and value[0][0] == "b64" and isinstance(value[0][1], str)


def base64_bytes(value: JsonObject) -> bytes:
    """Decode a `{"b64": "…"}` object; white space is skipped and padding is optional (`absl::Base64Unescape`)."""
    if not is_base64_object(value):
        raise invalid(f"JSON Value: {echo(value)} not formatted correctly for base64 data")
    encoded = "".join(str(value[0][1]).split())
    found = _BASE64.fullmatch(encoded)
    padding = -len(found[1]) % 4 if found else 3
    if found is None or padding == 3 or len(found[2]) not in (0, padding):
        raise invalid("Unable to base64 decode")
    return binascii.a2b_base64(found[1] + "=" * padding)
