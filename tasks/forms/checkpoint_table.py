"""The tables of checkpoints, checked against the files before TensorFlow allocates by what they declare. No TensorFlow.

The `.index` of a tensor bundle (V2) and every file of a V1 checkpoint are leveldb tables (tensorflow/core/lib/io/format.h
and block.cc). In an index, key "" holds a BundleHeaderProto and every other key a BundleEntryProto
(tensorflow/core/protobuf/tensor_bundle.proto); in V1, key "" holds the shapes of all tensors
(tensorflow/core/util/saved_tensor_slice.proto). TensorFlow's readers end the process for a shape that cannot be, and
reserve memory for as many strings as an entry declares.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from tasks.errors import DamagedError
from tasks.forms import snappy, wire_format

MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_FOOTER = 48
_TRAILER = 5  # of a block: one byte for its compression, four for its checksum, which TensorFlow verifies
# What is read here is read in the flow's own process, which no watchdog ends.
_INDEX_LIMIT = 2**28  # an entry of an index has some fifty bytes
_BLOCK_LIMIT = 2**26
_KEY_LIMIT = 2**16
# TensorFlow's limits of a shape (tensorflow/core/framework/tensor_shape.h).
_MOST_DIMENSIONS = 254
_MOST_ELEMENTS = 2**63 - 1
# Bytes of an element of each DataType (tensorflow/core/framework/types.proto); of the others each takes one at least.
ITEM_BYTES = {1: 4, 2: 8, 3: 4, 4: 1, 5: 2, 6: 1, 8: 8, 9: 8, 10: 1, 11: 1, 12: 1, 13: 4, 14: 2, 15: 2, 16: 2, 17: 2}
ITEM_BYTES |= {18: 16, 19: 2, 22: 4, 23: 8}
_STRING, _VARIANT = 7, 21


@dataclass(frozen=True)
class Entry:
    """What an index declares of a tensor: its DataType, its shape, and the place of its bytes in a shard."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    sliced: bool


def is_table(path: Path) -> bool:
    """Return True if a file ends as a table does."""
    if not path.is_file() or path.stat().st_size < _FOOTER:
        return False
    with path.open("rb") as stream:
        stream.seek(-len(MAGIC), 2)
        return stream.read() == MAGIC


def is_index(path: Path) -> bool:
    """Return True if a table is the index of a tensor bundle, whatever its name; False, too, where it cannot be read."""
    try:
        key, header = next(_items(path), (b"?", b""))
        # Its first field is a number, `num_shards`, and that of V1 a message.
        return not key and next(wire_format.fields(header))[1] == wire_format.VARINT
    except (DamagedError, StopIteration, ValueError):
        return False


def entries(index: Path) -> Iterator[tuple[str, Entry]]:
    """Yield the key and the entry of each tensor of an index, all of whose shapes can be.

    Raises:
        DamagedError: the table cannot be read, or an entry declares what no tensor can be.
    """
    size = index.stat().st_size
    if size > _INDEX_LIMIT:
        found = f"{size / 2**20:.0f} MiB"
        raise _damaged(index, f"an index of at most {_INDEX_LIMIT / 2**20:.0f} MiB", found)
    for key, value in _items(index):
        if not key:
            continue
        name = key.decode(errors="backslashreplace")
        try:
            entry = _entry(value)
        except ValueError as error:
            found = f"bytes of another kind ({error})"
            raise _damaged(_tensor(index, name), "an entry of an index", found) from None
        _require_shape(_tensor(index, name), entry.shape)
        yield name, entry


def shard_sizes(index: Path) -> Mapping[int, int]:
    """Return the size in bytes of each data file of an index, by number."""
    shard = re.compile(re.escape(index.name.removesuffix(".index")) + r"\.data-(\d{5})-of-\d{5}")
    beside = ((shard.fullmatch(path.name), path) for path in index.parent.iterdir())
    # A pipe has no size: who reads it refuses it.
    sizes = ((match, path.stat().st_size if path.is_file() else _MOST_ELEMENTS) for match, path in beside if match)
    return {int(match[1]): size for match, size in sizes}


def require_bytes(index: Path, key: str, entry: Entry, shards: Mapping[int, int]) -> None:
    """Raise DamagedError for an entry whose bytes are not in the data file that it names, or are no such tensor's.

    A data file that is missing is not this function's to find.
    """
    where = _tensor(index, key)
    if entry.sliced:  # its parts have entries of their own
        return
    held = shards.get(entry.shard, _MOST_ELEMENTS)
    if min(entry.offset, entry.size) < 0 or entry.offset + entry.size > held:
        wanted = f"{entry.size} bytes from {entry.offset} on"
        raise _damaged(where, f"a place in its data file of {held} bytes", wanted)
    count = math.prod(entry.shape)
    item = ITEM_BYTES.get(entry.dtype)
    if count * item != entry.size if item else count > entry.size:
        expected = f"{'' if item else 'at least '}{count * (item or 1)} bytes for the shape {list(entry.shape)}"
        raise _damaged(where, expected, str(entry.size))


def keys(index: Path) -> set[str]:
    """Return the keys of an index, each of whose entries agrees with the data files beside it. Raises DamagedError."""
    shards = shard_sizes(index)
    held: set[str] = set()
    for key, entry in entries(index):
        require_bytes(index, key, entry, shards)
        held.add(key)
    return held


