"""Parse JSON with the results, error texts and offsets of RapidJSON 1.1 with the flags of the real server.

They are `kParseIterativeFlag`, `kParseNanAndInfFlag` and `kParseStopWhenDoneFlag`: what follows the document is not read.

The real server parses with RapidJSON (`ParseJson` in tensorflow_serving/util/json_tensor.cc) and puts its error text and
byte offset in the answer. Valid text goes through the standard library's parser, which is compiled; whatever that
refuses, or would read differently, goes through `_Reader`: RapidJSON 1.1's grammar (`include/rapidjson/reader.h`).

Not python-rapidjson: it wraps a later RapidJSON, which refuses a lone low surrogate and says "Invalid encoding in
string." of a control character; and it refuses a byte order mark and bytes that are not UTF-8, where 1.1 reads them.
"""

from __future__ import annotations

import json
import math
import re

from tasks.serving.embedded.rest.json_values import JsonParseError, JsonValue

# Surrogate escapes are checked by RapidJSON and not by the standard library.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
# Only integers this long can leave uint64, and then RapidJSON reads a double.
_LONG_INTEGER = re.compile(rb"[0-9]{19}")

_INT64_MIN, _UINT64_END = -(2**63), 2**64
_LONGEST_INTEGER = 20
_MAX_DEPTH = 100_000
"""RapidJSON recurses and is limited by its stack; here each level takes a hundred times the byte that opens it."""
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)")
_ESCAPES = {b'"': '"', b"\\": "\\", b"/": "/", b"b": "\b", b"f": "\f", b"n": "\n", b"r": "\r", b"t": "\t"}
_PLAIN = re.compile(rb'[^"\\\x00-\x1f]+')
_BLANK = re.compile(rb"[ \n\r\t]*")
_HEX = re.compile(rb"[0-9a-fA-F]{4}")
_DIGITS = re.compile(rb"[0-9]+")


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
            pass  # the exact reader accepts the text or raises its own error
    return _Reader(text).document()


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(text)
    return number


