"""Convert between TensorProto and arrays, by the rules of `Tensor::FromProto` and `Tensor::AsProtoField`.

Source: tensorflow/core/framework/tensor.cc.
"""

from __future__ import annotations

import functools
import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tasks.serving.embedded.errors import Code, ServingError, invalid
from tasks.serving.protos import TensorProto

Array: TypeAlias = npt.NDArray[Any]

MAX_DIMENSIONS = 64
"""NumPy's limit. TensorFlow's is 254; more than 64 are refused here as TensorFlow refuses 255."""

# The repeated field of each DataType (tensorflow/core/framework/types.proto), by number.
_FIELDS = {
    1: "float_val",
    2: "double_val",
    3: "int_val",
    4: "int_val",
    5: "int_val",
    6: "int_val",
    7: "string_val",
    8: "scomplex_val",
    9: "int64_val",
    10: "bool_val",
    14: "half_val",
    17: "int_val",
    18: "dcomplex_val",
    19: "half_val",
    22: "uint32_val",
    23: "uint64_val",
}
STRING, COMPLEX64, COMPLEX128 = 7, 8, 18
_PAIRS = {COMPLEX64: np.complex64, COMPLEX128: np.complex128}


def parsing_error(alias: str) -> ServingError:
    """Return the real server's error for a tensor that it cannot read."""
    return invalid(f"tensor parsing error: {alias}")


@functools.cache
def numpy_dtype(data_type: int) -> np.dtype[Any]:
    """Return the array type of a DataType number."""
    import tensorflow as tf

    dtype: np.dtype[Any] = np.dtype(tf.dtypes.as_dtype(data_type).as_numpy_dtype)
    return dtype


@functools.cache
def data_type_name(data_type: int) -> str:
    """Return the name by `DataTypeString`: `float`, `int64`, `bfloat16`."""
    import tensorflow as tf

    name: str = tf.dtypes.as_dtype(data_type).name
    return {"float32": "float", "float64": "double", "float16": "half"}.get(name, name)


def data_type_enum_name(data_type: int) -> str:
    """Return the name by `DataType_Name`: `DT_FLOAT`."""
    return "DT_" + data_type_name(data_type).upper()


@functools.cache
def data_type_of(dtype: np.dtype[Any]) -> int:
    """Return the DataType number of an array's type."""
    import tensorflow as tf

    number: int = tf.dtypes.as_dtype(dtype).as_datatype_enum
    return number


def from_proto(alias: str, proto: TensorProto) -> Array:
    """Convert a TensorProto to an array: missing values repeat the last one, no values are zeros.

    Raises:
        ServingError: INVALID_ARGUMENT `tensor parsing error: <alias>`.
    """
    field = _FIELDS.get(proto.dtype)
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    # `unknown_rank` is not looked at: a tensor, unlike a placeholder, has the dimensions that are there.
    if field is None or len(shape) > MAX_DIMENSIONS or any(n < 0 for n in shape):
        raise parsing_error(alias)
    count = math.prod(shape)
    dtype = numpy_dtype(proto.dtype)
    if math.prod(n for n in shape if n) * dtype.itemsize >= 2**63:
        raise parsing_error(alias)
    if count and proto.tensor_content:
        return _from_content(alias, proto.tensor_content, count, dtype).reshape(shape)
    try:
        return _from_field(getattr(proto, field), proto.dtype, count, dtype).reshape(shape)
    except (MemoryError, ValueError):
        raise parsing_error(alias) from None


def _from_field(values: Any, data_type: int, count: int, dtype: np.dtype[Any]) -> Array:
    if data_type in _PAIRS:
        parts = np.array(values, np.float32 if data_type == COMPLEX64 else np.float64)
        given: Array = parts[: len(parts) // 2 * 2].view(dtype)
    elif dtype.kind == "O":
        given = np.empty(len(values), object)
        given[:] = list(values)
    elif _FIELDS[data_type] == "half_val":
        given = np.array(values, np.int64).astype(np.uint16).view(dtype)
    else:
        # The field is wider than the type: values wrap, as in a C++ cast.
        wide = np.int64 if _FIELDS[data_type] == "int_val" else dtype
        given = np.array(values, wide).astype(dtype)
    if len(given) >= count:
        return given[:count]
    filler = given[-1] if len(given) else (b"" if dtype.kind == "O" else dtype.type(0))
    tail = np.empty(count - len(given), dtype)
    tail[:] = filler
    return np.concatenate([given, tail])


def _from_content(alias: str, content: bytes, count: int, dtype: np.dtype[Any]) -> Array:
    if dtype.kind == "O":
        return _strings_from_content(alias, content, count)
    if len(content) != count * dtype.itemsize:
        raise parsing_error(alias)
    return np.frombuffer(content, dtype)


def _strings_from_content(alias: str, content: bytes, count: int) -> Array:
    """Decode `port::EncodeStringList`: all lengths as varints, then all strings."""
    at = 0
    lengths: list[int] = []
    for _ in range(count):
        length = shift = 0
        while True:
            if at >= len(content) or shift > 28:
                raise parsing_error(alias)
            byte = content[at]
            at += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        lengths.append(length)
    if at + sum(lengths) != len(content):
        raise parsing_error(alias)
    strings = np.empty(count, object)
    for index, length in enumerate(lengths):
        strings[index] = content[at : at + length]
        at += length
    return strings


def fill_proto(proto: TensorProto, array: Array) -> None:
    """Write an array into an empty TensorProto, every value in the field of its type."""
    data_type = data_type_of(array.dtype)
    if data_type not in _FIELDS:
        raise ServingError(Code.UNIMPLEMENTED, f"No TensorProto field for type: {data_type_name(data_type)}")
    proto.dtype = data_type
    proto.tensor_shape.SetInParent()  # a scalar has a shape too
    for size in array.shape:
        proto.tensor_shape.dim.add().size = size
    field = getattr(proto, _FIELDS[data_type])
    flat = array.reshape(-1)
    if data_type in _PAIRS:
        flat = flat.view(np.float32 if data_type == COMPLEX64 else np.float64)
    elif _FIELDS[data_type] == "half_val":
        flat = flat.view(np.uint16)
    field.extend(flat.tolist())
