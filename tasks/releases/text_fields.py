"""Where the fields of a message in protobuf's text format stand, and edits of single ones that leave the rest as it is.

Source: https://protobuf.dev/reference/protobuf/textformat-spec. protobuf's own tokenizer (google.protobuf.text_format) skips
comments without a trace and knows lines and columns of single tokens only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

Edit = tuple[int, int, str]
"""The span to replace, and what to put there."""

# Names and numbers are ASCII: to protobuf, any other character is a token of its own.
_TOKEN = re.compile(r"""(?:\s|#.*)+|(?P<word>[A-Za-z0-9_.+-]+)|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|.""")
_NOTHING_MORE = re.compile(r"[ \t\r]*\n")


@dataclass
class Message:
    """A message in a text: where its closing bracket stands, and its fields."""

    end: int
    fields: list[Field] = field(default_factory=list)

    def all(self, name: str) -> list[Message]:
        """Return the messages that are values of field `name`."""
        return [message for one in self.fields if one.name == name for message in one.messages]


@dataclass
class Field:
    """A field in a text: its span, the end of a `,` or `;` behind it, and the messages in it.

    `listing` is True while its `[` is open.
    """

    name: str
    start: int
    end: int
    separated: int
    messages: list[Message] = field(default_factory=list)
    listing: bool = False


def read(text: str) -> Message:
    """Return the fields of a text that protobuf has parsed: nothing is doubted here."""
    top = Message(len(text))
    stack, before = [top], ""
    for match in _TOKEN.finditer(text):
        (start, end), mark = match.span(), match[0][0]
        if mark.isspace() or mark == "#":
            continue
        if mark in "}>":
            stack.pop().end = start
        siblings = stack[-1].fields
        if match["word"] and before != ":" and not (siblings and siblings[-1].listing):
            siblings.append(Field(match[0], start, end, end))
        last = siblings[-1]
        if mark in "[]":
            last.listing = mark == "["
        last.separated = end
        if mark not in ",;":
            last.end = end
        if mark in "{<":
            last.messages.append(Message(end))
            stack.append(last.messages[-1])
        before = mark
    return top


def edited(text: str, edits: Iterable[Edit]) -> str:
    """Return the text with all the edits made; their spans are of this text, and apart from each other."""
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def appended(text: str, message: Message, lines: Iterable[str]) -> Edit:
    """Return the edit that puts lines at the end of a message: indented as its fields, or on its last line."""
    closing = _indent(text, message.end)
    if closing is None:  # what stands before the bracket on its line is no comment
        at = len(text[: message.end].rstrip())
        return at, at, "".join(" " + line.strip() for line in lines)
    indents = [indent for one in message.fields if (indent := _indent(text, one.start)) is not None]
    indent, at = indents[-1] if indents else closing + step(text), message.end - len(closing)
    return at, at, "".join(indent + line + line_end(text) for line in lines)


def replaced(text: str, old: Field, lines: list[str]) -> list[Edit]:
    """Return the edits that put lines in place of a field; without any, its own line goes where it stands there alone."""
    indent, rest = _indent(text, old.start), _NOTHING_MORE.match(text, old.separated)
    if lines:
        return [(old.start, old.end, (" " if indent is None else line_end(text) + indent).join(lines))]
    if indent is not None and rest is not None and "\n" not in text[old.end : old.separated]:
        return [(old.start - len(indent), rest.end(), "")]
    separator = [(old.separated - 1, old.separated, "")] if old.separated > old.end else []
    return [(old.start, old.end, ""), *separator]  # not what is between them: it may be a comment


def step(text: str) -> str:
    """Return by how much the text indents."""
    indented = re.search(r"^[ \t]+(?=\S)", text, re.MULTILINE)
    return indented[0] if indented else "  "


def line_end(text: str) -> str:
    """Return how lines of the text end."""
    return "\r\n" if "\r\n" in text else "\n"


def _indent(text: str, at: int) -> str | None:
    """Return what stands before a position on its line, None if that is more than blanks."""
    before = text[text.rfind("\n", 0, at) + 1 : at]
    return None if before.strip() else before
