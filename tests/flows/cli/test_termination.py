"""The end of a command: one JSON document with `--json`; one line and the signal's exit code, from its start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main

import flows.cli
from flows.cli.app import app
from flows.train_to_serve import summaries
from tasks.records.run import RunSummary
from tests.flows.cli.process import QUICK, TFSHIP, Answer, Shell, tfship

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
WITH_JSON = {name for name, one in COMMANDS.items() if any("--json" in parameter.opts for parameter in one.params)}
HEAVY = {"tasks", "typer", "pydantic", "yaml", "numpy", "prefect"}
FIELDS = {"error", "where", "expected", "found", "remedy", "facts"}
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
MOMENTS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0, 1.5)

# What each command finds wrong after its options were read.
WRONG: dict[str, list[str]] = {
    **{name: ["nosuch"] for name in ("run", "plan", "inspect", "probe", "releases", "promote", "status")},
    **{
        name: ["nosuch"]
        for name in ("train", "adopt", "checkpoint", "restore-verify", "freeze", "export", "smoke-test")
    },
    "convert": ["nosuch", "out", "--to", "frozen"],
    "verify": ["only-one"],
    "predict": ["nosuch", "--inputs", "x.npz"],
    "rollback": ["nosuch", "--reason", "x"],
    "approve": ["nosuch", "--reason", "x"],
    "label": ["nosuch", "stable", "1"],
    "pin": ["nosuch", "1", "--reason", "x"],
    "diff": ["nosuch", "1", "2"],
    "verify-release": ["nosuch", "1"],
    "keygen": ["/dev/null"],
    "gc": ["--older-than", "soon"],
    "doctor": ["--config", "nosuch"],
}


def the_error(answer: Answer) -> dict[str, Any]:
    """Return the error document of a failed command, which matches its message."""
    document = json.loads(answer.out)
    assert set(document) == {"error"} and set(document["error"]) == FIELDS
    error: dict[str, Any] = document["error"]
    assert error["found"] in answer.err and error["remedy"] in answer.err, answer
    return error


def test_every_command_that_takes_json_is_in_the_table() -> None:
    assert set(WRONG) == WITH_JSON


@pytest.mark.parametrize("command", WRONG)
def test_what_is_wrong_before_anything_begins_is_one_document(folder: Path, command: str) -> None:
    answer = tfship(command, *WRONG[command], "--json")
    assert answer.code == 2 and answer.err.count("tfship: ") == 1, answer
    error = the_error(answer)
    assert answer.err == f"tfship: {error['where']}: expected {error['expected']}, found {error['found']}.\n" + (
        f"Remedy: {error['remedy']}\n"
    )
    answer = tfship(command, *WRONG[command])
    assert answer.code == 2 and answer.out == "", "without --json there is the message alone"


@pytest.mark.parametrize("command", WRONG)
def test_options_that_cannot_be_read_are_one_document_too(command: str) -> None:
    answer = tfship(command, "--json", "--nosuch")
    assert answer.code == 2 and the_error(answer)["error"] == "UsageError"
    assert "--nosuch" in the_error(answer)["found"]


def test_a_store_that_cannot_be_written_is_one_document(folder: Path) -> None:
    summaries.append(RunSummary.model_construct(name="of another run in this process"))
    (folder / "file").touch()
    answer = tfship("run", *QUICK, "--store", "file", "--json")
    assert answer.code == 4
    assert the_error(answer)["error"] == "EnvironmentFailure" and "Not a directory" in the_error(answer)["found"]


def test_a_mistake_of_ours_is_one_document_and_a_traceback(shell: Callable[..., Shell]) -> None:
    program = "from flows.cli import doctor, main; doctor.checks = lambda _: 1 // 0; main()"
    answer = shell("-c", program, "doctor", "--json", program=Path(sys.executable)).answer()
    assert answer.code == 1 and "Traceback" in answer.err
    assert "ZeroDivisionError" in json.loads(answer.out)["error"]["found"]


@pytest.mark.parametrize("number", CODES)
def test_a_run_that_is_stopped_in_a_step_is_one_document(
    folder: Path, shell: Callable[..., Shell], number: signal.Signals
) -> None:
    process = shell("run", *QUICK, "--json")
    process.until(lambda: list(folder.glob(".tfship/store/.staging/train/*")))
    process.send(number)
    assert_stopped(process.answer(60.0), number)
    process.assert_nothing_left()


def assert_stopped(answer: Answer, number: signal.Signals) -> None:
    assert answer.code == CODES[number], answer
    assert answer.err == f"tfship: {WORDS[number]}; run again to go on from here.\n", answer
    error = json.loads(answer.out)["error"]
    assert set(error) == FIELDS and (error["error"], error["found"]) == (WORDS[number].capitalize(), number.name)


def test_the_first_lines_import_nothing_heavy() -> None:
    """Signals are answered from then on; what comes before is Python's own start."""
    program = "import sys; before = set(sys.modules); import flows.cli; print(*set(sys.modules) - before)"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert {name for name in said if name.startswith("flows")} == {"flows", "flows.cli", "flows.cli.termination"}
    assert HEAVY.isdisjoint(name.partition(".")[0] for name in said)


