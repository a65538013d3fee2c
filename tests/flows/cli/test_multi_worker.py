"""Several workers, each started by its own command: the chief's model is kept, and the others leave nothing."""

from __future__ import annotations

import json
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.flows.cli.process import Shell, tfship

MODEL = ("several:Keras", "--no-server")
PATIENT = {"TFSHIP_LIMITS__CLUSTER_SECONDS": "120"}


@pytest.fixture
def mine(folder: Path) -> Path:
    """A folder with the user's model."""
    shutil.copyfile(Path(__file__).parents[2] / "makers" / "multi_worker_models.py", folder / "several.py")
    return folder


def places() -> list[str]:
    """TF_CONFIG of a chief and one more worker, on free ports."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        addresses = [f"127.0.0.1:{held.getsockname()[1]}" for held in (one, other)]
    cluster = {"worker": addresses}
    return [json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}) for index in (0, 1)]


def test_the_chief_keeps_the_model_and_the_other_leaves_nothing(mine: Path, shell: Callable[..., Shell]) -> None:
    chief, other = places()
    started = shell("train", *MODEL, "--store", "mine", "--json", environment={"TF_CONFIG": chief, **PATIENT})
    beside = tfship("run", *MODEL, "--store", "theirs", "--json", TF_CONFIG=other, **PATIENT)
    assert beside.code == 0, beside.err
    said = "worker 1 of 2 assisted the chief, which keeps the model"
    assert beside.states == {"train": "assisted"} and beside.document["notes"] == [said]
    assert beside.document["report"] is None
    kept = started.answer()
    assert kept.code == 0, kept.err
    assert kept.states["train"] == "built"
    assert not [path for path in (mine / "theirs").rglob("*") if path.is_file()]
    assert len(list((mine / ".tfship" / "reports").iterdir())) == 1
    assert not list((mine / "theirs").glob("[!.]*"))
    started.assert_nothing_left()
    # Trained already, the chief waits for nobody, and nobody waits for it longer than it was told to.
    again = tfship("train", *MODEL, "--store", "mine", "--json", TF_CONFIG=chief)
    assert again.code == 0 and again.states["train"] == "cached"
    waited = tfship("run", *MODEL, "--store", "theirs", TF_CONFIG=other, TFSHIP_LIMITS__CLUSTER_SECONDS="1")
    assert waited.code == 1
    assert "within 1 s, found not all of them" in waited.err and "`cached`" in waited.err
    planned = tfship("plan", "several:Keras", "--store", "mine", "--json", TF_CONFIG=other)
    assert planned.states["train"] == "cached"


def test_where_the_chief_is_killed_the_other_ends_with_one_message(mine: Path, shell: Callable[..., Shell]) -> None:
    (mine / "slow.yaml").write_text("training: {steps: 1000, hyperparameters: {pause: 0.05}}")
    train = ("train", "several:Module", "--config", "slow.yaml", "--no-server")
    chief, other = (
        shell(*train, "--store", name, environment={"TF_CONFIG": config, **PATIENT})
        for name, config in zip(("mine", "theirs"), places(), strict=True)
    )
    chief.until(lambda: list((mine / "mine" / ".staging").glob("train/*/metrics.jsonl")))
    chief.send(signal.SIGKILL)
    answer = other.answer()
    assert answer.code == 1
    assert "tfship: worker 1 of 2: expected every worker to train to the end" in answer.err
    assert "Traceback" not in answer.err and answer.out == ""
    for one in (chief, other):
        one.assert_nothing_left()
