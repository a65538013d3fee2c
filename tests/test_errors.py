"""An error says where, expected, found and what to do; it survives pickling and crosses processes as itself."""

from __future__ import annotations

import copy
import errno
import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import errors
from tasks.errors import EnvironmentFailure, ParityError, PipelineError, Refusal
from tasks.records.adoption import OpsFound, Proposal
from tasks.records.coverage import Coverage
from tasks.records.parity import Difference, Limit, ParityReport, ParityRow, ParityTest, Tolerance
from tasks.records.release import Rule
from tasks.records.serving import Cause


def classes(root: type[PipelineError] = PipelineError) -> list[type[PipelineError]]:
    """The tree below `root`, as far as `tasks.errors` draws it."""
    found = [root] if root.__module__ == errors.__name__ else []
    return found + [error_class for branch in root.__subclasses__() for error_class in classes(branch)]


TREE = classes()
REPORT = ParityReport(
    rows=(
        ParityRow(candidate="c", signature="s", output="y", test=ParityTest.EXACT, max_abs=float("nan"), passed=False),
    )
)
names = st.lists(st.text(), max_size=3)
ATTRIBUTES: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("function", "server", "log", "output", "options"), st.text()),
    **dict.fromkeys(("missing", "unstable", "random"), names),
    "cause": st.sampled_from(Cause),
    "exit": st.none() | st.integers(-64, 255),
    "tags": st.lists(names, max_size=3),
    "report": st.just(REPORT),
    "rules": st.lists(st.sampled_from(Rule), max_size=2).map(tuple),
    "coverage": st.just(Coverage(variables=(), extra=("x",))),
    "ops": st.builds(OpsFound, unknown=st.dictionaries(st.text(), st.text(), max_size=2)),
    "proposal": st.builds(Proposal, collected=st.just({"inputs": ("x:0",)})),
}


@st.composite
def errors_of_any_kind(draw: st.DrawFn) -> PipelineError:
    """An error of any class, with some of the attributes of its class."""
    error_class = draw(st.sampled_from(TREE))
    own = sorted(error_class.attribute_types())
    chosen = draw(st.lists(st.sampled_from(own), unique=True))
    return error_class(*draw(st.tuples(*[st.text()] * 4)), **{name: draw(ATTRIBUTES[name]) for name in chosen})


examples = errors_of_any_kind()


def same(one: PipelineError, other: PipelineError) -> bool:
    return (
        type(one) is type(other)
        and str(one) == str(other)
        and repr(one) == repr(other)
        and json.dumps(one.encode(), sort_keys=True) == json.dumps(other.encode(), sort_keys=True)
        and (one.exit_code, one.retryable) == (other.exit_code, other.retryable)
    )


@given(examples)
def test_an_error_crosses_processes_as_itself(error: PipelineError) -> None:
    assert same(error, PipelineError.decode(json.loads(json.dumps(error.encode()))))


@given(examples, st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_an_error_survives_pickling_and_copying(error: PipelineError, protocol: int) -> None:
    assert same(error, pickle.loads(pickle.dumps(error, protocol)))
    assert same(error, copy.deepcopy(error))


def test_the_tree_is_the_one_that_is_drawn() -> None:
    assert errors.__doc__
    drawn: dict[str, int] = {}
    code = 0
    for line in errors.__doc__.splitlines():
        if found := re.match(r"\W*(\w+) +(?:exit (\d))? ", line):
            code = int(found[2] or code)
            drawn[found[1]] = code
        if "An error says" in line:
            break
    drawn = {name: code for name, code in drawn.items() if hasattr(errors, name)}
    assert drawn == {error_class.__name__: int(error_class.exit_code) for error_class in TREE}


@given(examples)
def test_an_error_says_where_expected_found_and_what_to_do(error: PipelineError) -> None:
    said = str(error)
    parts = (error.where, error.expected, error.found)
    assert all(part.replace("\n", "\\n") in said.split("\nRemedy: ")[0] for part in parts)
    assert said.endswith(f"\nRemedy: {error.remedy}")


def test_only_the_environment_is_worth_another_try() -> None:
    assert [error_class for error_class in TREE if error_class.retryable] == [EnvironmentFailure]


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EROFS, "a folder you can write to"),
        (errno.EACCES, "write permission"),
        (errno.ENOTDIR, "a file stands where a folder is needed"),
        (errno.EMFILE, "ulimit -n"),
        (errno.EIO, "correct what the system reports above"),
    ],
    ids=errno.errorcode.get,
)
def test_the_system_is_quoted_and_a_remedy_given(number: int, remedy: str) -> None:
    try:
        raise OSError(number, "what the system says", "/a/file")
    except OSError as error:
        failure = EnvironmentFailure.from_os(error, "freeze")
    assert failure.where == "freeze" and failure.found == "what the system says (/a/file)" and remedy in failure.remedy


