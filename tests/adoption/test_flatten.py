"""The Saver that restores a graph is found, or made where the graph has none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tasks import isolate
from tasks.graphs.variables import Slice
from tests.makers import saver_checkpoints


@pytest.mark.parametrize(
    ("own", "held", "key", "complete", "noted"),
    [
        ("average", "all", "w/average", True, ("w is restored from w/average; another saver of the graph takes w",)),
        ("full", "all", "w", True, ("w is restored from w; another saver of the graph takes w/average",)),
        ("average", "no average", "w", False, ()),
        ("full", "no average", "w", False, ()),
    ],
    ids=["its own of averages", "its own of all", "no averages for its own", "all but the averages"],
)
def test_the_graphs_own_saver_comes_first_if_the_checkpoint_holds_what_it_wants(
    tmp_path: Path, own: str, held: str, key: str, complete: bool, noted: tuple[str, ...]
) -> None:
    isolate.call(saver_checkpoints.averaged, tmp_path, own, held)
    found, served, notes = isolate.call(saver_checkpoints.sources, tmp_path)
    assert found["w"] == Slice(key)
    assert served == complete
    assert notes == tuple(f"{note}: --var-map chooses" for note in noted)


@pytest.mark.parametrize("resource", [False, True], ids=["reference", "resource"])
def test_parts_of_a_variable_are_restored_each_from_its_place_and_saved_again_as_one(
    tmp_path: Path, resource: bool
) -> None:
    isolate.call(saver_checkpoints.in_parts, tmp_path, resource)
    answer, restored, whole = isolate.call(saver_checkpoints.restored_in_parts, tmp_path)
    np.testing.assert_array_equal(answer, saver_checkpoints.WHOLE)
    assert restored == {"p/w/part_0": Slice("p/w", "5 4 0,3:0,4"), "p/w/part_1": Slice("p/w", "5 4 3,2:0,4")}
    np.testing.assert_array_equal(whole, saver_checkpoints.WHOLE)
