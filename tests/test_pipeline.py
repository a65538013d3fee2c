"""Laws of the whole pipeline on the smallest model: what exists is not rebuilt, what is damaged is, and only that."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from flows import telemetry
from flows.config import PipelineConfig
from flows.train_to_serve import run_pipeline, summaries
from tasks.errors import HeldError, ParityError
from tasks.records.run import PromotionSummary, StepSummary
from tasks.releases.publish import Releases

STEPS = ["train", "checkpoint", "restore_verify", "freeze", "export", "smoke_test"]


def piped(folder: Path, **settings: Any) -> dict[str, StepSummary]:
    """Run the flow without a server; its steps by name."""
    config = PipelineConfig.model_validate(
        {
            "source": "half_plus_two",
            "store": folder / "store",
            "serving_root": folder / "serving",
            "reports": folder / "reports",
            "serving": {"runtime": "embedded", "latency_requests": 3},
            **settings,
        }
    )
    with telemetry.shown(quiet=True):
        run_pipeline.fn(config)
    return {step.name: step for step in summaries[-1].steps}


def states(steps: dict[str, StepSummary]) -> dict[str, str]:
    return {name: step.state.value for name, step in steps.items()}


ALL_CACHED = dict.fromkeys(STEPS, "cached") | {"promote": "unchanged", "report": "built"}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the pipeline has run once."""
    folder = tmp_path_factory.mktemp("pipeline")
    steps = piped(folder)
    assert states(steps) == dict.fromkeys([*STEPS, "promote", "report"], "built")
    return folder


@pytest.fixture
def folder(first: Path, tmp_path: Path) -> Path:
    """A copy of it, which is also a moved store."""
    shutil.copytree(first, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def test_twice_is_once(folder: Path) -> None:
    assert states(piped(folder)) == ALL_CACHED
    assert Releases(folder / "serving", "half_plus_two").served() == 1


def test_a_moved_store_keeps_its_digests_and_rebuilds_nothing(first: Path, folder: Path) -> None:
    before = {name: step.digest for name, step in piped(first).items() if name in STEPS}
    shutil.move(folder / "store", folder / "elsewhere")
    after = piped(folder, store=folder / "elsewhere")
    assert states(after) == ALL_CACHED
    assert {name: after[name].digest for name in STEPS} == before


@pytest.mark.parametrize("which", ["largest", "smallest", "manifest"])
@pytest.mark.parametrize("step", STEPS)
def test_one_flipped_byte_rebuilds_that_step_and_only_that(folder: Path, step: str, which: str) -> None:
    artifact = Path(piped(folder)[step].artifact or "")
    files = [path for path in artifact.rglob("*") if path.is_file() and path.name != "manifest.json"]
    smallest, *_, largest = sorted(files, key=lambda path: path.stat().st_size)
    victim = {"largest": largest, "smallest": smallest, "manifest": artifact / "manifest.json"}[which]
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.chmod(0o644)
    victim.write_bytes(bytes(content))
    assert states(piped(folder)) == ALL_CACHED | {step: "built"}
    (aside,) = [path for path in (folder / "store" / ".aside").iterdir() if path.name.startswith(step)]
    assert bytes(content) in {path.read_bytes() for path in aside.rglob("*") if path.is_file()}


@pytest.mark.parametrize("step", ["train", "checkpoint", "restore_verify", "freeze", "export"])
def test_what_does_not_depend_on_the_time_is_rebuilt_to_the_same_digest(folder: Path, step: str) -> None:
    steps = piped(folder, refresh=[step])
    assert states(steps) == ALL_CACHED | {step: "built"}


def test_another_hyper_parameter_trains_again_and_becomes_the_next_version(folder: Path) -> None:
    steps = piped(folder, training={"hyperparameters": {"told": 1}})
    assert states(steps)["train"] == "built"
    found = Releases(folder / "serving", "half_plus_two")
    assert found.served() == 2
    assert sorted(found.names()) == [".tfship", "1", "2"]


def test_a_digest_that_was_rolled_back_is_held_until_it_is_forced(folder: Path) -> None:
    piped(folder, training={"hyperparameters": {"told": 1}})
    releases = Releases(folder / "serving", "half_plus_two")
    with releases.open():
        releases.finish_rollback(releases.begin_rollback(1, "worse on Mondays"))
    assert releases.served() == 1
    with pytest.raises(HeldError, match="worse on Mondays"):
        piped(folder, training={"hyperparameters": {"told": 1}})
    assert {step.name: step.state for step in summaries[-1].steps}["promote"] == "held"
    promotion = summaries[-1].promotion
    assert promotion and promotion.model_dump(include=set(PromotionSummary.model_fields)) == {
        "name": "half_plus_two",
        "version": None,
        "path": None,
        "previous": 1,
        "outcome": "held",
        "labels": None,
        "waived": {},
    }
    assert states(piped(folder)) == ALL_CACHED  # what is served is still fine
    forced = {"force": True, "reason": "it was Tuesday's data"}
    piped(folder, training={"hyperparameters": {"told": 1}}, release=forced)
    assert releases.served() == 3
    assert "2.rolled-back" in releases.names()


def test_a_refused_run_is_no_success_anywhere_and_is_reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for _ in range(2):  # the second time from the kept verdict
        with pytest.raises(ParityError, match="NaN or infinities in serving_default/y"):
            piped(folder, source=_broken(folder))
        summary = summaries[-1]
        assert summary.promotion is None
        assert [step.state.value for step in summary.steps][2:] == ["failed", "built"]
        assert "NaN or infinities" in Path(str(summary.report)).read_text()
    assert not (folder / "serving" / "broken").exists()
    assert summary.steps[2].seconds < 5.0


def _broken(folder: Path) -> str:
    """A model whose answers are not finite."""
    (folder / "broken.py").write_text(
        "import numpy as np\nimport tensorflow as tf\nfrom tasks.examples.half_plus_two import HalfPlusTwo\n"
        "from tasks.user_code.model import Graph, SignatureTensors\nDATA = ()\n\n\nclass Broken(HalfPlusTwo):\n"
        "    def build(self, hyperparameters):\n"
        "        x = tf.compat.v1.placeholder(tf.float32, [None], name='x')\n"
        "        w = tf.compat.v1.get_variable('w', initializer=0.0)\n"
        "        return Graph({'serving_default': SignatureTensors({'x': x}, {'y': x / w})})\n"
    )
    return "broken:Broken"
