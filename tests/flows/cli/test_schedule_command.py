"""`tfship schedule`: the flow on a schedule from one process, on a Prefect server of its own."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.flows.cli.process import STEPS, Shell, tfship

COMMAND = ("schedule", "half_plus_two", "--runtime", "embedded")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param(("--cron", "* * * *"), "Invalid cron string", id="cron"),
        pytest.param(("--cron", "0 3 * * *", "--timezone", "Mars"), "Invalid timezone", id="zone"),
    ],
)
def test_what_is_no_schedule_is_refused_before_anything_starts(
    folder: Path, options: tuple[str, ...], said: str
) -> None:
    answer = tfship(*COMMAND, *options)
    assert answer.code == 2 and said in answer.err and "Remedy: for example --cron" in answer.err, answer
    assert not list(folder.iterdir())


def test_a_run_starts_by_itself_and_a_signal_ends_all(
    folder: Path, shell: Callable[..., Shell], prefect_home: Path
) -> None:
    shutil.copytree(prefect_home, folder / "prefect")
    environment = {"PREFECT_HOME": str(folder / "prefect")}
    process = shell(*COMMAND, "--cron", "* * * * *", "--name", "served", environment=environment)
    process.until(lambda: " report " in process.said)
    process.send(signal.SIGTERM)  # which is made a Ctrl-C
    answer = process.answer(60.0)
    process.assert_nothing_left()
    assert answer.code == 0 and "Traceback" not in answer.err and "Warning" not in answer.err, answer
    assert answer.out.startswith("served runs at * * * * * (Etc/UTC) until Ctrl-C")
    assert [step for step in STEPS if f"{step:<15} built" not in answer.err] == []
    assert (folder / ".tfship" / "serving" / "served" / "1" / "saved_model.pb").is_file()