def _tensor(index: Path, key: str) -> str:
    return f"{index}, tensor {key[:200]!r}"


def require_v1(table: Path) -> None:
    """Raise DamagedError for a file of a V1 checkpoint that declares a shape that cannot be."""
    for name, _, shape in v1_tensors(table):
        _require_shape(_tensor(table, name), shape)


def v1_tensors(table: Path) -> Iterator[tuple[str, int, tuple[int, ...]]]:
    """Yield the key, the DataType and the shape of each tensor that a file of a V1 checkpoint declares. Raises DamagedError."""
    _, header = next(_items(table), (b"", b""))
    try:
        for meta in _payloads(header, 1):
            for tensor in _payloads(meta, 1):
                name = b"".join(_payloads(tensor, 1)).decode(errors="backslashreplace")
                fields = list(wire_format.fields(tensor))
                dtype = sum(wire_format.int64(payload) for number, _, payload in fields if number == 3)
                for shape in _payloads(tensor, 2):
                    yield name, dtype, _dimensions(shape)
    except ValueError as error:
        raise _damaged(table, "the names and shapes of a checkpoint's tensors", str(error)) from None


def _damaged(where: object, expected: str, found: str) -> DamagedError:
    return DamagedError(str(where), expected, found, "restore it from a backup, or give another checkpoint.")


def _entry(value: bytes) -> Entry:
    numbers = {1: 0, 3: 0, 4: 0, 5: 0}
    shape: tuple[int, ...] = ()
    sliced = False
    for number, kind, payload in wire_format.fields(value):
        if number in numbers and kind == wire_format.VARINT:
            numbers[number] = wire_format.int64(payload)
        elif number == 2:
            shape = _dimensions(payload)
        elif number == 7:
            sliced = True
    return Entry(numbers[1], shape, numbers[3], numbers[4], numbers[5], sliced)


def _dimensions(shape: bytes) -> tuple[int, ...]:
    """Return the sizes of a TensorShapeProto; one of unknown rank has a dimension of -1, as no saved tensor has."""
    unknown = any(wire_format.int64(payload) for number, _, payload in wire_format.fields(shape) if number == 3)
    sizes = [
        sum(wire_format.int64(payload) for number, _, payload in wire_format.fields(dimension) if number == 1)
        for dimension in _payloads(shape, 2)
    ]
    return (*sizes, -1) if unknown else tuple(sizes)


def _payloads(message: bytes, wanted: int) -> Iterator[bytes]:
    fields = wire_format.fields(message)
    return (payload for number, kind, payload in fields if (number, kind) == (wanted, wire_format.LENGTH_DELIMITED))


def _require_shape(where: str, shape: tuple[int, ...]) -> None:
    if len(shape) > _MOST_DIMENSIONS:
        raise _damaged(where, f"at most {_MOST_DIMENSIONS} dimensions", str(len(shape)))
    if min(shape, default=0) < 0 or math.prod(size for size in shape if size) > _MOST_ELEMENTS:
        raise _damaged(where, "a shape that a tensor can have", str(list(shape[:8])))


def _items(table: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a table in their order. Raises DamagedError."""
    with table.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(size - _FOOTER, 0))
        footer = stream.read()
        try:
            if not footer.endswith(MAGIC):
                raise ValueError("it does not end as a table does")
            handles = [(0, 0), *(_handle(value) for _, value in _block(stream, _index_handle(footer), size))]
            for (before, length), handle in pairwise(handles):
                if handle[0] < before + length:
                    raise ValueError("its blocks overlap")
                yield from _block(stream, handle, size)
        except ValueError as error:
            raise _damaged(table, "a table as TensorFlow writes it", f"another file ({error})") from None


def _index_handle(footer: bytes) -> tuple[int, int]:
    _, position = wire_format.varint(footer)
    _, position = wire_format.varint(footer, position)
    return _handle(footer[position:])


def _handle(value: bytes) -> tuple[int, int]:
    offset, position = wire_format.varint(value)
    length, _ = wire_format.varint(value, position)
    return offset, length


def _block(stream: BinaryIO, handle: tuple[int, int], size: int) -> Iterator[tuple[bytes, bytes]]:
    offset, length = handle
    if length > _BLOCK_LIMIT or offset + length + _TRAILER > size or length < 4:
        raise ValueError(f"a block of {length} bytes at {offset}")
    stream.seek(offset)
    block = stream.read(length)
    if (compression := stream.read(1)) != b"\0":
        if compression != b"\1":
            raise ValueError("a block is compressed in an unknown way")
        block = snappy.decompress(block, _BLOCK_LIMIT)
        if len(block) < 4:
            raise ValueError("a block without its restart points")
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (restarts + 1)
    if end < 0:
        raise ValueError("a block without its restart points")
    key = b""
    position = 0
    while position < end:
        shared, position = wire_format.varint(block, position)
        own, position = wire_format.varint(block, position)
        length, position = wire_format.varint(block, position)
        if shared > len(key) or position + own + length > end or shared + own > _KEY_LIMIT:
            raise ValueError("an entry leaves its block")
        key = key[:shared] + block[position : position + own]
        position += own + length
        yield key, block[position - length : position]
