"""Equal inputs give the same artifact: what a key depends on, which answers are kept, and what a run is shown."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks import step as steps
from tasks.artifacts.store import Artifact, Store
from tasks.errors import (
    ChildFailed,
    DamagedError,
    EnvironmentFailure,
    ExitCode,
    HeldError,
    ParityError,
    PipelineError,
    Refusal,
    UsageError,
)
from tasks.records.parity import Difference, ParityReport, ParityRow, ParityTest, Tolerance
from tasks.records.run import StepState
from tasks.records.serving import Cause
from tasks.step import Facts, Reached, Run, Step, action, running, step, together
from tests.artifacts.disk import tree, whole, writable
from tests.silent import Silent

built: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def _count_anew() -> None:
    built.clear()


def named(name: str, version: int = 1, **options: Any) -> Step[...]:
    """A step of that name that takes anything and writes it down."""

    def builder(source: Artifact | None = None, value: Any = None, *, out: Path) -> None:
        built[name] += 1
        (out / "value").write_text(f"{source and source.digest} {value}")

    builder.__name__ = name
    return step(version=version, **options)(builder)


def key(wanted: Step[...], *args: Any, **kwargs: Any) -> str:
    return wanted.recipe(*args, **kwargs)[0].key


def an_artifact(digest: str, path: str = "/store/train/1") -> Artifact:
    return Artifact(step="train", key="0123", path=Path(path), digest=digest)


freeze = named("freeze")

DIFFERENT = {
    "another step": named("export").recipe(),
    "another version": named("freeze", 2).recipe(),
    "no arguments": freeze.recipe(),
    "another input": freeze.recipe(an_artifact("bb")),
    "an input": freeze.recipe(an_artifact("aa")),
    "a digest as a parameter": freeze.recipe(value="aa"),
    "a nested input": freeze.recipe(value=[an_artifact("aa")]),
    "another nested input": freeze.recipe(value=[an_artifact("bb")]),
    "a number": freeze.recipe(value=1),
    "a float": freeze.recipe(value=1.0),
    "a text": freeze.recipe(value="1"),
    "a truth": freeze.recipe(value=True),
    "a path": freeze.recipe(value=Path("/1")),
    "a record": freeze.recipe(value=Tolerance()),
    "another record": freeze.recipe(value=Tolerance(absolute=1)),
    "a nested record": freeze.recipe(value=[Tolerance()]),
    "another nested record": freeze.recipe(value=[Tolerance(absolute=1)]),
    "facts": named("freeze", facts=lambda **_: Facts({"sources": "aa"})).recipe(),
    "other facts": named("freeze", facts=lambda **_: Facts({"sources": "bb"})).recipe(),
    "this TensorFlow": named("freeze", verifies=True).recipe(),
}


def test_whatever_differs_makes_another_key() -> None:
    keys = {name: recipe.key for name, (recipe, _) in DIFFERENT.items()}
    twins = [(name, other) for name in keys for other in keys if name < other and keys[name] == keys[other]]
    assert not twins


EQUAL = {
    "positional or by name": (freeze.recipe(None, 3), freeze.recipe(value=3)),
    "a default or the same value": (freeze.recipe(None, None), freeze.recipe()),
    "an input that has moved": (freeze.recipe(an_artifact("aa")), freeze.recipe(an_artifact("aa", "/moved"))),
    "a nested input that has moved": (
        freeze.recipe(value={"of": (an_artifact("aa"),)}),
        freeze.recipe(value={"of": (an_artifact("aa", "/moved"),)}),
    ),
    "a list or a tuple": (freeze.recipe(value=[1, 2]), freeze.recipe(value=(1, 2))),
    "another order of names": (freeze.recipe(value={"a": 1, "b": 2}), freeze.recipe(value={"b": 2, "a": 1})),
    "a record or an equal one": (freeze.recipe(value=Tolerance()), freeze.recipe(value=Tolerance(absolute=None))),
    "facts or equal ones": (
        named("freeze", facts=lambda **_: Facts({"files": ("a", Path("b"))})).recipe(),
        named("freeze", facts=lambda **_: Facts({"files": ["a", "b"]})).recipe(),
    ),
}


@pytest.mark.parametrize("pair", EQUAL.values(), ids=EQUAL)
def test_whatever_is_equal_makes_the_same_key(pair: tuple[Any, Any]) -> None:
    assert pair[0][0].key == pair[1][0].key


plain_json = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
).filter(lambda value: value == value)


@given(plain_json, plain_json)
def test_keys_are_equal_exactly_where_parameters_are(one: Any, other: Any) -> None:
    def typed(value: Any) -> Any:
        """1, 1.0 and True are different parameters; so are 0.0 and -0.0."""
        if isinstance(value, dict):
            return {name: typed(inner) for name, inner in value.items()}
        return [typed(inner) for inner in value] if isinstance(value, list) else repr(value)

    try:
        assert (key(freeze, value=one) == key(freeze, value=other)) == (typed(one) == typed(other))
    except UsageError:
        assert any("\ud800" <= letter <= "\udfff" for letter in str([one, other]))


def test_only_a_step_that_verifies_depends_on_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    verifying = named("verify", verifies=True)
    before = key(freeze), key(verifying)
    monkeypatch.setattr(steps, "tensorflow_version", lambda: "99.0")
    assert key(freeze) == before[0] and key(verifying) != before[1]


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", [object()], 1j, Tolerance])
def test_a_parameter_without_a_form_in_json_is_refused(run: Run, value: Any) -> None:
    with pytest.raises(TypeError, match="JSON"):
        freeze(value=value)


def test_a_parameter_that_is_no_text_is_refused(run: Run) -> None:
    with pytest.raises(UsageError, match="UTF-8"):
        freeze(value=os.fsdecode(b"\xff"))


@pytest.mark.parametrize("names", [("out", "last"), ("facts", "out")])
def test_a_builder_whose_parameters_would_be_lost_is_refused(names: tuple[str, str]) -> None:
    scope: dict[str, Any] = {}
    exec(f"def builder({names[0]}, {names[1]}): ...", scope)
    with pytest.raises(TypeError, match="out"):
        step(version=1)(scope["builder"])


def test_twice_is_once(run: Run) -> None:
    one = freeze(an_artifact("aa"), 3)
    again = freeze(an_artifact("aa", "/moved"), value=3)
    assert one == again and built == {"freeze": 1}
    assert one.path == run.store.place("freeze", key(freeze, an_artifact("aa"), 3))
    assert [outcome.state for outcome in run.outcomes] == [StepState.BUILT, StepState.CACHED]
    assert run.outcomes[0].digest == run.outcomes[1].digest == one.digest
    assert [what for what, _ in shown(run)] == ["started", "ended"] * 2
    manifest = one.manifest
    assert manifest.inputs == {"source": "aa"} and manifest.params == {"value": 3, "facts": {}}
    assert manifest.step_version == 1 and set(manifest.versions) == {"python", "tensorflow"}


def test_another_parameter_is_built_beside(run: Run) -> None:
    assert freeze(value=1).path != freeze(value=2).path
    assert built == {"freeze": 2} and len(run.store.artifacts("freeze")) == 2


def shown(run: Run) -> list[tuple[str, Any]]:
    assert isinstance(run.observer, Silent)
    return run.observer.shown


def test_what_cannot_be_digested_is_never_answered_from_the_store(run: Run) -> None:
    undigestible = named("train", facts=lambda **_: Facts({}, digestible=False))
    first = undigestible()
    second = undigestible()
    assert built == {"train": 2} and first == second
    assert {outcome.state for outcome in run.outcomes} == {StepState.BUILT}


def test_facts_are_asked_about_the_arguments(run: Run) -> None:
    asked: list[dict[str, Any]] = []

    def facts(**arguments: Any) -> Facts:
        asked.append(arguments)
        return Facts({"digest": "ab"})

    assert named("train", facts=facts)(value=3).manifest.params == {
        "value": 3,
        "source": None,
        "facts": {"digest": "ab"},
    }
    # Before the build for the key, and after it to see that the key still holds.
    assert asked == [{"source": None, "value": 3}] * 2


@pytest.mark.parametrize("refresh", ["all", "freeze"])
def test_a_refresh_builds_again_and_an_equal_digest_keeps_its_place(run: Run, refresh: str) -> None:
    before = freeze()
    inode = before.path.stat().st_ino
    run.refresh = frozenset({refresh})
    assert freeze() == before and before.path.stat().st_ino == inode
    assert built == {"freeze": 2} and run.outcomes[-1].state == StepState.BUILT
    assert not list((run.store.root / ".aside").iterdir())
    assert not run.store.staging("freeze", before.key).exists()


def test_a_refresh_of_another_step_is_no_refresh_of_this_one(run: Run) -> None:
    freeze()
    run.refresh = frozenset({"export"})
    freeze()
    assert built == {"freeze": 1}


@step(version=1, resumes=True)
def drawing(out: Path) -> None:
    """Gives something else every time; a line more in `log` than it found there."""
    built["drawing"] += 1
    (out / "drawn").write_text(str(built["drawing"]))
    with (out / "log").open("a") as log:
        log.write("line\n")
    if built["drawing"] == 1:
        raise KeyboardInterrupt


def test_a_refresh_that_gives_something_else_sets_the_old_one_aside(run: Run) -> None:
    with pytest.raises(KeyboardInterrupt):
        drawing()
    resumed = drawing()
    assert tree(resumed.path)["log"] == b"line\nline\n"
    run.refresh = frozenset({"drawing"})
    refreshed = drawing()
    assert tree(refreshed.path)["log"] == b"line\n", "a refresh starts anew"
    assert refreshed.path == resumed.path and refreshed.digest != resumed.digest
    (aside,) = (run.store.root / ".aside").iterdir()
    assert whole(aside) and tree(aside)["drawn"] == b"2"


def test_a_damaged_artifact_found_by_a_refresh_is_named(run: Run, warnings: list[str]) -> None:
    artifact = freeze()
    with writable(artifact.path / "value") as path:
        path.write_text("edited")
    run.refresh = frozenset({"all"})
    assert freeze() == artifact and whole(artifact.path)
    assert "value has" in warnings[0]


REPORT = ParityReport(
    rows=(
        ParityRow(
            candidate="frozen graph",
            signature="",
            output="scores",
            test=ParityTest.EXACT,
            max_abs=float("nan"),
            passed=False,
            worst=Difference(index=(1,), expected="nan", got="0.5"),
        ),
    )
)
REFUSALS = [
    ParityError.of(REPORT),
    *(
        refusal("where", "expected", 'found "\ud800"', "remedy", cause=Cause.CRASHED, log="a log")
        for refusal in Refusal.__subclasses__()
    ),
]


def raising(error: BaseException, name: str = "judge") -> Step[...]:
    """A step that raises until its first error is forgiven by clearing `error.args`."""

    def builder(out: Path) -> None:
        built[name] += 1
        (out / "looked-at").write_bytes(b"evidence")
        if error.args:
            raise error

    builder.__name__ = name
    return step(version=1)(builder)


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: type(refusal).__name__)
def test_a_verdict_is_kept(run: Run, tmp_path: Path, refusal: Refusal) -> None:
    judge = raising(refusal)
    raised = []
    for _ in range(2):
        with pytest.raises(type(refusal)) as caught:
            judge()
        raised.append(caught.value)
    shutil.move(run.store.root, tmp_path / "moved")
    with running(Run("moved", Store(tmp_path / "moved"), Silent())), pytest.raises(type(refusal)) as caught:
        judge()
    raised.append(caught.value)
    assert built == {"judge": 1}
    for again in raised:
        assert type(again) is type(refusal) and str(again) == str(refusal)
        assert json.dumps(again.encode(), sort_keys=True) == json.dumps(refusal.encode(), sort_keys=True)
    assert [outcome.state for outcome in run.outcomes] == [StepState.FAILED] * 2
    assert {outcome.message for outcome in run.outcomes} == {str(refusal).splitlines()[0]}
    assert run.outcomes[0].digest


def test_a_verdict_keeps_its_evidence_and_a_refresh_looks_again(run: Run) -> None:
    error = ParityError.of(REPORT)
    judge = raising(error)
    with pytest.raises(ParityError):
        judge()
    (artifact,) = run.store.artifacts("judge")
    assert tree(artifact.path)["looked-at"] == b"evidence" and artifact.refusal()
    error.args = ()
    run.refresh = frozenset({"judge"})
    assert judge().refusal() is None and built == {"judge": 2}


def test_a_damaged_verdict_is_looked_for_again(run: Run) -> None:
    judge = raising(ParityError.of(REPORT))
    for edited in (False, True):
        if edited:
            with writable(run.store.artifacts("judge")[0].path / "refusal.json") as path:
                path.write_text("{}")
        with pytest.raises(ParityError):
            judge()
    assert built == {"judge": 2}


FOUR = ("where", "expected", "found", "remedy")
NO_VERDICT: list[tuple[BaseException, type[BaseException], int]] = [
    (EnvironmentFailure(*FOUR), EnvironmentFailure, 4),
    (ChildFailed(*FOUR), ChildFailed, 1),
    (DamagedError(*FOUR), DamagedError, 3),
    (UsageError(*FOUR), UsageError, 2),
    (PipelineError(*FOUR), PipelineError, 1),
    (OSError(errno.ENOSPC, "No space left on device"), EnvironmentFailure, 4),
    (PermissionError(errno.EACCES, "Permission denied"), EnvironmentFailure, 4),
    (KeyboardInterrupt("now"), KeyboardInterrupt, 0),
    (SystemExit(143), SystemExit, 0),
    (ValueError("a mistake of ours"), ValueError, 0),
]


@pytest.mark.parametrize(("error", "raised", "code"), NO_VERDICT, ids=lambda case: type(case).__name__)
def test_what_is_no_verdict_is_tried_again(
    run: Run, error: BaseException, raised: type[BaseException], code: int
) -> None:
    judge = raising(error)
    for _ in range(2):
        with pytest.raises(raised) as caught:
            judge()
        assert not isinstance(caught.value, PipelineError) or caught.value.exit_code == ExitCode(code)
        assert not run.store.artifacts("judge")
        assert not list((run.store.root / ".staging" / "judge").iterdir())
    error.args = ()
    assert whole(judge().path)
    assert built == {"judge": 3}
    assert [outcome.state for outcome in run.outcomes] == [StepState.FAILED, StepState.FAILED, StepState.BUILT]
    assert [what for what, _ in shown(run)] == ["started", "ended"] * 3


def test_a_step_needs_a_run() -> None:
    with pytest.raises(LookupError):
        freeze()


def test_progress_is_shown_under_the_steps_name(run: Run) -> None:
    @step(version=1)
    def train(out: Path) -> None:
        steps.progress({"step": 1})

    train()
    assert ("progress", ("train", {"step": 1})) in shown(run)


def test_an_action_always_runs_and_says_how_it_ended(run: Run) -> None:
    states = [StepState.BUILT, StepState.UNCHANGED]

    @action
    def promote(name: str) -> tuple[str, StepState]:
        steps.progress({"name": name})
        return name, states.pop(0)

    assert [promote("one"), promote("one")] == ["one", "one"]
    assert [(outcome.name, outcome.state) for outcome in run.outcomes] == [
        ("promote", StepState.BUILT),
        ("promote", StepState.UNCHANGED),
    ]
    assert ("progress", ("promote", {"name": "one"})) in shown(run)


@pytest.mark.parametrize(
    ("error", "state"), [(HeldError(*FOUR), StepState.HELD), (EnvironmentFailure(*FOUR), StepState.FAILED)]
)
def test_an_action_that_fails_is_recorded(run: Run, error: PipelineError, state: StepState) -> None:
    @action
    def promote() -> tuple[None, StepState]:
        raise error

    with pytest.raises(type(error)):
        promote()
    assert [(outcome.state, outcome.message) for outcome in run.outcomes] == [(state, str(error).splitlines()[0])]


def test_together_gives_every_answer_in_order() -> None:
    barrier = threading.Barrier(3, timeout=5.0)

    def meet(number: int) -> int:
        barrier.wait()  # passes only where all three run at once
        time.sleep(0.05 * (3 - number))
        return number

    assert together(*(lambda number=number: meet(number) for number in range(3))) == [0, 1, 2]
    assert together() == []


def test_together_all_end_before_the_first_error_is_raised() -> None:
    ended = []

    def fail(name: str, seconds: float) -> None:
        time.sleep(seconds)
        ended.append(name)
        raise ValueError(name)

    with pytest.raises(ValueError, match="slow"):
        together(lambda: fail("slow", 0.2), lambda: fail("quick", 0.0), lambda: ended.append("third"))
    assert set(ended) == {"slow", "quick", "third"}
    ended.clear()
    with pytest.raises(ValueError, match="quick"):
        together(lambda: fail("quick", 0.0), lambda: fail("slow", 0.2))
    assert ended == ["quick", "slow"]


def test_the_end_of_a_run_hides_no_failure_beside_it() -> None:
    def reached() -> None:
        raise Reached

    def refused() -> None:
        raise ParityError("a", "b", "c", "d")

    for calls in ((reached, refused), (refused, reached)):
        with pytest.raises(ParityError):
            together(*calls)
        with pytest.raises(ParityError):
            together(*calls, at_once=1)
    with pytest.raises(Reached):
        together(reached, reached)


def interrupt() -> None:
    """Send the signal to a thread other than the main one, as the kernel may, and wait for the run to be stopped."""
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)
    deadline = time.monotonic() + 60.0
    while steps.current().stopped is None:
        assert time.monotonic() < deadline, "the main thread did not see the signal"
        time.sleep(0.01)


def test_a_signal_that_another_thread_receives_ends_the_calls(run: Run) -> None:
    with pytest.raises(KeyboardInterrupt):
        together(interrupt)


def test_an_interruption_ends_the_wait_for_another_builder(run: Run) -> None:
    recipe, _ = freeze.recipe(value=1)
    with run.store.lock("freeze", recipe.key), pytest.raises(KeyboardInterrupt):
        together(lambda: freeze(value=1), interrupt)
    (outcome,) = run.outcomes
    assert (outcome.state, outcome.message) == (StepState.FAILED, "interrupted")


def test_together_steps_see_the_run_and_its_context(run: Run) -> None:
    colour: ContextVar[str] = ContextVar("colour")
    colour.set("red")

    def look() -> str:
        seen = colour.get()
        colour.set("blue")
        return seen

    assert together(look, look) == ["red", "red"] and colour.get() == "red"
    one, other = together(lambda: freeze(value=1), lambda: freeze(value=2))
    assert one != other and {outcome.state for outcome in run.outcomes} == {StepState.BUILT}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(value=plain_json)
def test_whatever_a_step_is_given_it_is_found_again(run: Run, value: Any) -> None:
    try:
        key(freeze, value=value)
    except UsageError:
        return
    before = freeze(value=value)
    count = sum(built.values())
    assert freeze(value=value) == before and sum(built.values()) == count


def test_importing_the_steps_imports_neither_prefect_nor_tensorflow() -> None:
    program = "import sys, tasks.step; print(sorted({'prefect', 'tensorflow', 'numpy'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_a_plan_ends_before_anything_that_acts(store: Store) -> None:
    acted: list[str] = []

    @action
    def acts() -> tuple[None, StepState]:
        acted.append("acts")
        return None, StepState.BUILT

    planning = Run("plan", store, Silent(), planner=lambda recipe, digestible: pytest.fail("no step is called"))
    with running(planning), pytest.raises(Reached):
        acts()
    assert acted == []
