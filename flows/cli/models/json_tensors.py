"""Tensors as JSON values, as TensorFlow Serving's REST API writes them."""

from __future__ import annotations

import base64
import math
from typing import Any

from tasks.tensors import tensor_file
from tasks.tensors.tensor_file import Array


def jsonable(array: Array, *, in_base64: bool = False) -> Any:
    """Return the values nested as the tensor is; a float32 as the shortest decimal number that is that float32.

    A string is text; it is `{"b64": …}` with `in_base64`, or where it is not UTF-8.
    """
    kind = tensor_file.dtype_name(array)
    if kind == "string":
        flat = [text(bytes(item), in_base64=in_base64) for item in array.ravel().tolist()]
    elif array.dtype.kind == "c":
        flat = [[_number(item.real), _number(item.imag)] for item in array.ravel()]
    elif array.dtype.kind in "fV":
        wide = array.ravel() if array.dtype.kind == "f" else array.ravel().astype("float32")
        flat = [_number(item) for item in wide]
    else:
        flat = array.ravel().tolist()
    for size in reversed(array.shape[1:]):
        flat = [flat[start : start + size] for start in range(0, len(flat), size)] if size else []
    if 0 in array.shape:
        return array.tolist()
    return flat if array.ndim else flat[0]


def _number(item: Any) -> float | str:
    if math.isfinite(item):
        return float(str(item))
    return "NaN" if math.isnan(item) else "Infinity" if item > 0 else "-Infinity"


def text(item: bytes, *, in_base64: bool = False) -> Any:
    """Return one string as a JSON value."""
    try:
        if not in_base64:
            return item.decode()
    except UnicodeDecodeError:
        pass
    return {"b64": base64.b64encode(item).decode()}
