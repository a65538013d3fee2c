"""An edit of one model's versions and labels says exactly that, and leaves whatever else people wrote as it is."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow_serving.config import model_server_config_pb2

from tasks.errors import UsageError
from tasks.releases import text_fields
from tasks.releases.server_config import Entry, changed, entry

POLICY, LABELS, SEPARATOR = "model_version_policy", "version_labels", "separator"
CHOICES = 300
NAMES = ["mine", 'an "other\'s"', "drei # ü\n"]


def parsed(text: str) -> Any:
    return text_format.Parse(text, model_server_config_pb2.ModelServerConfig())


def lines(versions: Sequence[int], labels: dict[str, int]) -> dict[str, str]:
    """How each field is written where it is new."""
    model = model_server_config_pb2.ModelConfig
    policy = model(model_version_policy={"specific": {"versions": versions}})
    each = [model(version_labels={label: labels[label]}) for label in sorted(labels)]
    printed = [text_format.MessageToString(one, as_one_line=True).strip() for one in (policy, *each)]
    return {POLICY: printed[0], LABELS: " ".join(printed[1:])}


# Each says in what the entry of `m` is to change to versions 3 and 4, and label `stable` at 3.
NEW_POLICY = "model_version_policy { specific { versions: 3 versions: 4 } }"
NEW_LABELS = 'version_labels { key: "stable" value: 3 }'
NEW_ENTRY = f"""  config {{
    name: "m"
    base_path: "/models/m"
    model_platform: "tensorflow"
    {NEW_POLICY}
    {NEW_LABELS}
  }}
