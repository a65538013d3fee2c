"""The fields of a serialized protobuf message, read without its type (protobuf.dev, "Encoding")."""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5


class _CutNumberError(ValueError, EOFError):
    """The message ends within a number."""


def varint(message: bytes, position: int = 0) -> tuple[int, int]:
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


def fields(message: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield number, wire type and payload of each field, as far as `message` goes: the last payload may be cut.

    Raises:
        ValueError: `message` is no protobuf message.
    """
    for number, kind, start, end in _spans(message):
        yield number, kind, message[start:end]


def is_cut(message: bytes) -> bool:
    """Return True if a message ends before its last field does, as a file does whose copy was broken off."""
    try:
        return any(end > len(message) for _, _, _, end in _spans(message))
    except EOFError:
        return True
    except ValueError:
        return False


def _spans(message: bytes) -> Iterator[tuple[int, int, int, int]]:
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
