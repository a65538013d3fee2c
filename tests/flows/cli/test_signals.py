"""A run stopped in any step by SIGINT, SIGTERM or SIGKILL leaves no process and no partial artifact, and resumes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.artifacts import manifest as manifests
from tasks.artifacts.store import Store
from tests.flows.cli.process import QUICK, Shell, tfship

STEPS = 250
SETTINGS = "training: {saver: {every_steps: 10, max_to_keep: 1000}}\n"
COMMAND = ("run", "sundaynet", "--no-server", "--runtime", "embedded", "--config", "c.yaml", "--steps", str(STEPS))
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}
WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
# Every signal in every place, or, where that is not asked for, each in one.
WHOLE = os.environ.get("SWEEPS") == "whole"
IN_TRAINING, IN_SMOKE_TEST, IN_PROMOTE = (
    tuple(CODES) if WHOLE else (number,) for number in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
)


class Stopped:
    """A pipeline in the current folder that is stopped several times."""

    def __init__(self, shell: Callable[..., Shell]) -> None:
        self.shell = shell
        self.home = Path(".tfship").absolute()
        self.root = self.home / "serving"

    def saved(self) -> dict[int, int]:
        """Return the inode of each checkpoint of the training, in progress or finished, by global step."""
        places = [*self.home.glob("store/.staging/train/*"), *self.home.glob("store/train/*")]
        indices = [path for place in places for path in place.glob("checkpoints/*.index")]
        return {int(path.stem.rpartition("-")[2]): path.stat().st_ino for path in indices}

    def training(self) -> Callable[[], bool]:
        """Return a condition: training is some steps further."""
        wanted = max(self.saved(), default=0) + 30
        return lambda: max(self.saved(), default=0) >= wanted

    def smoke_testing(self) -> Callable[[], bool]:
        """Return a condition: a server is about to start with a link to the model."""
        return lambda: bool(list(self.home.glob("store/.staging/smoke_test/*/served-*/*")))

    def stop(self, number: signal.Signals, when: Callable[[], bool], *options: str) -> None:
        """Start a run, stop it when that is so, and see what it leaves."""
        process = self.shell(*COMMAND, *options)
        process.until(when)
        process.send(number)
        answer = process.answer(60.0)
        process.assert_nothing_left()
        assert answer.code == CODES[number], answer
        assert "Traceback" not in answer.err, answer.err
        if number in WORDS:
            assert answer.err.splitlines()[-1] == f"tfship: {WORDS[number]}; run again to go on from here."
        self.assert_complete()

    def assert_complete(self) -> None:
        """Assert that each artifact matches its manifest, and that each version is a complete model."""
        store = Store(self.home / "store")
        for manifest in (self.home / "store").glob("[a-z]*/*/manifest.json"):
            store.verify(manifest.parent, full=True)
        models = {manifests.digest_of(manifests.entries(path)) for path in self.home.glob("store/export/*/*/")}
        for version in self.root.glob("*/[0-9]*"):
            assert manifests.digest_of(manifests.entries(version)) in models, version

    def finish(self, *options: str) -> dict[str, str]:
        """Run to the end; the states of the steps."""
        answer = self.shell(*COMMAND, *options, "--json").answer()
        assert answer.code == 0, answer.err
        return answer.states


@pytest.mark.timeout(900)
def test_a_run_stopped_in_any_step_by_any_signal_goes_on(folder: Path, shell: Callable[..., Shell]) -> None:
    (folder / "c.yaml").write_text(SETTINGS)
    run = Stopped(shell)
    kept: dict[int, int] = {}
    for number in IN_TRAINING:
        run.stop(number, run.training())
        saved = run.saved()
        assert kept.items() <= saved.items(), "training began anew instead of going on"
        kept = saved
    assert max(kept) < STEPS

    # The server of the smoke test is under way. What came before it is made once.
    for number in IN_SMOKE_TEST:
        run.stop(number, run.smoke_testing())
    committed = {path: path.stat().st_ino for path in run.home.glob("store/*/*/manifest.json")}
    assert {path.parents[1].name for path in committed} == {"train", "checkpoint", "restore_verify", "freeze", "export"}
    (trained,) = run.home.glob("store/train/*")
    assert kept.items() <= run.saved().items() and max(run.saved()) == STEPS
    logged = [json.loads(line)["step"] for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert logged == list(range(10, STEPS + 1, 10)), "each logged step once"

    # Published, and stopped before a server has confirmed it: withdrawn, or whole, and confirmed by the next run.
    for number in IN_PROMOTE:
        options = ("--name", f"stopped-by-{number.name}")
        base = run.root / options[1]
        run.stop(number, lambda: bool(list(base.glob("[0-9]*"))), *options)  # noqa: B023
        (left,) = base.glob("[0-9]*")
        states = run.finish(*options)
        assert {path: path.stat().st_ino for path in committed} == committed
        assert states["smoke_test"] == "cached" and states["promote"] == "built"
        assert sorted(path.name for path in base.glob("[0-9]*")) == (
            ["1"] if left.name == "1" else ["1.withdrawn", "2"]
        )


def test_a_model_without_steps_that_was_killed_before_its_checkpoint_gets_one(copied: Path) -> None:
    """The baseline was written, and the checkpoint was not, or only in part."""
    store = copied / ".tfship" / "store"
    (trained,) = store.glob("train/*")
    staging = store / ".staging" / "train" / trained.name
    staging.parent.mkdir(parents=True, exist_ok=True)
    trained.rename(staging)
    (index,) = staging.glob("checkpoints/*.index")
    index.chmod(0o644)
    index.write_bytes(index.read_bytes()[:10])
    (staging / "checkpoints" / "model.ckpt-0_temp").mkdir()
    answer = tfship("run", *QUICK, "--json")
    assert answer.code == 0 and answer.states["train"] == "built", answer.err
    found = sorted(path.name for path in trained.glob("checkpoints/*"))
    assert found == ["checkpoint", "model.ckpt-0.data-00000-of-00001", "model.ckpt-0.index"]


def test_a_kill_takes_our_own_prefect_server_along(
    copied: Path, shell: Callable[..., Shell], prefect_home: Path
) -> None:
    """And the database that it left is good enough for the next run."""
    home = copied / "home"
    shutil.copytree(prefect_home, home)
    environment = {"PREFECT_HOME": str(home)}
    command = ("run", QUICK[0], "--runtime", "embedded", "--refresh", "all")
    process = shell(*command, environment=environment)
    process.until(lambda: "train" in process.said)
    assert any("prefect.server" in command for command in process.left().values())
    process.send(signal.SIGKILL)
    assert process.answer().code == -signal.SIGKILL
    process.assert_nothing_left()

    again = shell("run", QUICK[0], "--runtime", "embedded", "--json", environment=environment)
    answer = again.answer()
    assert answer.code == 0 and answer.err == "", answer.err
    again.assert_nothing_left()
    with sqlite3.connect(home / "prefect.db") as database:
        states = database.execute("select name, state_name from flow_run order by created").fetchall()
    assert states[-1] == ("half_plus_two", "Unchanged")