"""
EXAMPLES = {
    "an empty file": ("", f"model_config_list {{\n{NEW_ENTRY}}}\n"),
    "comments alone": ("# none yet", f"# none yet\nmodel_config_list {{\n{NEW_ENTRY}}}\n"),
    "an empty list": ("model_config_list {\n}\n", f"model_config_list {{\n{NEW_ENTRY}}}\n"),
    "an empty list in brackets": (
        "model_config_list: < config: [] >",
        'model_config_list: < config: [] config { name: "m" base_path: "/models/m" model_platform: "tensorflow" '
        f"{NEW_POLICY} {NEW_LABELS} }} >",
    ),
    "another entry": (
        'model_config_list {\n  config { name: "a" } # m {\n  # end\n}\n# after\n',
        f'model_config_list {{\n  config {{ name: "a" }} # m {{\n  # end\n{NEW_ENTRY}}}\n# after\n',
    ),
    "an entry on a line": (
        'model_config_list { config { name: "m" base_path: "/b" } config { name: "z" } }',
        f'model_config_list {{ config {{ name: "m" base_path: "/b" {NEW_POLICY} {NEW_LABELS} }} config {{ name: "z" }} }}',
    ),
    "without blanks": (
        'model_config_list{config{name:"m"version_labels{}model_type:1}}',
        f'model_config_list{{config{{name:"m"{NEW_LABELS}model_type:1 {NEW_POLICY}}}}}',
    ),
    "tabs, pointed brackets, a list of entries": (
        "model_config_list: <\n\tconfig: [\n\t\t<name: 'a'>,\n\t\t<\n\t\t\tname: 'm'; # m\n\t\t\t# end\n\t\t>\n\t]\n>\n",
        "model_config_list: <\n\tconfig: [\n\t\t<name: 'a'>,\n\t\t<\n\t\t\tname: 'm'; # m\n\t\t\t# end\n"
        f"\t\t\t{NEW_POLICY}\n\t\t\t{NEW_LABELS}\n\t\t>\n\t]\n>\n",
    ),
    "policy over lines, labels in a list": (
        'model_config_list {\n  config {\n    name: "m"\n    model_version_policy: {\n      all {} # all\n    }, # why\n\n'
        '    version_labels: [ { key: "x" value: 1 }, { key: "y" value: 2 } ]; # say\n    base_path: "/b"\n  }\n}\n',
        f'model_config_list {{\n  config {{\n    name: "m"\n    {NEW_POLICY}, # why\n\n'
        f'    {NEW_LABELS}; # say\n    base_path: "/b"\n  }}\n}}\n',
    ),
    "labels here and there": (
        'model_config_list {\n  config {\n    version_labels { key: "x" value: 1 },\n    name: "m"\n'
        '    # of y\n    version_labels {\n      key: "y"\n    };\n\n    version_labels { key: "z" } # of z\n  }\n}\n',
        f'model_config_list {{\n  config {{\n    {NEW_LABELS},\n    name: "m"\n'
        f"    # of y\n\n     # of z\n    {NEW_POLICY}\n  }}\n}}\n",
    ),
    "line ends of Windows": (
        'model_config_list {\r\n  config {\r\n    name: "m" # m\r\n  }\r\n}\r\n',
        f'model_config_list {{\r\n  config {{\r\n    name: "m" # m\r\n    {NEW_POLICY}\r\n    {NEW_LABELS}\r\n  }}\r\n}}\r\n',
    ),
    "strings": (
        r"""model_config_list { config { name: "\"}#" } config { name: '\x6d' '' base_path: "}" '#' } }""",
        r"""model_config_list { config { name: "\"}#" } config { name: '\x6d' '' base_path: "}" '#' """
        f"{NEW_POLICY} {NEW_LABELS} }} }}",
    ),
    "what already says so": (
        'model_config_list { config { name: "m" version_labels < value: 0x3; key: "sta" \'ble\' >\n'
        "model_version_policy: { specific { versions: [ 3, # three\n 4 ] } } } }",
    )
    * 2,
    "labels that already say so": (
        "model_config_list { config { name: \"m\" version_labels < value: 0x3 key: 'stable' > } }",
        f"model_config_list {{ config {{ name: \"m\" version_labels < value: 0x3 key: 'stable' > {NEW_POLICY} }} }}",
    ),
    "a digit that is not ASCII": (
        'model_config_list { config { name: "m" model_type: ٢version_labels {} } }',
        f'model_config_list {{ config {{ name: "m" model_type: ٢{NEW_LABELS} {NEW_POLICY} }} }}',
    ),
    "a value on a line of its own": (
        'model_config_list {\n  config {\n    name: "m"\n    model_type:\n      TENSORFLOW\n  }\n}\n',
        'model_config_list {\n  config {\n    name: "m"\n    model_type:\n      TENSORFLOW\n'
        f"    {NEW_POLICY}\n    {NEW_LABELS}\n  }}\n}}\n",
    ),
    "a number that is none": (
        'model_config_list { config { name: "m" logging_config { sampling_config { sampling_rate: nan } } } }',
        'model_config_list { config { name: "m" logging_config { sampling_config { sampling_rate: nan } } '
        f"{NEW_POLICY} {NEW_LABELS} }} }}",
    ),
}


@pytest.mark.parametrize(("before", "after"), EXAMPLES.values(), ids=EXAMPLES.keys())
def test_only_what_changes_is_written_and_in_the_manner_of_the_file(before: str, after: str) -> None:
    assert changed(before, "m", "/models/m", (3, 4), {"stable": 3}) == after
    assert changed(after, "m", "/elsewhere", (3, 4), {"stable": 3}) == after


def entry_of(*fields: str) -> str:
    """A configuration with the one entry, a field on each line."""
    return "\n    ".join(["model_config_list {\n  config {", *fields]) + "\n  }\n}\n"


def test_labels_go_with_their_lines_and_without_the_comments() -> None:
    comment = ["version_labels {} # kept", ";"]
    before = entry_of("version_labels {", '  key: "x"', "};", *comment, 'name: "m" version_labels {}')
    after = entry_of(" # kept", "", 'name: "m" ', "model_version_policy { specific { } }")
    assert changed(before, "m", "", [], {}) == after


def test_each_label_has_a_line_where_the_first_had_one_in_the_order_of_their_names() -> None:
    before = entry_of('name: "m"', 'version_labels { key: "x" value: 1 } # of x', 'base_path: "/b"')
    new = ['version_labels { key: "a" value: 1 }', 'version_labels { key: "stable" value: 3 } # of x']
    assert changed(before, "m", "", [3, 4], {"stable": 3, "a": 1}) == entry_of(
        'name: "m"', *new, 'base_path: "/b"', NEW_POLICY
    )


def test_an_entry_tells_its_specific_versions_and_no_others() -> None:
    for policy, versions, highest in [
        ("", None, 1),
        ("model_version_policy { }", None, 1),
        ("model_version_policy { latest { } }", None, 1),
        ("model_version_policy { latest { num_versions: 2 } }", None, 2),
        ("model_version_policy { all { } }", None, sys.maxsize),
        ("model_version_policy { specific { } }", (), 1),
        ("model_version_policy { specific { versions: [2, 1] } }", (2, 1), 1),
    ]:
        text = f'model_config_list {{ config {{ name: "m" base_path: "/b" {policy} version_labels {{ key: "x" value: 2 }} }} }}'
        assert entry(text, "m") == Entry(base_path="/b", versions=versions, labels={"x": 2}, highest=highest)
        assert entry(text, "M") is None
    assert entry("", "m") is None


REFUSED = {
    "an unknown field": (
        'model_config_list {\n  config { nam: "m" }\n}',
        'line 2, column 12: expected a .* has no field named "nam"',
    ),
    "no end": ("model_config_list {\n  config {", "line 2, column 10"),
    "a string without an end": (
        "model_config_list { config { name: 'm\n } }",
        "line 1, column 36: .*, found String missing ending quote",
    ),
    "two names": ('model_config_list { config { name: "a" name: "m" } }', 'should not have multiple "name" fields'),
    "two lists": ("model_config_list { }\nmodel_config_list { }", 'line 2, .* multiple "model_config_list"'),
    "no such enum": ("model_config_list { config { model_type: 99999999999 } }", "99999999999"),
    "custom": ("custom_model_config { }", "expected a model_config_list, found a custom_model_config"),
    "deep": ("custom_model_config { " + "[a/google.protobuf.Any] { " * 2000, "Max recursion depth"),
    "a model twice": (
        'model_config_list { config { name: "a" } config { name: "a" } }',
        "one entry for model a, found 2",
    ),
}


@pytest.mark.parametrize(("text", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_the_server_would_refuse_is_refused_with_its_place(text: str, words: str) -> None:
    for act in (lambda: entry(text, "m"), lambda: changed(text, "m", "/m", [1], {})):
        with pytest.raises(UsageError, match=f"models.config.*{words}") as caught:
            act()
        assert len(str(caught.value)) < 600


def test_an_edit_that_would_say_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    right = text_fields.edited
    monkeypatch.setattr(text_fields, "edited", lambda text, edits: right(text, edits).replace("/b", "/c"))
    with pytest.raises(UsageError, match="an entry of m that can be edited"):
        changed('model_config_list { config { name: "m" base_path: "/b" } }', "m", "/b", [3], {})


class Hand:
    """Writes as a person might: any syntax, spacing, and comments that no other has."""

    def __init__(self, choose: Callable[[Sequence[Any]], Any]) -> None:
        self.choose = choose
        self.comments = 0

    def gap(self, least: str = "") -> str:
        blank = self.choose([least, least, " ", "\n  ", "\r\n", "\t", "#"])
        if blank != "#":
            return str(blank)
        self.comments += 1
        return f" # {{ <[\"' {self.comments};" + str(self.choose(["\n", "\r\n", "\n\n    "]))

    def string(self, value: str) -> str:
        at = self.choose(range(len(value) + 1))
        parts = [value[:at], value[at:]] if self.choose([False, True]) else [value]
        return self.gap().join(map(self.quoted, parts))

    def quoted(self, value: str) -> str:
        quote = str(self.choose("\"'"))
        escaped = value.replace("\\", "\\\\").replace(quote, "\\" + quote).replace("\n", self.choose(["\\n", "\\012"]))
        return quote + escaped + quote

    def scalar(self, name: str, value: str) -> str:
        return f"{name}{self.gap()}:{self.gap()}{value}"

    def message(self, name: str, fields: Sequence[str]) -> str:
        return f"{name}{self.gap()}{self.choose(['', ':'])}{self.gap()}{self.body(fields)}"

    def body(self, fields: Sequence[str]) -> str:
        opening, closing = self.choose(["{}", "<>"])
        return opening + self.gap() + "".join(map(self.separated, fields)) + closing

    def separated(self, field: str) -> str:
        return field + str(self.choose([" ", self.gap(" "), self.gap() + ","])) + self.gap(" ")

    def repeated(self, name: str, values: Sequence[str], colon: str) -> list[str]:
        """Values of a field: each for itself, or in a list."""
        if self.choose([False, True]):
            return [f"{name}{self.gap()}:[{self.gap()}{(',' + self.gap()).join(values)}{self.gap()}]"]
        return [f"{name}{self.gap()}{colon}{self.gap()}{value}" for value in values]

    def policy(self) -> list[str]:
        kind = self.choose(["", "latest", "all", "specific"])
        versions = [str(one) for one in self.choose([[3], [3, 4], ["0x3", 12]])]
        fields = {"latest": [self.scalar("num_versions", "2")], "specific": self.repeated("versions", versions, ":")}
        return [self.message(POLICY, [self.message(kind, fields.get(kind, []))])] if kind else []

    def labels(self) -> list[str]:
        pairs = self.choose([{}, {"stable": 3}, {"stable": 3, "canary }": 4}, {"a": 1, "b": 2, "c": 3}])
        bodies = [
            self.body([self.scalar("value", str(pairs[key])), self.scalar("key", self.string(key))]) for key in pairs
        ]
        return self.repeated(LABELS, bodies, self.choose(["", ":"])) if bodies else []

    def model(self, name: str) -> list[tuple[str, str]]:
        """The fields of a model in any order: the name of each, and its text."""
        fields = [("name", self.scalar("name", self.string(name)))]
        if self.choose([False, True]):
            fields.append(("base_path", self.scalar("base_path", self.string("/srv/#}"))))
        if self.choose([False, True]):
            rate = self.scalar("sampling_rate", self.choose(["nan", "1.5f", ".5"]))
            fields.append(("logging_config", self.message("logging_config", [self.message("sampling_config", [rate])])))
        for field in [*((POLICY, text) for text in self.policy()), *((LABELS, text) for text in self.labels())]:
            fields.insert(self.choose(range(len(fields) + 1)), field)
        return fields


@st.composite
def written(draw: st.DrawFn) -> tuple[str, list[tuple[str, str]], str]:
    """A configuration as (what stands before, pieces of the entry of `mine`, what stands behind).

    A piece has the name of the field that it is, `SEPARATOR`, or no name where it is blank or a comment.
    """
    choices = iter(draw(st.binary(min_size=CHOICES, max_size=CHOICES)))  # one draw, for hundreds take seconds
    hand = Hand(lambda options: options[next(choices, 0) % len(options)])
    names = draw(st.lists(st.sampled_from(NAMES[1:]), unique=True, max_size=2))
    others = [hand.body([field for _, field in hand.model(name)]) for name in names]
    opening, closing = hand.choose(["{}", "<>"])
    pieces = [("", hand.gap())]
    for name, field in hand.model(NAMES[0]):
        pieces += [(name, field), ("", hand.gap(" ")), (SEPARATOR, hand.choose(["", ";"])), ("", hand.gap(" "))]
    at = hand.choose(range(len(others) + 1))
    listed = hand.choose([False, True])
    start, between = (f"config: [{hand.gap()}", f",{hand.gap()}") if listed else ("config ", f"{hand.gap(' ')}config:")
    bodies = [*others[:at], "\0", *others[at:]]
    head, tail = f"{hand.gap()}model_config_list {{{hand.gap()}", f"{hand.gap()}}}{hand.gap()}"
    text = head + start + between.join(bodies) + ("]" if listed else "") + tail
    before, behind = text.split("\0")
    return before + opening, pieces, closing + behind


VERSIONS = st.one_of(st.sampled_from([[3], [3, 4]]), st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3))
NEW = st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=4), st.integers(-(2**63), 2**63 - 1), max_size=3)
LABELLED = st.one_of(st.sampled_from([{}, {"stable": 3}, {"stable": 3, "canary }": 4}]), NEW)


def bare(text: str) -> str:
    return re.sub(r"[\s,;]", "", text)


@given(written(), VERSIONS, LABELLED)
def test_whatever_was_written_stays_and_the_rest_says_what_is_wanted(
    config: tuple[str, list[tuple[str, str]], str], versions: list[int], labels: dict[str, int]
) -> None:
    before, pieces, behind = config
    text = before + "".join(piece for _, piece in pieces) + behind
    said, wanted = entry(text, "mine"), parsed(text)
    assert said is not None
    edited = changed(text, "mine", "/another", versions, labels)

    model = next(one for one in wanted.model_config_list.config if one.name == "mine")
    model.ClearField(POLICY)
    model.ClearField(LABELS)
    model.model_version_policy.specific.SetInParent()
    model.model_version_policy.specific.versions.extend(versions)
    model.version_labels.update(labels)
    assert parsed(edited) == wanted
    assert entry(edited, "mine") == Entry(base_path=said.base_path, versions=tuple(versions), labels=labels)
    assert changed(edited, "mine", "/another", versions, labels) == edited

    assert edited.startswith(before) and edited.endswith(behind)
    new = lines(versions, labels)
    if said.versions == tuple(versions):
        del new[POLICY]
    if said.labels == labels:
        del new[LABELS]
    if not new:
        assert edited == text
    inner, at = edited[len(before) : len(edited) - len(behind)], 0
    for name, piece in pieces:
        if name not in (*new, SEPARATOR):  # a field that stays, or a comment between fields
            at = inner.index(piece.strip(), at) + len(piece.strip())
    left, expected = bare(inner), bare("".join(piece for name, piece in pieces if name not in new))
    for field in new.values():
        assert bare(field) in left
        left = left.replace(bare(field), "", 1)
    assert left == expected


@given(written(), st.sampled_from(["", "\n", "\r\n", "# end"]), VERSIONS, LABELLED)
def test_a_new_entry_is_all_that_is_added(
    config: tuple[str, list[tuple[str, str]], str], end: str, versions: list[int], labels: dict[str, int]
) -> None:
    before, pieces, behind = config
    for text in (before + "".join(piece for _, piece in pieces) + behind + end, end):
        edited, wanted = changed(text, "new \"'\n", "/b\\", versions, labels), parsed(text)
        wanted.model_config_list.config.add(
            name="new \"'\n",
            base_path="/b\\",
            model_platform="tensorflow",
            model_version_policy={"specific": {"versions": versions}},
            version_labels=labels,
        )
        assert parsed(edited) == wanted
        common = next((at for at, one in enumerate(text) if not edited.startswith(one, at)), len(text))
        assert edited.endswith(text[common:]), "it is in one place"
        assert changed(edited, "new \"'\n", "/b\\", versions, labels) == edited


WORDS = [
    *("model_config_list", "config", "name", "version_labels", "key", "value", "custom_model_config", "model_type"),
    *("{", "}", "<", ">", "[", "]", ":", ",", ";", "#", "\n", "\r", " ", '"m"', "'", '"', "\\", "1", "-", "9" * 20),
    *("\0", "é", "٣", "\x85", "\ud800", "\ufeff"),
]


@given(st.one_of(st.text(), st.lists(st.sampled_from(WORDS)).map("".join)))
def test_no_text_leads_to_anything_but_an_answer_or_a_usage_error(text: str) -> None:
    try:
        assert entry(text, "m") is None or "m" in text
        edited = changed(text, "m", "/m", [1], {"x": 1})
    except UsageError:
        return
    assert edited.startswith(text[:1]) and entry(edited, "m") is not None


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # protobuf leaves these to Python
@given(written(), st.integers(0, 10_000), st.sampled_from(["", *WORDS]))
@settings(max_examples=200)
def test_a_slip_of_the_hand_is_refused_or_stays(
    config: tuple[str, list[tuple[str, str]], str], where: int, slip: str
) -> None:
    """A character is replaced by something else."""
    text = config[0] + "".join(piece for _, piece in config[1]) + config[2]
    at = where % len(text)
    text = text[:at] + slip + text[at + 1 :]
    try:
        said = entry(text, "mine")
    except UsageError:
        return
    edited = changed(text, "mine", "/m", [7, 8], {"x": 7})
    found = Entry(base_path=said.base_path if said else "/m", versions=(7, 8), labels={"x": 7})
    assert entry(edited, "mine") == found
    assert changed(edited, "mine", "/m", [7, 8], {"x": 7}) == edited