class _Reader:
    """RapidJSON's grammar on an explicit stack, so that the interpreter does not limit nesting."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._at = 3 if text.startswith(b"\xef\xbb\xbf") else 0

    def document(self) -> JsonValue:
        """Read the document.

        Raises:
            JsonParseError: the first fault.
        """
        self._skip_blank()
        # RapidJSON's stream ends at a zero byte. What cannot begin a document is, to its iterative parser, none.
        if self._peek() in (b"", b"\0", b",", b":", b"]", b"}"):
            raise JsonParseError("The document is empty.", self._at)
        return self._value()

    def _value(self) -> JsonValue:
        arrays_and_objects: list[list[JsonValue] | list[tuple[str, JsonValue]]] = []
        names: list[str | None] = []  # the pending member name of each open object, None for an open array
        while True:
            self._skip_blank()
            opening = self._peek()
            if len(names) > _MAX_DEPTH:
                raise JsonParseError(f"Nesting is deeper than {_MAX_DEPTH} levels.", self._at)
            if opening == b"[":
                self._at += 1
                self._skip_blank()
                if self._peek() != b"]":
                    arrays_and_objects.append([])
                    names.append(None)
                    continue
                self._at += 1
                finished: JsonValue = []
            elif opening == b"{":
                self._at += 1
                self._skip_blank()
                if self._peek() != b"}":
                    arrays_and_objects.append([])
                    names.append(self._member_name())
                    continue
                self._at += 1
                finished = ()
            else:
                finished = self._scalar(opening)
            while True:  # add the finished value to its container, and close containers that end here
                if not names:
                    return finished
                container, name = arrays_and_objects[-1], names[-1]
                self._skip_blank()
                mark = self._peek()
                if name is None:
                    container.append(finished)  # type: ignore[arg-type]  # arrays hold values, objects pairs
                    if mark == b",":
                        self._at += 1
                        break
                    if mark != b"]":
                        raise JsonParseError("Missing a comma or ']' after an array element.", self._at)
                    finished = container  # type: ignore[assignment]
                else:
                    container.append((name, finished))  # type: ignore[arg-type]
                    if mark == b",":
                        self._at += 1
                        self._skip_blank()
                        names[-1] = self._member_name()
                        break
                    if mark != b"}":
                        raise JsonParseError("Missing a comma or '}' after an object member.", self._at)
                    finished = tuple(container)  # type: ignore[arg-type]
                self._at += 1
                arrays_and_objects.pop()
                names.pop()

    def _member_name(self) -> str:
        if self._peek() != b'"':
            raise JsonParseError("Missing a name for object member.", self._at)
        name = self._string()
        self._skip_blank()
        if self._peek() != b":":
            raise JsonParseError("Missing a colon after a name of object member.", self._at)
        self._at += 1
        return name

    def _scalar(self, opening: bytes) -> JsonValue:
        if opening == b'"':
            return self._string()
        if opening == b"n":
            self._word(b"null")
            return None
        if opening == b"t":
            self._word(b"true")
            return True
        if opening == b"f":
            self._word(b"false")
            return False
        return self._number()

    def _word(self, expected: bytes) -> None:
        for index in range(len(expected)):
            if self._peek() != expected[index : index + 1]:
                raise JsonParseError("Invalid value.", self._at)
            self._at += 1

    def _number(self) -> int | float:
        start = self._at
        sign = -1 if self._peek() == b"-" else 1
        after_sign = start + (sign < 0)
        integer = _NUMBER.match(self._text, start)
        if integer is None:
            self._at = after_sign
            return sign * self._not_finite()
        self._at = integer.end()
        fraction_digits = 0
        is_double = False
        if self._peek() == b".":
            is_double = True
            fraction_digits = self._digits("Miss fraction part in number.")
        if self._peek() in (b"e", b"E"):
            is_double = True
            exponent_at = self._at + 1
            if self._text[exponent_at : exponent_at + 1] in (b"+", b"-"):
                self._at += 1
            length = self._digits("Miss exponent in number.")
            exponent = self._text[self._at - length : self._at].lstrip(b"0") or b"0"
            too_long = len(exponent) > 9 or int(exponent) > 308 + fraction_digits
            if too_long and self._text[exponent_at : exponent_at + 1] != b"-":
                raise JsonParseError("Number too big to be stored in double.", start)
        digits = self._text[start : self._at]
        if not is_double and len(digits) <= _LONGEST_INTEGER:
            integral = int(digits)
            if _INT64_MIN <= integral < _UINT64_END:
                return integral
        double = float(digits)
        if math.isinf(double):
            raise JsonParseError("Number too big to be stored in double.", start)
        return double

    def _digits(self, missing: str) -> int:
        self._at += 1
        found = _DIGITS.match(self._text, self._at)
        if found is None:
            raise JsonParseError(missing, self._at)
        self._at = found.end()
        return len(found.group())

    def _not_finite(self) -> float:
        if self._peek() == b"N":
            self._word(b"NaN")
            return math.nan
        if self._peek() == b"I":
            self._word(b"Inf")
            if self._peek() == b"i":
                self._word(b"inity")
            return math.inf
        raise JsonParseError("Invalid value.", self._at)

    def _string(self) -> str:
        self._at += 1
        pieces: list[bytes] = []
        while True:
            plain = _PLAIN.match(self._text, self._at)
            if plain is not None:
                pieces.append(plain.group())
                self._at = plain.end()
            mark = self._peek()
            if mark == b'"':
                self._at += 1
                return b"".join(pieces).decode("utf-8", "surrogateescape")
            if mark in (b"", b"\0"):
                raise JsonParseError("Missing a closing quotation mark in string.", self._at)
            if mark != b"\\":
                raise JsonParseError("Invalid escape character in string.", self._at)
            pieces.append(self._escape())

    def _escape(self) -> bytes:
        start = self._at
        letter = self._text[start + 1 : start + 2]
        self._at += 2
        if letter in _ESCAPES:
            return _ESCAPES[letter].encode()
        if letter != b"u":
            raise JsonParseError("Invalid escape character in string.", start)
        unit = self._hex4(start)
        if 0xD800 <= unit <= 0xDBFF:
            if self._text[self._at : self._at + 2] != b"\\u":
                raise JsonParseError("The surrogate pair in string is invalid.", start)
            self._at += 2
            low = self._hex4(start)
            if not 0xDC00 <= low <= 0xDFFF:
                raise JsonParseError("The surrogate pair in string is invalid.", start)
            unit = 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00)
        return chr(unit).encode("utf-8", "surrogatepass")

    def _hex4(self, escape_start: int) -> int:
        found = _HEX.match(self._text, self._at)
        if found is None:
            raise JsonParseError("Incorrect hex digit after \\u escape in string.", escape_start)
        self._at = found.end()
        return int(found.group(), 16)

    def _peek(self) -> bytes:
        return self._text[self._at : self._at + 1]

    def _skip_blank(self) -> None:
        blank = _BLANK.match(self._text, self._at)
        if blank is not None:
            self._at = blank.end()
