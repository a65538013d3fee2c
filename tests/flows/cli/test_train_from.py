"""`tfship train --from` continues a checkpoint in its own graph, and the next run continues from there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tasks import isolate
from tests.flows.cli.process import tfship
from tests.makers import inspected_files

NAMED = ("--input", "x:0", "--output", "y:0")


@pytest.fixture
def model(folder: Path) -> Path:
    isolate.call(inspected_files.checkpoint, folder / "model" / "model.ckpt")
    return Path("model")


def test_without_rows_it_says_what_the_train_op_must_be_fed(model: Path) -> None:
    answer = tfship("train", "--from", model, "--steps", "1000", *NAMED, "--no-server")
    assert answer.code == 2 and "x" in answer.err and "--batches" in answer.err


def test_it_goes_on_from_where_the_checkpoint_stood(folder: Path, model: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    np.savez(folder / "rows.npz", x=rows)
    told = tfship("inspect", model, "--json").document
    assert any(row["role"] == "optimizer" for row in told["variables"]), "slots come along"
    answer = tfship("train", "--from", model, "--steps", "60", "--batches", "rows.npz", *NAMED, "--no-server")
    assert answer.code == 0, answer.err
    assert "restored" in answer.err and "train           built" in answer.err
