"""Tables of checkpoints as nobody's TensorFlow writes them, and checkpoints that TensorFlow writes, of many types."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tasks.forms.checkpoint_table import MAGIC


def varint(number: int) -> bytes:
    number &= 2**64 - 1
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes(out) + bytes([number])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def shape(*sizes: int) -> bytes:
    """A TensorShapeProto."""
    return b"".join(field(2, field(1, size)) for size in sizes)


def entry(dtype: int, sizes: tuple[int, ...], size: int, offset: int = 0, shard: int = 0) -> bytes:
    """A BundleEntryProto."""
    return field(1, dtype) + field(2, shape(*sizes)) + field(3, shard) + field(4, offset) + field(5, size)


def table(items: Mapping[bytes, bytes]) -> bytes:
    """A table of one block."""

    def block(items: Mapping[bytes, bytes]) -> bytes:
        entries = b"".join(
            varint(0) + varint(len(key)) + varint(len(value)) + key + value for key, value in sorted(items.items())
        )
        return entries + bytes(4) + (1).to_bytes(4, "little")

    data = block(items)
    index = block({b"\xff": varint(0) + varint(len(data))})
    handles = varint(0) * 2 + varint(len(data) + 5) + varint(len(index))
    return data + trailer(data) + index + trailer(index) + handles.ljust(40, b"\0") + MAGIC


def trailer(block: bytes) -> bytes:
    """Behind a block: that it is not compressed, and its masked CRC-32C (tensorflow/core/lib/hash/crc32c.h)."""
    crc = 2**32 - 1
    for byte in block + b"\0":
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 2**32 - 1
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 2**32 - 1
    return b"\0" + masked.to_bytes(4, "little")


def write_index(prefix: Path, entries: Mapping[bytes, bytes], data: bytes = b"") -> None:
    """A bundle of one data file."""
    header = field(1, 1) + field(3, field(1, 1))
    prefix.with_name(f"{prefix.name}.index").write_bytes(table({b"": header, **entries}))
    prefix.with_name(f"{prefix.name}.data-00000-of-00001").write_bytes(data)


def write_v1(path: Path, name: bytes, sizes: tuple[int, ...]) -> None:
    """A V1 checkpoint of one tensor."""
    meta = field(1, field(1, name) + field(2, shape(*sizes)) + field(3, 1))
    path.write_bytes(table({b"": field(1, meta)}))


def write_all_types(prefix: Path) -> list[str]:
    """Write a tensor of every type that a checkpoint can hold, a partitioned one and an empty one; return their keys."""
    import tensorflow as tf

    numbers = tf.constant([[1, 0, 1], [1, 1, 0]])
    names = "bool int8 uint8 int16 uint16 int32 uint32 int64 uint64 bfloat16 half float32 float64 complex64 complex128"
    named = {f"a/{name}": tf.cast(numbers, name) for name in names.split()}
    named |= {
        f"quantized/{name}": tf.bitcast(tf.cast(numbers, name[1:]), name) for name in ("qint8", "quint8", "qint32")
    }
    named |= {
        "z/strings": tf.constant(["a", "", "long" * 100]),
        "z/empty": tf.zeros([0, 4]),
        "z/scalar": tf.constant(3),
    }
    parts = {"a/part": tf.zeros([2, 3])}
    spaces = [""] * len(named) + ["4 3 0,2:-"]
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=[*named, *parts],
        shape_and_slices=spaces,
        tensors=[*named.values(), *parts.values()],
    )
    return sorted(tf.train.load_checkpoint(str(prefix)).get_variable_to_shape_map())