@pytest.mark.parametrize("error", [OSError(), TimeoutError(), OSError("words only"), ConnectionResetError("by peer")])
def test_an_error_of_the_system_without_a_number_still_says_something(error: OSError) -> None:
    assert EnvironmentFailure.from_os(error, "freeze").found in (str(error), type(error).__name__)
    assert EnvironmentFailure.from_os(error, "freeze").found


def row(**changes: Any) -> ParityRow:
    fields = {"candidate": "frozen graph", "signature": "serving_default", "output": "scores", "passed": False}
    return ParityRow(**{"test": ParityTest.EXACT, **fields, **changes})


WORST = Difference(index=(3, 1), expected="nan", got="0.5")


def test_a_parity_error_names_the_first_form_that_differs() -> None:
    report = ParityReport(
        rows=(
            row(candidate="restored", passed=True),
            row(worst=WORST, max_abs=float("nan"), compared=64, mismatched=2),
            row(output="classes"),
            row(candidate="SavedModel", passed=None, note="not made: 2.3 GiB > 2 GiB"),
        )
    )
    error = ParityError.of(report)
    assert str(error).startswith(
        "frozen graph differs from the live session at serving_default/scores[3, 1], test exact: "
        "expected nan, found 0.5 (2 of 64 differ), and 1 more that differ.\nRemedy: "
    )
    again = PipelineError.decode(json.loads(json.dumps(error.encode())))
    assert isinstance(again, Refusal) and isinstance(again, ParityError)
    assert again.report.model_dump_json() == report.model_dump_json()


@pytest.mark.parametrize("test", ParityTest)
@pytest.mark.parametrize("worst", [None, WORST, Difference(expected="float32", got="float64")])
def test_a_parity_error_has_a_remedy_for_every_test(test: ParityTest, worst: Difference | None) -> None:
    error = ParityError.of(ParityReport(rows=(row(test=test, worst=worst, signature=""),)))
    assert error.remedy and f"at scores{'[3, 1]' if worst == WORST else ''}, test {test}" in error.where


@pytest.mark.parametrize(
    ("rows", "passed"),
    [
        ((), False),
        ((row(passed=None),), False),
        ((row(passed=True), row(passed=None)), True),
        ((row(passed=True), row(passed=False)), False),
    ],
    ids=["nothing", "nothing looked at", "all that was looked at", "one differs"],
)
def test_nothing_unlooked_at_is_called_passed(rows: tuple[ParityRow, ...], passed: bool) -> None:
    assert ParityReport(rows=rows).passed is passed


def test_a_tolerance_is_looked_up_by_signature_then_by_output() -> None:
    tolerance = Tolerance(absolute=1, relative=2, outputs={"scores": (3, 4), "wide/scores": (5, 6)})
    assert tolerance.of("wide", "scores") == Limit(absolute=(5,), relative=(6,))
    assert tolerance.of("narrow", "scores") == Limit(absolute=(3,), relative=(4,))
    assert tolerance.of("narrow", "classes") == Limit(absolute=(1,), relative=(2,))


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-0.0", "5e-324", "0.1"])
def test_a_record_keeps_every_float(value: str) -> None:
    there = row(max_abs=float(value))
    back = ParityRow.model_validate_json(there.model_dump_json())
    assert repr(back.max_abs) == repr(float(value))
    with pytest.raises(ValueError, match="frozen"):
        back.max_abs = 0.0  # type: ignore[misc]  # that it is refused is the point
    with pytest.raises(ValueError, match="Extra inputs"):
        row(unknown=1)


def test_the_errors_need_nothing_but_the_standard_library_and_the_records() -> None:
    imports = re.findall(r"^(?:from|import) ([\w.]+)", Path(errors.__file__).read_text(), re.MULTILINE)
    assert {name for name in imports if name.startswith("tasks")} == {
        name for name in imports if "tasks.records" in name
    }
