"""Parsed JSON values.

`None`, `bool`, `int` (within int64 or uint64), `float`, `str`, `list` for arrays and `tuple` of (name, value) pairs for
objects, whose order and repeated names matter. A `str` holds bytes that are not UTF-8 as surrogate escapes.
"""

from __future__ import annotations

from typing import TypeAlias

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | JsonObject | None"
JsonObject: TypeAlias = "tuple[tuple[str, JsonValue], ...]"


class JsonParseError(ValueError):
    """Invalid JSON, with RapidJSON's message and byte offset."""

    def __init__(self, words: str, offset: int) -> None:
        super().__init__(words, offset)
        self.words = words
        self.offset = offset


def json_type(value: JsonValue) -> str:
    """Return RapidJSON's name of a value's type."""
    if value is None:
        return "Null"
    if isinstance(value, bool):
        return "True" if value else "False"
    if isinstance(value, tuple):
        return "Object"
    if isinstance(value, list):
        return "Array"
    return "String" if isinstance(value, str) else "Number"
