"""A call returns the child's value or raises its error; a child that fails fails alone, and is named."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tasks import isolate
from tasks.errors import ChildFailed, CoverageError, EnvironmentFailure, ExitCode
from tasks.isolate import Limits, Settings
from tasks.isolate.client import call_with
from tests.isolate import calls
from tests.isolate.calls import Colour, Reading, running
from tests.isolate.mount_namespace import can_hide

NAN = float("nan")
READING = Reading(
    name="\N{SNOWMAN}",
    value=NAN,
    grid=((0.1, float("inf")), (-0.0, 5e-324)),
    facts={"any": [NAN, None, {"deep": -float("inf")}], "big": 2**70},
    path=Path("/a/path"),
    colour=Colour.RED,
    inner=Reading(name="", value=1, grid=(), facts={"nan": NAN}, path=Path("b"), colour=Colour.RED),
)


def same(one: Any, other: Any) -> bool:
    """Equal, of the same type, and NaN where NaN is."""
    return type(one) is type(other) and repr(one) == repr(other)


@pytest.mark.parametrize(
    ("function", "value", "expected"),
    [
        (calls.a_reading, READING, READING),
        (calls.readings, READING, [READING, READING]),
        (calls.perhaps, READING, READING),
        (calls.perhaps, None, None),
        (calls.by_number, NAN, {1: NAN}),
        (calls.pair, -0.0, (-0.0, "\N{SNOWMAN}\n\x00")),
        (calls.anything, NAN, NAN),
        (calls.anything, {"a": [NAN, 1, True, None]}, {"a": [NAN, 1, True, None]}),
        (calls.unannotated, [NAN], [NAN]),
        (calls.a_path, Path("relative"), Path("relative")),
    ],
)
def test_a_value_arrives_as_what_it_was(function: Callable[[Any], Any], value: Any, expected: Any) -> None:
    assert same(isolate.call(function, value), expected)


def test_nothing_arrives_as_nothing_and_a_nested_function_is_found() -> None:
    assert isolate.call(calls.nothing) is None
    assert isolate.call(calls.Method.nested) == "nested"


def test_tensorflow_works_in_a_child_and_stays_there() -> None:
    assert isolate.call(calls.multiply, 21.0) == 42.0
    assert math.isnan(isolate.call(calls.multiply, NAN))
    assert [isolate.call(calls.operations) for _ in range(2)] == [1, 1]
    assert "tensorflow" in isolate.call(calls.modules)
    assert isolate.call(calls.threads) == 1, "a child starts with one thread"


def test_the_calling_process_never_imports_tensorflow(light: Settings) -> None:
    program = (
        "import sys; from tasks import isolate; from tasks.isolate.client import call_with; from tests.isolate import calls\n"
        f"settings = isolate.Settings({light.environment!r}, modules=())\n"
        "assert 'tensorflow' in call_with(calls.modules, settings=settings)\n"
        "print('tensorflow' in sys.modules, 'grpc' in sys.modules)"
    )
    path = dict(light.environment)["PYTHONPATH"]  # it could import it
    answer = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert answer.stdout.split() == ["False", "False"]


def test_an_error_of_our_tree_arrives_as_itself() -> None:
    with pytest.raises(CoverageError) as caught:
        isolate.call(calls.refuse, ["w"], "a log")
    assert str(caught.value) == "where: expected expected, found found.\nRemedy: remedy"
    assert caught.value.attributes == {"missing": ("w",), "log": "a log"}


def test_another_error_arrives_with_its_type_message_and_output() -> None:
    with pytest.raises(ChildFailed) as caught:
        isolate.call(calls.fail_loudly)
    error = caught.value
    assert "RuntimeError: what went wrong" in error.found and error.where == "tests.isolate.calls.fail_loudly"
    for line in ("printed by Python", "written to descriptor 1", "printed as an error", "in fail_loudly"):
        assert line in error.output, line


@pytest.mark.parametrize("function", [calls.full_disk, calls.full_disk_as_tensorflow_says_it])
def test_a_full_disk_in_a_child_is_the_environments_failure(function: Callable[[], None]) -> None:
    with pytest.raises(EnvironmentFailure, match="No space left on device") as caught:
        isolate.call(function)
    assert "free some space" in caught.value.remedy


ENDINGS: list[tuple[Callable[..., Any], tuple[Any, ...], str]] = [
    (calls.abort, (), "signal SIGABRT"),
    (calls.segfault, (), "signal SIGSEGV"),
    (calls.leave, (3,), "exit code 3"),
    (calls.leave, (0,), "exit code 0"),
    (calls.exit_politely, (), "SystemExit: 3"),
    (calls.no_memory, (), "MemoryError"),
    (calls.no_json, (), "PydanticSerializationError"),
    (calls.text_for_a_number, (), "1 errors in its answer"),
    (calls.refuse_with_another_type, (), "ValidationError"),
]


@pytest.mark.parametrize(("function", "args", "found"), ENDINGS, ids=[case[0].__name__ for case in ENDINGS])
def test_however_a_child_ends_it_is_named(function: Callable[..., Any], args: tuple[Any, ...], found: str) -> None:
    with pytest.raises(ChildFailed) as caught:
        isolate.call(function, *args)
    assert found in caught.value.found and caught.value.where.endswith(function.__name__)
    assert caught.value.exit_code == ExitCode.STEP_FAILED


def test_what_a_child_cannot_unpickle_is_named() -> None:
    with pytest.raises(ChildFailed, match="ModuleNotFoundError"):
        isolate.call(calls.anything, Unknown())


class Unknown:
    """Pickles as a thing that only this process has."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Stranger, ()


