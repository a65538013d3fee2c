"""The fields of a text stand where they are said to stand, in every syntax of the text format."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tasks.releases import text_fields
from tasks.releases.text_fields import Message

NESTED = 'a: "}" b < c: -1.5e+3, d: { } > e: [ { f: X }, < g: 1 > ]'


def told(text: str, message: Message) -> Iterator[object]:
    """Each field as it is written, what separates it, and the fields in it."""
    for field in message.fields:
        inner = [list(told(text, one)) for one in field.messages]
        separator = text[field.end : field.separated].strip()
        yield (field.name, text[field.start : field.end], separator, *inner)


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("", []),
        ("# a: 1\n", []),
        ("a: 1 b: 2", [("a", "a: 1", ""), ("b", "b: 2", "")]),
        ("a:1,b:2 # ;\n;", [("a", "a:1", ","), ("b", "b:2", "# ;\n;")]),
        ('a: \'b: "{#\' "c\\"" # \'\n "]" d: x', [("a", 'a: \'b: "{#\' "c\\"" # \'\n "]"', ""), ("d", "d: x", "")]),
        ("a: [1, x, 'y'] ; b: []", [("a", "a: [1, x, 'y']", ";"), ("b", "b: []", "")]),
        ("a: ٢b: ٢", [("a", "a: ٢", ""), ("b", "b: ٢", "")]),
        ("a # {\r\n: # }\r\n{ # a\r\n}", [("a", "a # {\r\n: # }\r\n{ # a\r\n}", "", [])]),
        (
            NESTED,
            [
                ("a", 'a: "}"', ""),
                ("b", "b < c: -1.5e+3, d: { } >", "", [("c", "c: -1.5e+3", ","), ("d", "d: { }", "", [])]),
                ("e", "e: [ { f: X }, < g: 1 > ]", "", [("f", "f: X", "")], [("g", "g: 1", "")]),
            ],
        ),
    ],
)
def test_fields_are_found_with_their_separators_and_messages(text: str, fields: list[object]) -> None:
    assert list(told(text, text_fields.read(text))) == fields


def test_a_message_ends_at_its_bracket() -> None:
    messages = text_fields.read(NESTED).all("e")
    assert [NESTED[: one.end][-7:] for one in messages] == ["{ f: X ", "< g: 1 "]
    assert text_fields.read(NESTED).end == len(NESTED)
