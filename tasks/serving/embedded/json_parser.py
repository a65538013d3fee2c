"""JSON text to values, accepting, refusing and placing errors as RapidJSON 1.1 with `kParseNanAndInfFlag` does.

The real server parses with RapidJSON (`ParseJson` in tensorflow_serving/util/json_tensor.cc) and puts its error text and
byte offset in the answer. Well-formed text goes through the standard library's parser, which is compiled; whatever that
refuses, or would read differently, goes through `_Reader`, which is exact.

Values: `None`, `bool`, `int` (within int64 or uint64), `float`, `str`, `list` for arrays and `tuple` of (name, value)
pairs for objects, whose order and repeated names matter. A `str` holds bytes that are not UTF-8 as surrogate escapes.
"""

from __future__ import annotations

import json
import math
import re
from typing import TypeAlias

JsonValue: TypeAlias = "None | bool | int | float | str | list[JsonValue] | JsonObject"
JsonObject: TypeAlias = "tuple[tuple[str, JsonValue], ...]"

INT64_MIN, UINT64_END = -(2**63), 2**64

# Surrogate escapes are checked by RapidJSON and not by the standard library.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
# Only integers this long can leave uint64, and then RapidJSON reads a double.
_LONG_INTEGER = re.compile(rb"[0-9]{19}")
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)")
_ESCAPES = {b'"': '"', b"\\": "\\", b"/": "/", b"b": "\b", b"f": "\f", b"n": "\n", b"r": "\r", b"t": "\t"}
_PLAIN = re.compile(rb'[^"\\\x00-\x1f]+')
_BLANK = re.compile(rb"[ \n\r\t]*")
_HEX = re.compile(rb"[0-9a-fA-F]{4}")
_DIGITS = re.compile(rb"[0-9]+")


class JsonParseError(ValueError):
    """Text that is not JSON: RapidJSON's words and the byte offset it reports."""

    def __init__(self, words: str, offset: int) -> None:
        super().__init__(words, offset)
        self.words = words
        self.offset = offset


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
    return _Reader(text).document()


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(text)
    return number


