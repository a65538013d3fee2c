"""Each byte of a large model is written twice, brought and frozen, and read no more often than a verdict needs."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from tasks.artifacts.store import Store
from tasks.errors import DamagedError
from tests.adoption.pipeline import Shipped, Shipyard, require_shipped
from tests.makers import large_model
from tests.makers.large_model import LARGEST, MIB, SIZE

OPTIONS = {"given": {"inputs": ["x"], "outputs": ["y"]}, "tolerance": {}}
# Who reads the values, and how often: the digest of the source, its copy, its session (adopt); the restored session
# (restore_verify); the values that are frozen, and the frozen graph; both loaders of
# the SavedModel (export); its values as loaded, and the server (smoke_test); the hash of every file of the run, this and the
# frozen graph among them, and the server that confirms (promote).
READ = {
    "adopt": 3,
    "checkpoint": 0,
    "restore_verify": 1,
    "freeze": 2,
    "export": 2,
    "smoke_test": 2,
    "promote": 3,
}
WRITTEN = {"adopt": 1, "freeze": 1}
SETTLED = 2.1
SMALL = SIZE * 3 // 8  # code that a child imports, protos, logs


@pytest.fixture(scope="module")
def shipped(yard: Shipyard) -> Shipped:
    source = yard.written(large_model.large)
    while time.time() - max(path.stat().st_ctime for path in source.iterdir()) < SETTLED:
        time.sleep(0.1)  # what is younger is read again, for its times would not show every change
    found = yard.ship(source, "large", **OPTIONS)
    require_shipped(found)
    return found


def data(folder: Path) -> Path:
    (found,) = folder.rglob("*.data-00000-of-00001")
    return found


def test_each_step_reads_and_writes_what_the_table_says(shipped: Shipped) -> None:
    for name, times in READ.items():
        read, written = shipped.steps[name].read, shipped.steps[name].written
        assert times * SIZE <= read <= times * SIZE + SMALL, f"{name} read {read / SIZE:.2f} of the model"
        wanted = WRITTEN.get(name, 0)
        assert wanted * SIZE <= written <= wanted * SIZE + SMALL // 3, f"{name} wrote {written / SIZE:.2f} of the model"


def test_the_data_of_every_form_but_the_frozen_one_are_one_file(shipped: Shipped, yard: Shipyard) -> None:
    places = [Path(shipped.steps[name].artifact or "") for name in ("adopt", "checkpoint", "export")]
    places.append(yard.folder / "serving" / "large" / "1")
    assert len({data(place).stat().st_ino for place in places}) == 1
    assert data(places[0]).stat().st_nlink == len(places)


def test_the_freezing_process_holds_two_tensors_and_no_model(shipped: Shipped) -> None:
    peaks = {cost.process.rpartition(".")[2]: cost.peak or 0 for cost in shipped.steps["freeze"].costs}
    least = min(cost.peak for step in shipped.steps.values() for cost in step.costs if cost.peak)
    assert peaks["write"] <= least + 150 * MIB + 2 * LARGEST


def test_a_second_run_reads_nothing_of_the_model_but_what_is_served(shipped: Shipped, yard: Shipyard) -> None:
    again = yard.ship(yard.written(large_model.large), "large", **OPTIONS)
    states = {name: step.state.value for name, step in again.steps.items()}
    assert states == dict.fromkeys(READ, "cached") | {"promote": "unchanged", "report": "built"}
    read = {name: step.read for name, step in again.steps.items()}
    assert SIZE <= read.pop("promote") <= SIZE + SMALL, "what is served is hashed each time"
    assert max(read.values()) < SMALL


@pytest.mark.parametrize("step", ["freeze", "export"])
def test_a_bit_that_flips_unseen_before_the_release_is_found_by_it(yard: Shipyard, step: str) -> None:
    """No time and no size tells of it: `hashes` knows the file as it was."""
    shipped = yard.ship(yard.written(large_model.large), "large", **OPTIONS)
    hashes = Store(yard.folder / "store").hashes
    place = Path(shipped.steps[step].artifact or "")
    file = data(place) if step == "export" else place / "frozen_graph.pb"
    sha, content = hashes.of(file), file.read_bytes()
    for served in (yard.folder / "serving" / "large").glob("[0-9]*"):
        served.rename(served.with_name(f"taken-{served.name}"))
    file.chmod(0o644)
    try:
        with file.open("r+b") as stream:
            stream.seek(SIZE // 2)
            stream.write(bytes([content[SIZE // 2] ^ 1]))
        file.chmod(0o444)
        hashes.keep(file, sha)
        with pytest.raises(DamagedError, match=place.name):
            yard.ship(yard.written(large_model.large), "large", **OPTIONS)
        assert not [path for path in (yard.folder / "serving" / "large").iterdir() if path.name.isdigit()]
    finally:
        shutil.rmtree(place, ignore_errors=True)
