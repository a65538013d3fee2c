"""TensorFlow Serving's own test models ship: what no server answers by its own method is called by Predict, and said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.adoption.pipeline import Shipyard

MODELS = ("clsreg", "half_plus_three", "half_plus_two", "multi", "two_versions", "types")
NOTED = {
    "clsreg": "reg_bad is called by Predict, for no server answers it as tensorflow/serving/regress: its outputs are not "
    "one float32 for each row, `outputs`, but outputs: float32 [?, 2]",
    "half_plus_two": "regress_x2_to_y3 is called by Predict, for no server answers it as tensorflow/serving/regress: its "
    "inputs are not one of tf.Examples, `inputs`, but inputs: float32 [?, 1]",
}


@pytest.fixture(scope="module")
def golden() -> Path:
    named = os.environ.get("TFSHIP_GOLDEN")
    if not named:
        pytest.skip("TFSHIP_GOLDEN does not name the folder of the real server's models")
    return Path(named).resolve() / "models"


@pytest.mark.parametrize("name", MODELS)
def test_it_ships_with_every_signature(yard: Shipyard, golden: Path, name: str) -> None:
    newest = max(golden.joinpath(name).iterdir(), key=lambda path: int(path.name))
    shipped = yard.ship(newest, f"golden-{name}")
    assert shipped.promoted.is_dir()
    assert [row for row in shipped.summary.parity if row.passed is False] == []
    answered = {row.signature for row in shipped.summary.parity if row.candidate == "served (gRPC)"}
    assert answered == {one.key for one in shipped.names.signatures}
    if name in NOTED:
        assert any(NOTED[name] in note for note in shipped.summary.notes), shipped.summary.notes


def test_there_are_no_others(golden: Path) -> None:
    assert sorted(path.name for path in golden.iterdir()) == sorted(MODELS)
