"""The fields of a serialized protobuf message, read and written without its type (protobuf.dev, "Encoding")."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5


B = TypeVar("B", bytes, memoryview)


class _CutNumberError(ValueError, EOFError):
    """The message ends within a number."""


def varint(message: bytes | memoryview, position: int = 0) -> tuple[int, int]:
    """Return the number at a position, without a sign, and the position behind it.

    Raises:
        ValueError: there is none.
    """
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise _CutNumberError
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number too long")


def int64(payload: bytes) -> int:
    """Return the number that the payload of an `int64` or `int32` field is."""
    value, _ = varint(payload)
    value &= 2**64 - 1
    return value - 2**64 if value >> 63 else value


def fields(message: B) -> Iterator[tuple[int, int, B]]:
    """Yield number, wire type and payload of each field, as far as `message` goes: the last payload may be cut.

    Raises:
        ValueError: `message` is no protobuf message.
    """
    for number, kind, start, end in _spans(message):
        yield number, kind, message[start:end]


def header(number: int, length: int) -> bytes:
    """Return what comes before the payload, of `length` bytes, of a field with bytes."""
    return _encoded(number << 3 | LENGTH_DELIMITED) + _encoded(length)


def field(number: int, kind: int, payload: bytes | memoryview) -> bytes:
    """Return a field as `fields` yielded it."""
    lead = header(number, len(payload)) if kind == LENGTH_DELIMITED else _encoded(number << 3 | kind)
    return lead + bytes(payload)


def _encoded(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def is_cut(message: bytes) -> bool:
    """Return True if a message ends before its last field does, as a file does whose copy was broken off."""
    try:
        return any(end > len(message) for _, _, _, end in _spans(message))
    except EOFError:
        return True
    except ValueError:
        return False


def _spans(message: bytes | memoryview) -> Iterator[tuple[int, int, int, int]]:
    position = 0
    while position < len(message):
        key, position = varint(message, position)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise ValueError("field 0")
        if kind == VARINT:
            _, end = varint(message, position)
        elif kind == LENGTH_DELIMITED:
            length, position = varint(message, position)
            end = position + length
        elif kind in (FIXED64, FIXED32):
            end = position + (8 if kind == FIXED64 else 4)
        else:
            raise ValueError(f"wire type {kind}")
        yield number, kind, position, end
        position = end
