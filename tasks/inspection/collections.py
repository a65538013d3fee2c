"""The collections of a graph as text: names, numbers, and settings that a training kept there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

_SHOWN_ENTRIES = 10_000
_TEXT_LIMIT = 300


def entries(key: str, held: Any) -> Iterator[str]:
    """Return a collection's entries as text: names, numbers, and the names of encoded messages."""
    from tensorflow.core.framework import variable_pb2

    kind = held.WhichOneof("kind")
    if kind is None:
        return
    for entry in list(getattr(held, kind).value)[:_SHOWN_ENTRIES]:
        if kind == "bytes_list":
            text = _text(entry)
            if text is None and "variables" in key:
                text = _variable_name(variable_pb2.VariableDef(), entry)
            yield text if text is not None else f"{len(entry)} bytes"
        else:
            yield str(entry)[:_TEXT_LIMIT] if kind != "any_list" else entry.type_url


def _text(entry: bytes) -> str | None:
    try:
        text = entry.decode()
    except UnicodeDecodeError:
        return None
    return text[:_TEXT_LIMIT] if text.isprintable() else None


def _variable_name(message: Any, entry: bytes) -> str | None:
    from google.protobuf.message import DecodeError

    try:
        message.ParseFromString(entry)
    except DecodeError:
        return None
    return str(message.variable_name)[:_TEXT_LIMIT]


def hyperparameters(collections: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a training kept: JSON in collections, and numbers in collections of their own."""
    found: dict[str, Any] = {}
    for key, held in sorted(collections.items()):
        kind = held.WhichOneof("kind")
        if kind in ("int64_list", "float_list"):
            values = [_finite(value) for value in getattr(held, kind).value]
            found[key] = values[0] if len(values) == 1 else values
        elif kind == "bytes_list" and re.fullmatch(
            r"(?i)(hyper_?)?param(eter)?s?|hparams|config|flags|settings", key.removeprefix("hyper")
        ):
            for entry in held.bytes_list.value:
                try:
                    told = json.loads(entry, parse_constant=str)
                except (ValueError, RecursionError):
                    continue
                found |= told if isinstance(told, dict) else {key: told}
    return found


def _finite(value: Any) -> Any:
    return value if value == value and abs(value) != float("inf") else str(value)