class Stranger:
    pass


Stranger.__module__ = "stranger"
sys.modules["stranger"] = type(sys)("stranger")
sys.modules["stranger"].Stranger = Stranger  # type: ignore[attr-defined]  # made here


def test_the_output_before_a_crash_is_kept() -> None:
    with pytest.raises(ChildFailed) as caught:
        isolate.call(calls.abort)
    assert "about to abort" in caught.value.output


def test_a_deadline_ends_the_child(tmp_path: Path) -> None:
    isolate.call(calls.nothing)
    started = time.monotonic()
    with isolate.limits(Limits(seconds=2.0)), pytest.raises(ChildFailed, match=r"an answer within 2(\.0)? s") as caught:
        isolate.call(calls.hang, tmp_path / "pids")
    assert time.monotonic() - started >= 2.0 and "limits.seconds" in caught.value.remedy
    assert not running(int((tmp_path / "pids").read_text().split()[1]))


def test_a_memory_limit_ends_the_child_and_spares_who_keeps_it(light: Settings) -> None:
    held: list[int] = []
    with isolate.limits(Limits(seconds=30.0, memory=256 << 20)):
        with pytest.raises(ChildFailed, match="at most 256 MiB") as caught:
            call_with(calls.grow, (1024,), on_progress=lambda facts: held.append(facts["held"]), settings=light)
        assert call_with(calls.double, (1,), settings=light) == 2
    assert "limits.memory" in caught.value.remedy and 128 < max(held) < 1024


def test_limits_hold_for_their_block_and_their_thread_only() -> None:
    with isolate.limits(Limits(seconds=0.3)), ThreadPoolExecutor(1) as pool:
        assert pool.submit(isolate.call, calls.double, 1).result() == 2
        with pytest.raises(ChildFailed):
            isolate.call(calls.hang)
    assert isolate.call(calls.double, 2) == 4


def test_progress_arrives_in_order() -> None:
    frames: list[Any] = []
    assert call_with(calls.count, (2000,), on_progress=frames.append) == 2000
    assert frames == [{"number": number} for number in range(2000)]


def test_progress_of_several_threads_does_not_mix() -> None:
    frames: list[Any] = []
    call_with(calls.count_in_threads, (4, 10), on_progress=frames.append)
    for thread in range(4):
        assert [frame["number"] for frame in frames if frame["thread"] == thread] == list(range(10))


def test_an_error_while_showing_progress_ends_the_child() -> None:
    seen: list[int] = []

    def show(facts: Any) -> None:
        seen.append(facts["held"])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call_with(calls.grow, (4096,), on_progress=show)
    assert seen == [16]


def test_progress_outside_a_child_does_nothing() -> None:
    assert calls.count(3) == 3


def test_calls_of_several_threads_run_at_once(tmp_path: Path) -> None:
    """Each waits for the others."""
    with ThreadPoolExecutor(8) as pool:
        met = pool.map(lambda number: isolate.call(calls.meet, tmp_path, number, 8), range(8))
        assert list(met) == list(range(8))


