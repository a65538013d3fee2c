"""A path may hold what TensorFlow takes for a pattern: its files are read through links."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.adoption.answers import answers_in
from tests.adoption.pipeline import Shipyard
from tests.makers import one_network_in_every_form as ways

ODD = "a [1] b* c?"
NAMED = {"inputs": ["x=net/x:0"], "outputs": ["y=net/y:0"]}


@pytest.mark.parametrize(
    ("way", "path"),
    [
        (ways.saver_v2, ""),
        (ways.saver_v1, ""),
        (ways.saver_v1_two_shards, ""),
        (ways.simple_save, "model"),
        (ways.keras_hdf5, "model.h5"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_folder_with_a_patterns_characters_is_read(
    yard: Shipyard, tmp_path: Path, way: Callable[[Path], None], path: str
) -> None:
    written = yard.written(way)
    shutil.copytree(written, tmp_path / ODD)
    given = {} if path else NAMED
    probe = {"file": written / "probe.npz"}
    shipped = yard.ship(tmp_path / ODD / path, "odd", given=given, probe=probe, until="restore_verify")
    (answer,) = shipped.baseline.values()
    (expected,) = answers_in(written).values()
    np.testing.assert_allclose(answer, expected, rtol=1e-6, atol=1e-6)


def test_a_prefix_with_a_patterns_characters_is_read(yard: Shipyard, tmp_path: Path) -> None:
    written = yard.written(ways.saver_v2)
    for file in written.glob("model.ckpt-7.*"):
        shutil.copy(file, tmp_path / file.name.replace("model", "model[best]*"))
    probe = {"file": written / "probe.npz"}
    shipped = yard.ship(tmp_path / "model[best]*.ckpt-7", "odd", given=NAMED, probe=probe, until="restore_verify")
    (answer,) = shipped.baseline.values()
    (expected,) = answers_in(written).values()
    np.testing.assert_allclose(answer, expected, rtol=1e-6, atol=1e-6)
