"""TensorFlow 1's ways to save and restore, written with its API as its guides do, are adopted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tasks import isolate
from tasks.errors import UsageError
from tasks.forms import checkpoint_files, saver
from tasks.forms.detect import detect
from tests.adoption.pipeline import Shipyard
from tests.makers import tf1_guides


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`v1` and `v2` of the guide, saved together."""
    folder = tmp_path_factory.mktemp("two")
    isolate.call(tf1_guides.save_two_variables, folder)
    return folder


@pytest.fixture(scope="module")
def doubled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """(w1 + w2) * b1, saved at step 1000 with its collection of hyper-parameters."""
    folder = tmp_path_factory.mktemp("doubled")
    isolate.call(tf1_guides.save_the_sum, folder)
    return folder


def test_save_and_restore_two_variables(two: Path) -> None:
    assert isolate.call(tf1_guides.restore_two_from_code, two / "model.ckpt", False) == tf1_guides.TWO


def test_restore_after_the_graph_was_reset_from_code(two: Path) -> None:
    assert isolate.call(tf1_guides.restore_two_from_code, two / "model.ckpt", True) == tf1_guides.TWO


def test_restore_after_the_graph_was_reset_from_meta(two: Path) -> None:
    assert isolate.call(tf1_guides.restore_two_from_meta, two / "model.ckpt") == tf1_guides.TWO


def test_the_two_variables_are_adopted_as_they_were_saved(yard: Shipyard, two: Path) -> None:
    shipped = yard.ship(two, "two", given={"outputs": ["v1=v1:0", "v2=v2:0"]}, until="restore_verify")
    assert {name: value.tolist() for name, value in shipped.baseline.items()} == {
        f"serving_default/{name}": value for name, value in tf1_guides.TWO.items()
    }


@pytest.mark.parametrize("resources", [False, True], ids=["reference", "resource"])
def test_variables_alone_are_proposed_and_shipped_by_their_names(
    yard: Shipyard, tmp_path: Path, resources: bool
) -> None:
    isolate.call(tf1_guides.save_initialised_variables, tmp_path, resources)
    asked = yard.refused(tmp_path)
    assert isinstance(asked, UsageError) and asked.proposal is not None
    read = "Read/ReadVariableOp:0" if resources else "read:0"
    assert [one.tensor for one in asked.proposal.outputs] == [f"w1/{read}", f"w2/{read}"], "and no initial value"
    assert asked.options == f"--output w1/{read}"
    shipped = yard.ship(tmp_path, f"variables-{resources}", given={"outputs": ["w1", "second=w2:0"]})
    assert shipped.promoted.is_dir()
    assert [row for row in shipped.summary.parity if row.passed is False] == []
    shapes = {name: value.shape for name, value in shipped.baseline.items()}
    assert set(shapes.values()) == {(2,), (5,)} and "serving_default/second" in shapes


def test_operations_are_listed_after_an_import(doubled: Path) -> None:
    listed = isolate.call(tf1_guides.operations_after_import, doubled / "my_test_model-1000.meta")
    assert {"w1", "w2", "bias", "op_to_restore", "save/restore_all"} <= set(listed)
    assert set(isolate.call(tf1_guides.operations_we_read, doubled / "my_test_model-1000.meta")) <= set(listed)


def test_latest_checkpoint_is_what_detect_takes(doubled: Path) -> None:
    latest = isolate.call(tf1_guides.latest_checkpoint, doubled)
    assert detect(doubled).path == Path(latest) == doubled / "my_test_model-1000"


def test_the_global_step_is_a_suffix_and_the_step_of_the_run(yard: Shipyard, doubled: Path) -> None:
    assert checkpoint_files.step_of(detect(doubled).path) == 1000
    given = {"inputs": ["w1", "w2"], "outputs": ["op_to_restore"]}
    shipped = yard.ship(doubled, "doubled", given=given, until="checkpoint")
    assert (shipped.artifact("checkpoint") / "model.ckpt-1000.index").exists()


def test_max_to_keep_with_one_meta_graph_for_all(yard: Shipyard, tmp_path: Path) -> None:
    """`write_meta_graph=False` after the first: its `.meta` goes with its checkpoint unless somebody keeps it."""
    isolate.call(tf1_guides.save_often, tmp_path, 4, {"max_to_keep": 2})
    assert saved_steps(tmp_path) == [20, 30]
    assert [path.name for path in tmp_path.glob("*.meta")] == []
    error = yard.refused(tmp_path / "model.ckpt-30", given={"outputs": ["v"]})
    assert isinstance(error, UsageError)
    assert "--graph FILE" in error.remedy
    given = {"outputs": ["v=v:0"], "graph": tmp_path / "kept" / "model.ckpt-0.meta"}
    for step in (20, 30):
        shipped = yard.ship(tmp_path, "kept", given=given, until="adopt", selection={"which": step})
        assert shipped.baseline["serving_default/v"].tolist() == step
        assert shipped.adopted.chosen == f"step {step}, as requested"


