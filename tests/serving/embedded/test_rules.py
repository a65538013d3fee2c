"""Rules that need no server: flags, version directories, JSON as RapidJSON reads it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.serving.embedded import flags
from tasks.serving.embedded.errors import ServingError
from tasks.serving.embedded.rest.json_parser import parse
from tasks.serving.embedded.rest.json_values import JsonParseError, JsonValue
from tasks.serving.embedded.rest.json_writer import decimals, echo
from tasks.serving.embedded.versions.aspired import (
    AllVersions,
    LatestVersions,
    ServedModel,
    SpecificVersions,
    VersionPolicy,
    aspired_versions,
)


@pytest.mark.parametrize(
    "argv",
    [["--port=1", "--model_name=m"], ["--port", "1", "--model_name", "m"]],
    ids=["joined", "apart"],
)
def test_flags_come_joined_or_apart(argv: list[str]) -> None:
    parsed = flags.parse(argv)
    assert (parsed.port, parsed.model_name) == (1, "m")


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        (["--enable_model_warmup"], True),
        (["--enable_model_warmup=false"], False),
        (["--enable_model_warmup", "0"], False),
        (["--enable_model_warmup", "--port=1"], True),
    ],
)
def test_switches(argv: list[str], value: bool) -> None:
    assert flags.parse(argv).enable_model_warmup is value


def test_unknown_flags_do_not_stop_the_server_and_bad_values_do() -> None:
    assert flags.parse(["--rest_api_num_threads", "4", "stray", "--port=2"]).port == 2
    with pytest.raises(ServingError):
        flags.parse(["--port=many"])


@pytest.mark.parametrize(
    ("policy", "versions"),
    [
        (LatestVersions(), [12]),
        (LatestVersions(2), [12, 7]),
        (AllVersions(), [12, 7, 5, -6]),
        (SpecificVersions(frozenset({5, 12, 99})), [12, 5]),
    ],
)
def test_a_version_is_any_child_whose_whole_name_is_a_number(
    tmp_path: Path, policy: VersionPolicy, versions: list[int]
) -> None:
    for name in ("+5", "-6", "00000012", "1.0", "v3", "staging", ".9", "0x10", "8-tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / "7").touch()
    aspired = aspired_versions(ServedModel("m", tmp_path, policy))
    assert list(aspired) == versions


_JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_infinity=False, allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def _plain(value: JsonValue) -> object:
    if isinstance(value, tuple):
        return {name: _plain(member) for name, member in value}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


@given(_JSON_VALUES, st.booleans())
def test_what_json_means_is_what_is_read(value: object, ascii_only: bool) -> None:
    assert _plain(parse(json.dumps(value, ensure_ascii=ascii_only).encode())) == value


@given(_JSON_VALUES)
def test_an_echoed_value_is_the_value_or_its_beginning(value: object) -> None:
    echoed = echo(parse(json.dumps(value).encode()))
    if len(echoed.encode()) < 256:
        assert json.loads(echoed) == value


@pytest.mark.parametrize(
    ("value", "echoed"),
    [
        ([1.0] * 100, "[" + "1.0, " * 51 + "1.0"),  # 255 bytes before the last
        (["a" * 1000, 2, 3], '["' + "a" * 1000 + '"'),
        ((("x" * 300, 1),), '{\n    "' + "x" * 300 + '"'),
        ((("x", "y" * 300), ("z", 1)), '{\n    "x": "' + "y" * 300 + '"'),
        (["é" * 127], '["' + "é" * 127 + '"'),  # 258 bytes
        ([1, math.nan, 2], "[1, "),
        (math.inf, ""),
        ([[], ()], "[[], {}]"),
    ],
)
def test_an_echo_ends_with_what_passes_256_bytes(value: JsonValue, echoed: str) -> None:
    assert echo(value) == echoed


@given(st.binary())
def test_any_bytes_are_read_or_refused(text: bytes) -> None:
    try:
        parse(text)
    except JsonParseError as error:
        assert 0 <= error.offset <= len(text)


@pytest.mark.parametrize(
    ("text", "words", "offset"),
    [
        (b" ", "The document is empty.", 1),
        (b"]", "The document is empty.", 0),
        (b" ,{}", "The document is empty.", 1),
        (b"x{}", "Invalid value.", 0),
        (b'{"a" 1}', "Missing a colon after a name of object member.", 5),
        (b"[1 2]", "Missing a comma or ']' after an array element.", 3),
        (b"[tru]", "Invalid value.", 4),
        (b"[1.]", "Miss fraction part in number.", 3),
        (b"[1e+]", "Miss exponent in number.", 4),
        (b"[1e999]", "Number too big to be stored in double.", 1),
        (b'["a', "Missing a closing quotation mark in string.", 3),
        (b'["\\q"]', "Invalid escape character in string.", 2),
        (b'["\\u12x4"]', "Incorrect hex digit after \\u escape in string.", 2),
        (b'["\\ud800"]', "The surrogate pair in string is invalid.", 2),
        (b"[" * 100_000, "Invalid value.", 100_000),
        (b"[" * 10**6, "Nesting is deeper than 100000 levels.", 100_001),
    ],
)
def test_errors_have_rapidjsons_words_and_offset(text: bytes, words: str, offset: int) -> None:
    with pytest.raises(JsonParseError) as refused:
        parse(text)
    assert (refused.value.words, refused.value.offset) == (words, offset)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.1, "0.1"), (2.0, "2.0"), (1e10, "1e+10"), (123456.789, "123456.789"), (math.nan, "NaN"), (-0.0, "-0.0")],
)
def test_float32_numbers_are_as_short_as_they_can_be(value: float, text: str) -> None:
    import numpy as np

    assert decimals(np.array([value], np.float32)) == [text]


def test_an_echo_of_something_deep_is_cut() -> None:
    deep: JsonValue = parse(b'{"a":' * 50_000 + b"1" + b"}" * 50_000)
    assert 256 <= len(echo(deep)) < 600


@pytest.mark.parametrize("text", [b"{} x", b'{}{"a": 1}', b"{}]", b"{}\xff", b"{},"])
def test_what_follows_a_document_is_not_read(text: bytes) -> None:
    assert parse(text) == ()
