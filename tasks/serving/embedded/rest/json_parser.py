"""JSON text to values, accepting, refusing and placing errors as RapidJSON 1.1 with `kParseNanAndInfFlag` does.

The real server parses with RapidJSON (`ParseJson` in tensorflow_serving/util/json_tensor.cc) and puts its error text and
byte offset in the answer. Well-formed text goes through the standard library's parser, which is compiled; whatever that
refuses, or would read differently, goes through `json_reader`, which is exact.
"""

from __future__ import annotations

import json
import math
import re

from tasks.serving.embedded.rest.json_reader import Reader
from tasks.serving.embedded.rest.json_values import JsonValue

# Surrogate escapes are checked by RapidJSON and not by the standard library.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
# Only integers this long can leave uint64, and then RapidJSON reads a double.
_LONG_INTEGER = re.compile(rb"[0-9]{19}")


def parse(text: bytes) -> JsonValue:
    """Read one JSON document.

    Raises:
        JsonParseError: as RapidJSON reports it.
    """
    if not _SURROGATE.search(text) and not _LONG_INTEGER.search(text):
        try:
            value: JsonValue = json.loads(text.decode(), object_pairs_hook=tuple, parse_float=_finite)
            return value
        except (ValueError, RecursionError):
            pass  # not swallowed: the exact reader below accepts it or says what is wrong
    return Reader(text).document()


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(text)
    return number