@pytest.mark.parametrize("number", CODES)
def test_a_signal_in_the_first_moments_ends_it_in_one_line(shell: Callable[..., Shell], number: signal.Signals) -> None:
    for moment in MOMENTS:
        process = shell("run", *QUICK, "--json")
        process.until(lambda process=process: process.catches(signal.SIGTERM))  # type: ignore[misc]
        time.sleep(moment)
        process.send(number)
        assert_stopped(process.answer(60.0), number)
        process.assert_nothing_left()


SWALLOWS = """
import contextlib, os, signal
with contextlib.suppress(BaseException):
    os.kill(os.getpid(), signal.{name})
    sum(range(1000))
"""
STOPPED = """
import time
from flows.cli import termination
termination.begin()
termination.clean_up_first()
try:
    import swallows
    time.sleep(60)
except BaseException as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize(("name", "raised"), [("SIGTERM", "Terminated"), ("SIGINT", "KeyboardInterrupt")])
def test_a_signal_during_an_import_that_swallows_it_is_raised_after_it(folder: Path, name: str, raised: str) -> None:
    (folder / "swallows.py").write_text(SWALLOWS.format(name=name))
    search = os.pathsep.join([str(folder), str(Path(flows.cli.__file__).parents[2])])
    environment = os.environ | {"PYTHONPATH": search}
    said = subprocess.run([sys.executable, "-c", STOPPED], env=environment, capture_output=True, text=True, timeout=50)
    assert (said.stdout.strip(), said.stderr) == (raised, "")


LOST = """
import contextlib, os, signal, sys
from flows.cli import main, termination
from tasks.artifacts import store

class Lossy(store.Store):
    def __init__(self, *given, **named):
        super().__init__(*given, **named)
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.{name})
            sum(range(1000))

store.Store = Lossy
sys.argv = ["tfship", *{words}]
main()
"""


@pytest.mark.parametrize("number", CODES)
def test_a_signal_that_is_lost_before_a_run_ends_it_at_its_next_step(folder: Path, number: signal.Signals) -> None:
    program = LOST.format(name=number.name, words=["run", *QUICK, "--json"])
    environment = os.environ | {"PYTHONPATH": str(Path(flows.cli.__file__).parents[2])}
    said = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=100)
    assert said.returncode == CODES[number] and said.stderr.endswith(
        f"tfship: {WORDS[number]}; run again to go on from here.\n"
    )
    assert not list(folder.glob(".tfship/store/train/*"))


def test_a_signal_in_the_first_moment_of_python_m(shell: Callable[..., Shell]) -> None:
    process = shell("-m", "flows.cli", "run", *QUICK, "--json", program=Path(sys.executable))
    process.until(lambda: process.catches(signal.SIGTERM))
    process.send(signal.SIGINT)
    assert_stopped(process.answer(60.0), signal.SIGINT)


def test_ctrl_c_is_not_for_a_job_in_the_background(shell: Callable[..., Shell]) -> None:
    command = f"trap '' INT; exec {TFSHIP} releases nosuch"
    process = shell("-c", command, program=Path("/bin/sh"))
    process.until(lambda: process.catches(signal.SIGTERM))
    process.send(signal.SIGINT)
    assert process.answer(60.0).code == 2, "it came to its own end"
