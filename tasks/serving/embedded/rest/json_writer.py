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

_MAX_ECHO = 2**20
"""The real server repeats the complete value; with its indentation, a deep object of 75 kB becomes a gigabyte."""

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
    """Format a parsed value as error messages repeat it (`JsonValueToString`)."""
    if isinstance(value, float):
        narrow = abs(value) <= float(np.finfo(np.float32).max) or not math.isfinite(value)
        return decimals(np.array([value], np.float32 if narrow else np.float64))[0]
    pieces: list[str] = []
    length = 0
    for piece in _written(value, single_line_arrays=True, depth=0):
        pieces.append(piece)
        length += len(piece)
        if length > _MAX_ECHO:
            return "".join(pieces)[:_MAX_ECHO] + "...TRUNCATED"
    return "".join(pieces)


def render(piece: Piece, *, single_line_arrays: bool, depth: int = 0) -> str:
    """Return the text of a value that is nested `depth` containers deep."""
    return "".join(_written(piece, single_line_arrays=single_line_arrays, depth=depth, finished_text=True))


def _written(
    value: JsonValue | Piece, *, single_line_arrays: bool, depth: int, finished_text: bool = False
) -> Iterator[str]:
    """Yield pieces of text, on an explicit stack: a request may nest deeper than the interpreter may recurse."""
    stack: list[tuple[Iterator[tuple[str | None, JsonValue | Piece]], bool]] = []
    pending: JsonValue | Piece = value
    while True:
        if isinstance(pending, list | tuple | dict):
            is_array = isinstance(pending, list)
            if pending:
                stack.append((iter(list(_members(pending))), is_array))
                yield "[" if is_array else "{"
                first = True
            else:
                yield "[]" if is_array else "{}"
                first = False
        elif isinstance(pending, float) and not math.isfinite(pending):
            return  # RapidJSON's writer stops at a number that JSON cannot hold, and keeps what it has written
        else:
            yield pending if finished_text and isinstance(pending, str) else _scalar(pending)
            first = False
        while stack:
            members, in_array = stack[-1]
            following = next(members, None)
            on_new_line = not (in_array and single_line_arrays)
            if following is None:
                stack.pop()
                if on_new_line:
                    yield "\n" + "    " * (depth + len(stack))
                yield "]" if in_array else "}"
                first = False
                continue
            if not first:
                yield "," if on_new_line else ", "
            if on_new_line:
                yield "\n" + "    " * (depth + len(stack))
            name, pending = following
            if name is not None:
                yield text(name) + ": "
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