def test_a_big_argument_and_a_big_result_arrive() -> None:
    big = 50 << 20
    content = os.urandom(1 << 20) * 50
    assert isolate.call(calls.digest, content) == calls.digest(content)
    assert isolate.call(calls.letters, big) == "x" * big


def test_the_callers_folder_is_the_childs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    isolate.call(calls.nothing)
    monkeypatch.chdir(tmp_path)
    assert isolate.call(calls.folder) == tmp_path
    assert isolate.call(calls.absolute, Path("relative")) == tmp_path / "relative"


def test_a_caller_with_many_open_files_may_call() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2000:
        pytest.skip("this system allows few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2000, hard))
    held = [os.dup(0) for _ in range(1100)]
    try:
        assert isolate.call(calls.double, 1) == 2
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_child_started_and_left_running_is_a_handle() -> None:
    child = isolate.start(calls.count, 3)
    frames: list[dict[str, Any]] = []
    deadline = time.monotonic() + 60.0
    while child.exit is None and time.monotonic() < deadline:
        frames += child.poll(1.0)
    assert child.exit == 0
    assert [frame["progress"]["number"] for frame in frames if "progress" in frame] == [0, 1, 2]
    assert [frame["result"] for frame in frames if "result" in frame] == [[3]]
    child.stop()
    child.stop()
    assert child.poll() == [] and child.memory() is None


def test_a_stopped_child_may_end_in_order(tmp_path: Path) -> None:
    child = isolate.start(calls.end_in_order, tmp_path / "told")
    while not any("progress" in frame for frame in child.poll(1.0)):
        assert child.exit is None
    assert (child.memory() or 0) > 1 << 20
    child.stop(grace=5.0)
    assert (tmp_path / "told").read_text() == "tidied" and child.exit == 0


def test_a_child_that_will_not_end_is_killed_and_what_it_said_is_kept_once() -> None:
    child = isolate.start(calls.count_then_ignore_sigterm, 3)
    while sum("progress" in frame for frame in child.frames) < 3:  # by then it ignores the signal
        child.wait(0.05)
    started = time.monotonic()
    child.stop(grace=0.5)
    assert time.monotonic() - started >= 0.5
    assert child.exit == -9 and not running(child.pid or 0)
    said = [frame["progress"]["number"] for frame in child.poll() if "progress" in frame]
    assert said == [0, 1, 2]


@pytest.mark.parametrize("function", ["letters", "count"])
def test_a_caller_that_does_not_listen_delays_nobody(function: str) -> None:
    """A child killed in the middle of what it says: its end is told when its caller listens, others are served now."""
    child = isolate.start(getattr(calls, function), 10_000_000)
    while child.pid is None:
        child.poll(1.0)
    time.sleep(0.3)  # by now it waits for us to read
    os.kill(child.pid, signal.SIGTERM)
    with isolate.limits(Limits(seconds=5.0)):
        assert isolate.call(calls.double, 1) == 2
    deadline = time.monotonic() + 60.0
    while child.exit is None and time.monotonic() < deadline:
        child.poll(0.1)
    assert child.exit == -signal.SIGTERM
    child.stop()


def test_a_folder_can_be_hidden_from_one_child_alone(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    could, before, after = isolate.call(calls.hidden, tmp_path)
    assert could is can_hide(tmp_path)
    assert before and after is not could and (tmp_path / "file").exists()


def test_settings_reach_the_server_and_another_value_means_another_one(light: Settings) -> None:
    other = Settings((*light.environment, ("TF_ENABLE_ONEDNN_OPTS", "0")), modules=())
    assert call_with(calls.variable, ("TF_ENABLE_ONEDNN_OPTS",), settings=other) == "0"
    assert call_with(calls.variable, ("TF_ENABLE_ONEDNN_OPTS",), settings=light) is None
    servers = {call_with(calls.pids, settings=settings)[0] for settings in (light, other, light)}
    assert len(servers) == 2


def test_an_answer_is_json_and_never_a_pickle() -> None:
    """A child's answer is read as JSON: bytes that would run code on unpickling stay text."""
    evil = json.dumps("cos\nsystem\n(S'false'\ntR.")
    assert isolate.call(calls.anything, evil) == evil


def test_no_thread_is_left_behind() -> None:
    before = threading.active_count()
    isolate.call(calls.nothing)
    assert threading.active_count() <= before
