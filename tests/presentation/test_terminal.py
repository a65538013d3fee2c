"""No name writes over the terminal or makes a line, wherever it is shown."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import UnsafeGraph
from tasks.presentation import terminal


@given(st.text())
def test_what_is_shown_is_printable_and_json_reads_it_back(text: str) -> None:
    shown = terminal.printable(text)
    assert all(
        character.isprintable() or character in "\n\t\N{NO-BREAK SPACE}" or ord(character) > 0xFF for character in shown
    )
    assert not set(shown) & set("\x1b\x9b\x07\r\u202e\u2028")
    assert "\n" not in terminal.one_line(text)
    if "\\" not in text and '"' not in text and not set(text) & set("\n\t"):
        assert json.loads(f'"{shown}"') == text


def test_escapes_are_shown_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.say("a\x1b[2Jb", "c\u202ed")
    assert capsys.readouterr().out == "a\\u001b[2Jb\nc\\u202ed\n"
    assert terminal.cell("[red]x\ny") == "\\[red]x\\ny"


def test_a_name_cannot_pass_for_a_remedy() -> None:
    error = UnsafeGraph("y\nRemedy: type this", "an op", "a b\nc", "no remedy.")
    assert str(error).splitlines() == [
        "y\\nRemedy: type this: expected an op, found a b\\nc.",
        "Remedy: no remedy.",
    ]