class _Reader:
    """A recursive-descent grammar on an explicit stack: nesting is limited by memory, not by the interpreter."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.at = 3 if text.startswith(b"\xef\xbb\xbf") else 0

    def document(self) -> JsonValue:
        self.skip_blank()
        if self.peek() in (b"", b"\0"):
            raise JsonParseError("The document is empty.", self.at)
        value = self.value()
        self.skip_blank()
        # RapidJSON's stream ends at a zero byte.
        if self.peek() not in (b"", b"\0"):
            raise JsonParseError("The document root must not be followed by other values.", self.at)
        return value

    def value(self) -> JsonValue:
        arrays_and_objects: list[list[JsonValue] | list[tuple[str, JsonValue]]] = []
        names: list[str | None] = []  # the pending member name of each open object, None for an open array
        while True:
            self.skip_blank()
            opening = self.peek()
            if opening == b"[":
                self.at += 1
                self.skip_blank()
                if self.peek() != b"]":
                    arrays_and_objects.append([])
                    names.append(None)
                    continue
                self.at += 1
                finished: JsonValue = []
            elif opening == b"{":
                self.at += 1
                self.skip_blank()
                if self.peek() != b"}":
                    arrays_and_objects.append([])
                    names.append(self.member_name())
                    continue
                self.at += 1
                finished = ()
            else:
                finished = self.scalar(opening)
            while True:  # put the finished value where it belongs, and close what it closes
                if not names:
                    return finished
                container, name = arrays_and_objects[-1], names[-1]
                self.skip_blank()
                mark = self.peek()
                if name is None:
                    container.append(finished)  # type: ignore[arg-type]  # arrays hold values, objects pairs
                    if mark == b",":
                        self.at += 1
                        break
                    if mark != b"]":
                        raise JsonParseError("Missing a comma or ']' after an array element.", self.at)
                    finished = container  # type: ignore[assignment]
                else:
                    container.append((name, finished))  # type: ignore[arg-type]
                    if mark == b",":
                        self.at += 1
                        self.skip_blank()
                        names[-1] = self.member_name()
                        break
                    if mark != b"}":
                        raise JsonParseError("Missing a comma or '}' after an object member.", self.at)
                    finished = tuple(container)  # type: ignore[arg-type]
                self.at += 1
                arrays_and_objects.pop()
                names.pop()

    def member_name(self) -> str:
        if self.peek() != b'"':
            raise JsonParseError("Missing a name for object member.", self.at)
        name = self.string()
        self.skip_blank()
        if self.peek() != b":":
            raise JsonParseError("Missing a colon after a name of object member.", self.at)
        self.at += 1
        return name

    def scalar(self, opening: bytes) -> JsonValue:
        if opening == b'"':
            return self.string()
        if opening == b"n":
            self.word(b"null")
            return None
        if opening == b"t":
            self.word(b"true")
            return True
        if opening == b"f":
            self.word(b"false")
            return False
        return self.number()

    def word(self, expected: bytes) -> None:
        for index in range(len(expected)):
            if self.peek() != expected[index : index + 1]:
                raise JsonParseError("Invalid value.", self.at)
            self.at += 1

    def number(self) -> int | float:
        start = self.at
        sign = -1 if self.peek() == b"-" else 1
        after_sign = start + (sign < 0)
        integer = _NUMBER.match(self.text, start)
        if integer is None:
            self.at = after_sign
            return sign * self.not_finite()
        self.at = integer.end()
        fraction_digits = 0
        is_double = False
        if self.peek() == b".":
            is_double = True
            fraction_digits = self.digits("Miss fraction part in number.")
        if self.peek() in (b"e", b"E"):
            is_double = True
            exponent_at = self.at + 1
            if self.text[exponent_at : exponent_at + 1] in (b"+", b"-"):
                self.at += 1
            length = self.digits("Miss exponent in number.")
            exponent = self.text[self.at - length : self.at].lstrip(b"0") or b"0"
            too_long = len(exponent) > 9 or int(exponent) > 308 + fraction_digits
            if too_long and self.text[exponent_at : exponent_at + 1] != b"-":
                raise JsonParseError("Number too big to be stored in double.", start)
        digits = self.text[start : self.at]
        if not is_double and len(digits) <= 20:
            whole = int(digits)
            if INT64_MIN <= whole < UINT64_END:
                return whole
        double = float(digits)
        if math.isinf(double):
            raise JsonParseError("Number too big to be stored in double.", start)
        return double

    def digits(self, missing: str) -> int:
        self.at += 1
        found = _DIGITS.match(self.text, self.at)
        if found is None:
            raise JsonParseError(missing, self.at)
        self.at = found.end()
        return len(found.group())

    def not_finite(self) -> float:
        if self.peek() == b"N":
            self.word(b"NaN")
            return math.nan
        if self.peek() == b"I":
            self.word(b"Inf")
            if self.peek() == b"i":
                self.word(b"inity")
            return math.inf
        raise JsonParseError("Invalid value.", self.at)

    def string(self) -> str:
        self.at += 1
        pieces: list[bytes] = []
        while True:
            plain = _PLAIN.match(self.text, self.at)
            if plain is not None:
                pieces.append(plain.group())
                self.at = plain.end()
            mark = self.peek()
            if mark == b'"':
                self.at += 1
                return b"".join(pieces).decode("utf-8", "surrogateescape")
            if mark in (b"", b"\0"):
                raise JsonParseError("Missing a closing quotation mark in string.", self.at)
            if mark != b"\\":
                raise JsonParseError("Invalid escape character in string.", self.at)
            pieces.append(self.escape())

    def escape(self) -> bytes:
        start = self.at
        letter = self.text[start + 1 : start + 2]
        self.at += 2
        if letter in _ESCAPES:
            return _ESCAPES[letter].encode()
        if letter != b"u":
            raise JsonParseError("Invalid escape character in string.", start)
        unit = self.hex4(start)
        if 0xD800 <= unit <= 0xDBFF:
            if self.text[self.at : self.at + 2] != b"\\u":
                raise JsonParseError("The surrogate pair in string is invalid.", start)
            self.at += 2
            low = self.hex4(start)
            if not 0xDC00 <= low <= 0xDFFF:
                raise JsonParseError("The surrogate pair in string is invalid.", start)
            unit = 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00)
        return chr(unit).encode("utf-8", "surrogatepass")

    def hex4(self, escape_start: int) -> int:
        found = _HEX.match(self.text, self.at)
        if found is None:
            raise JsonParseError("Incorrect hex digit after \\u escape in string.", escape_start)
        self.at = found.end()
        return int(found.group(), 16)

    def peek(self) -> bytes:
        return self.text[self.at : self.at + 1]

    def skip_blank(self) -> None:
        blank = _BLANK.match(self.text, self.at)
        if blank is not None:
            self.at = blank.end()