def test_keep_checkpoint_every_n_hours(tmp_path: Path) -> None:
    isolate.call(tf1_guides.save_often, tmp_path, 4, {"max_to_keep": 1, "keep_checkpoint_every_n_hours": 1e-9})
    assert saved_steps(tmp_path) == [0, 10, 20, 30]
    assert detect(tmp_path).path.name == "model.ckpt-30"
    assert detect(tmp_path, 10).path.name == "model.ckpt-10"


@pytest.mark.parametrize("kind", ["list", "dictionary"])
def test_var_list_restores_what_it_names_and_only_that_is_shipped(yard: Shipyard, tmp_path: Path, kind: str) -> None:
    """Of `v1` and `v2` only `v2` is saved, as a list by its own name, as a dictionary under another key."""
    isolate.call(tf1_guides.save_a_part, tmp_path, kind)
    key = "v2" if kind == "list" else "theirs/v2"
    assert [fact.name for fact in isolate.call(saver.tensor_table, tmp_path / "model.ckpt")] == [key]
    shipped = yard.ship(tmp_path, f"part-{kind}", given={"outputs": ["v2=v2:0"]}, until="restore_verify")
    assert shipped.baseline["serving_default/v2"].tolist() == tf1_guides.TWO["v2"]
    error = yard.refused(tmp_path, given={"outputs": ["v1=v1:0"]})
    assert "variable v1, which the outputs need" in str(error)


def test_one_tensor_or_all_are_inspected(two: Path) -> None:
    theirs = isolate.call(tf1_guides.print_tensors, two / "model.ckpt", "v1")
    assert "v1" in theirs and "v2" not in theirs
    ours = {fact.name: (fact.dtype, fact.shape) for fact in isolate.call(saver.tensor_table, two / "model.ckpt")}
    assert ours == {"v1": ("float32", (3,)), "v2": ("float32", (5,))}
    assert all(name in isolate.call(tf1_guides.print_tensors, two / "model.ckpt", "") for name in ours)


def test_collections_are_read_back(yard: Shipyard, doubled: Path) -> None:
    """What was added to a collection is there after a restore, and in the `.meta` that we pin."""
    assert isolate.call(tf1_guides.collection, doubled / "my_test_model-1000.meta", "rate") == ["0.125"]
    given = {"inputs": ["w1", "w2"], "outputs": ["op_to_restore"]}
    shipped = yard.ship(doubled, "doubled", given=given, until="checkpoint")
    pinned = shipped.artifact("checkpoint") / "model.ckpt-1000.meta"
    assert isolate.call(tf1_guides.collection, pinned, "rate") == ["0.125"]


def test_as_graph_def_and_import_graph_def(yard: Shipyard, tmp_path: Path) -> None:
    expected = isolate.call(tf1_guides.write_graph_def, tmp_path / "graph.pb")
    given = {"inputs": ["x=x:0"], "outputs": ["y=y:0"]}
    shipped = yard.ship(
        tmp_path / "graph.pb", "graph-def", given=given, probe={"file": tmp_path / "x.npy"}, until="adopt"
    )
    assert shipped.baseline["serving_default/y"].tolist() == expected


def test_inference_in_the_four_ways_is_equal(yard: Shipyard, doubled: Path, tmp_path: Path) -> None:
    """On a restored session, on a written `.pb`, on a converted checkpoint, on a SavedModel: each by TensorFlow, then by us."""
    prefix = doubled / "my_test_model-1000"
    np.savez(tmp_path / "probe.npz", w1=tf1_guides.W1, w2=tf1_guides.W2)
    session = isolate.call(tf1_guides.on_a_restored_session, prefix)
    written = isolate.call(tf1_guides.on_a_written_pb, prefix, tmp_path / "written.pb")
    converted = isolate.call(tf1_guides.on_a_converted_checkpoint, prefix, tmp_path / "converted")
    saved = isolate.call(tf1_guides.on_a_saved_model, prefix, tmp_path / "saved")
    assert session == written == converted == saved == ((tf1_guides.W1 + tf1_guides.W2) * 2).tolist()
    given = {"inputs": ["w1=w1:0", "w2=w2:0"], "outputs": ["op_to_restore=op_to_restore:0"]}
    places = {
        prefix: given,
        tmp_path / "written.pb": given,
        tmp_path / "converted" / "model.ckpt": given,
        tmp_path / "saved": {},
    }
    for number, (place, said) in enumerate(places.items()):
        shipped = yard.ship(place, f"four-{number}", given=said, probe={"file": tmp_path / "probe.npz"}, until="adopt")
        assert shipped.baseline["serving_default/op_to_restore"].tolist() == session


def saved_steps(folder: Path) -> list[int]:
    return sorted(checkpoint_files.step_of(path.with_suffix("")) or 0 for path in folder.glob("model.ckpt-*.index"))
