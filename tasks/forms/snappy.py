"""Decompression of Snappy's raw format (google/snappy, format_description.txt), which early TensorFlow 1 used in an index."""

from __future__ import annotations

from tasks.forms.wire_format import varint


def decompress(compressed: bytes, most: int) -> bytes:
    """Return what was compressed, of at most `most` bytes.

    Raises:
        ValueError: the bytes are of another format, or come to more or less than they declare.
    """
    length, position = varint(compressed)
    if length > most:
        raise ValueError(f"{length} bytes in one block")
    out = bytearray()
    while position < len(compressed) and len(out) <= length:
        tag = compressed[position]
        position += 1
        kind, size = tag & 3, tag >> 2
        if kind == 0:
            if size >= 60:
                size, position = _number(compressed, position, size - 59)
            out += compressed[position : position + size + 1]
            position += size + 1
            continue
        if kind == 1:
            distance, position = _number(compressed, position, 1)
            distance |= tag >> 5 << 8
            size = (tag >> 2 & 7) + 3
        else:
            distance, position = _number(compressed, position, 2 if kind == 2 else 4)
        start = len(out) - distance
        if start < 0 or not distance:
            raise ValueError("a copy of bytes that are not there")
        piece = out[start : start + size + 1]
        # A copy may overlap what it writes: its bytes repeat.
        out += (piece * ((size + 1) // len(piece) + 1))[: size + 1]
    if len(out) != length or position != len(compressed):
        raise ValueError(f"{len(out)} bytes in a block that declares {length}")
    return bytes(out)


def _number(content: bytes, position: int, size: int) -> tuple[int, int]:
    return int.from_bytes(content[position : position + size], "little"), position + size
