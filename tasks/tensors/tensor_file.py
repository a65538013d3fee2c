"""Tensors on disk and their digests: dtype, shape and bytes, with no pickle anywhere.

A tensor file is an 8-byte little-endian header length, a JSON header, and the tensors' bytes one after the other.
Strings are stored as their lengths (int64) followed by their bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.errors import DamagedError
from tasks.records.baseline import TensorFact
from tasks.records.signature import OutputRef

Array = npt.NDArray[Any]
Tensors = dict[str, Array]
_AT_ONCE = 1 << 20  # elements
LARGE = 1 << 28
"""Bytes above which a tensor is handled in pieces, or not at all where it would have to be copied whole."""
PIECE = 1 << 26  # bytes
_INTEGERS = {name: name.removeprefix("q") for name in ("qint8", "quint8", "qint16", "quint16", "qint32")}


def as_array(value: Any) -> Array:
    """Convert a value that TensorFlow returned: a scalar string comes as bytes, whose trailing zeros numpy would drop.

    A quantised tensor comes as integers from a session, and as structures of one field from a message: integers here.
    """
    if isinstance(value, (bytes, str)):
        return np.array(value, dtype=object)
    array: Array = np.asarray(value)
    return array if array.dtype.names is None else array[array.dtype.names[0]]


def dtype_name(array: Array) -> str:
    """TensorFlow's name of an array's dtype: `float32`, `bfloat16`, `string`."""
    return "string" if array.dtype.kind in "OSU" else array.dtype.name


def as_bytes(array: Array) -> bytes:
    """Return the bytes that decide whether two tensors are equal."""
    if array.dtype.kind not in "OSU":
        return np.ascontiguousarray(array).tobytes()
    items = [item.encode() if isinstance(item, str) else bytes(item) for item in array.ravel().tolist()]
    return np.array([len(item) for item in items], dtype="<i8").tobytes() + b"".join(items)


def _buffer(array: Array) -> Any:
    """Return `as_bytes` of an array, without a copy of its numbers."""
    if array.dtype.kind in "OSU":
        return as_bytes(array)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def fact(name: str, array: Array) -> TensorFact:
    """Return the facts of an array, as a record."""
    return TensorFact(
        name=name,
        dtype=dtype_name(array),
        shape=array.shape,
        sha256=hashlib.sha256(_buffer(array)).hexdigest(),
        nonfinite=nonfinite(array),
    )


def fact_of_pieces(name: str, pieces: Iterable[Array]) -> TensorFact:
    """Return the facts of an array that comes in pieces along its first axis, of one at least."""
    sha, count, rows = hashlib.sha256(), 0, 0
    for piece in pieces:
        sha.update(_buffer(piece))
        count += nonfinite(piece)
        rows += len(piece) if piece.ndim else 0
        dtype, shape = dtype_name(piece), piece.shape
    shape = (rows, *shape[1:]) if shape else shape
    return TensorFact(name=name, dtype=dtype, shape=shape, sha256=sha.hexdigest(), nonfinite=count)


def piece_starts(shape: Sequence[int | None] | None, itemsize: int | None) -> list[int]:
    """Return where the pieces of a tensor of numbers begin along its first axis: at 0 alone where it is not large."""
    if not shape or not itemsize or None in shape:
        return [0]
    row = itemsize * math.prod(size or 0 for size in shape[1:])
    if row * (shape[0] or 0) <= LARGE:
        return [0]
    return list(range(0, shape[0] or 0, max(PIECE // max(row, 1), 1)))


def nonfinite(array: Array) -> int:
    """Return how many of an array's floats are NaN or infinite; 0 if it holds no floats."""
    if array.dtype.kind not in "fcV" or array.dtype.names is not None:
        return 0
    flat = array.reshape(-1)
    return sum(_nonfinite(flat[at : at + _AT_ONCE]) for at in range(0, flat.size, _AT_ONCE))


def _nonfinite(array: Array) -> int:
    # ml_dtypes' types are of kind V (bfloat16, float8): every one of them fits in float32.
    numbers = array.astype(np.float32) if array.dtype.kind == "V" else array
    return int(numbers.size - np.count_nonzero(np.isfinite(numbers)))


def write_tensors(path: Path, tensors: Mapping[str, Array]) -> None:
    """Write named tensors to one file, completely or not at all; equal tensors give equal bytes."""
    blobs = [as_bytes(array) for array in tensors.values()]
    header = json.dumps(
        [
            {"name": name, "dtype": dtype_name(array), "shape": array.shape, "bytes": len(blob)}
            for (name, array), blob in zip(tensors.items(), blobs, strict=True)
        ]
    ).encode()
    scratch = path.with_name(f"{path.name}.new")
    with scratch.open("wb") as stream:
        stream.write(struct.pack("<Q", len(header)) + header)
        for blob in blobs:
            stream.write(blob)
    os.replace(scratch, path)


def read_tensors(path: Path) -> Tensors:
    """Read the tensors of a file that `write_tensors` made; strings come as object arrays of bytes.

    Raises:
        DamagedError: the file is truncated, too long, or not such a file.
    """
    content = path.read_bytes()
    try:
        (length,) = struct.unpack_from("<Q", content)
        position = 8 + length
        tensors: Tensors = {}
        for entry in json.loads(content[8:position]):
            blob = content[position : position + entry["bytes"]]
            tensors[entry["name"]] = _array(blob, entry["dtype"], entry["shape"])
            position += entry["bytes"]
        if position != len(content):
            raise ValueError("its length is not what its header says")
    except (struct.error, ValueError, KeyError, TypeError, OverflowError) as error:
        remedy = "run again: the step that made it makes it anew."
        raise DamagedError(str(path), "a tensor file", str(error) or type(error).__name__, remedy) from None
    return tensors


def _array(blob: bytes, dtype: str, shape: list[int]) -> Array:
    if dtype != "string":
        return np.frombuffer(blob, dtype=numpy_dtype(dtype)).reshape(shape).copy()
    count = int(np.prod(shape, dtype=np.int64))
    lengths = np.frombuffer(blob[: 8 * count], dtype="<i8")
    ends = 8 * count + np.cumsum(lengths)
    array = np.empty(count, dtype=object)
    for position, (length, end) in enumerate(zip(lengths, ends, strict=True)):
        array[position] = blob[end - length : end]
    return array.reshape(shape)


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return the numpy dtype of a TensorFlow name; bfloat16 and similar types come from ml_dtypes, a dependency of TensorFlow.

    For a quantised dtype (`quint8`), that of its integers.
    """
    try:
        return np.dtype(_INTEGERS.get(name, name))
    except TypeError:
        import ml_dtypes

        dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return dtype


def keyed(signature: str, tensors: Mapping[str, Array]) -> Tensors:
    """Return the tensors of one signature under the names that they have in a file, `signature/name`."""
    return {str(OutputRef(signature, name)): array for name, array in tensors.items()}


def select(tensors: Mapping[str, Array], signature: str) -> Tensors:
    """Return the tensors of one signature by their own names: the inverse of `keyed`."""
    prefix = str(OutputRef(signature, ""))
    return {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}
