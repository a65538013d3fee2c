"""Write JSON with the layout and number format of the real server.

Layout: RapidJSON's `PrettyWriter`, four spaces, with and without `kFormatSingleLineArray`. Numbers: `WriteDecimal` in
tensorflow_serving/util/json_tensor.cc: `%g`, and all significant digits if `%g` does not round-trip.

A value to write is a `str` (JSON text), a `list` or a `dict` from member names to values.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from tasks.serving.embedded.rest.json_values import JsonValue

_MAX_ECHO_BYTES = 256

Piece: TypeAlias = "str | list[Piece] | dict[str, Piece]"


def text(value: str) -> str:
    """Return a JSON string; bytes that are not UTF-8 stay surrogate escapes."""
    return json.dumps(value, ensure_ascii=False)


def decimals(numbers: npt.NDArray[np.floating]) -> list[str]:
    """Format each number of a float32 or float64 array as the real server does."""
    doubles = numbers.tolist()
    short = [f"{double:g}" for double in doubles]
    with np.errstate(over="ignore"):
        round_trips = np.array([float(word) for word in short]).astype(numbers.dtype) == numbers
    digits = 9 if numbers.dtype.itemsize == 4 else 17
    return [
        _marked(word if same else f"{double:.{digits}g}", double)
        for word, same, double in zip(short, round_trips.tolist(), doubles, strict=True)
    ]


def _marked(word: str, double: float) -> str:
    """Add a decimal point to an integral number, and write NaN and infinities as JSON extensions."""
    if math.isnan(double):
        return "NaN"
    if math.isinf(double):
        return "Infinity" if double > 0 else "-Infinity"
    return word if "." in word or "e" in word else word + ".0"


def error_body(message: str) -> bytes:
    """Return the body of a refused REST request (`MakeJsonFromStatus`)."""
    return encode({"error": text(message)})


def encode(piece: Piece, *, single_line_arrays: bool = False) -> bytes:
    """Return the bytes of a document."""
    return render(piece, single_line_arrays=single_line_arrays).encode("utf-8", "surrogateescape")


def echo(value: JsonValue) -> str:
    """Format a parsed value as error messages repeat it (`JsonValueToDebugString`).

    What is longer than the limit ends with the event that passes it: a bracket, a member's name, or a value, even a long one.
    """
    events: list[str] = []
    length = 0
    for event in _events(value, single_line_arrays=True, depth=0):
        if length >= _MAX_ECHO_BYTES:
            break
        events.append(event)
        length += len(event.encode("utf-8", "surrogateescape"))
    return "".join(events)


def render(piece: Piece, *, single_line_arrays: bool, depth: int = 0) -> str:
    """Return the text of a value that is nested `depth` containers deep."""
    return "".join(_events(piece, single_line_arrays=single_line_arrays, depth=depth, finished_text=True))


def _events(
    value: JsonValue | Piece, *, single_line_arrays: bool, depth: int, finished_text: bool = False
) -> Iterator[str]:
    """Yield what RapidJSON's writer writes at each event: the start or end of a container, a member's name, a value.

    On an explicit stack: a request may nest deeper than the interpreter may recurse.
    """
    stack: list[tuple[Iterator[tuple[str | None, JsonValue | Piece]], bool]] = []
    pending: JsonValue | Piece = value
    before = ""
    while True:
        first = False
        if isinstance(pending, list | tuple | dict):
            is_array = isinstance(pending, list)
            yield before + ("[" if is_array else "{")
            if pending:
                stack.append((iter(list(_members(pending))), is_array))
                first = True
            else:
                yield "]" if is_array else "}"
        elif isinstance(pending, float) and not math.isfinite(pending):
            yield before
            return  # RapidJSON's writer stops at a number that JSON cannot hold, and keeps what it has written
        else:
            yield before + (pending if finished_text and isinstance(pending, str) else _scalar(pending))
        while stack:
            members, in_array = stack[-1]
            following = next(members, None)
            on_new_line = not (in_array and single_line_arrays)
            if following is None:
                stack.pop()
                closing = "]" if in_array else "}"
                yield ("\n" + "    " * (depth + len(stack)) if on_new_line else "") + closing
                first = False
                continue
            before = "" if first else "," if on_new_line else ", "
            if on_new_line:
                before += "\n" + "    " * (depth + len(stack))
            name, pending = following
            if name is not None:
                yield before + text(name)
                before = ": "
            break
        else:
            return


def _members(
    container: list[JsonValue] | list[Piece] | tuple[tuple[str, JsonValue], ...] | dict[str, Piece],
) -> Iterable[tuple[str | None, JsonValue | Piece]]:
    if isinstance(container, dict):
        return container.items()
    if isinstance(container, tuple):
        return container
    return ((None, item) for item in container)


def _scalar(value: JsonValue | Piece) -> str:
    if isinstance(value, float):
        return _shortest(value)
    if isinstance(value, str):
        return text(value)
    return json.dumps(value)


def _shortest(double: float) -> str:
    """Return the shortest digits that round-trip, in the layout of RapidJSON's `Prettify` (internal/dtoa.h)."""
    negative, digit_tuple, exponent = Decimal(repr(double)).normalize().as_tuple()
    digits = "".join(map(str, digit_tuple))
    point = len(digits) + int(exponent)  # 10^(point-1) <= |double| < 10^point
    sign = "-" if negative else ""
    if double == 0:
        return sign + "0.0"
    if len(digits) <= point <= 21:
        return f"{sign}{digits.ljust(point, '0')}.0"
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    mantissa = digits if len(digits) == 1 else f"{digits[0]}.{digits[1:]}"
    return f"{sign}{mantissa}e{point - 1}"
