"""`inspect` lists everything and runs nothing; damage is reported next to what can still be listed."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks import isolate
from tasks.errors import PipelineError, UsageError
from tasks.inspection import inspect
from tasks.records.adoption import ModelOptions
from tasks.records.forms import Form
from tasks.records.inspection import Inspection
from tests.makers import inspected_files


def look(path: Path, *, read: bool = True, values: bool = False, step: int | None = None) -> Inspection:
    return isolate.call(inspect.inspect, path, ModelOptions(), step, read=read, values=values)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    isolate.call(inspected_files.checkpoint, folder / "model.ckpt")
    return folder


@pytest.fixture(scope="module")
def untouched(saved: Path) -> Inspection:
    return look(saved, values=True)


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copied"))


def test_a_checkpoint_is_told_in_full(saved: Path) -> None:
    found = look(saved, values=True)
    assert (found.form, found.whole, found.damage) == (Form.SAVER_V2, True, ())
    rows = {row.name: row for row in found.variables}
    assert {name: row.role for name, row in rows.items()} == {
        "global_step": "step",
        "odd": "model",
        "odd/Momentum": "optimizer",
        "w": "model",
        "w/Momentum": "optimizer",
    }
    assert (rows["w"].min, rows["w"].mean, rows["w"].max, rows["w"].bytes, rows["w"].shape) == (
        0.0,
        2.5,
        5.0,
        24,
        (3, 2),
    )
    assert (rows["odd"].min, rows["odd"].mean, rows["odd"].max, rows["odd"].nonfinite) == (1.0, 2.0, 3.0, 2)
    assert found.hyperparameters == {"batch_size": 32, "learning_rate": 0.1, "limit": "NaN"}
    assert found.collections["trainable_variables"] == ("w:0", "odd:0")
    assert found.ops is not None and found.ops.devices == ("/device:CPU:0",) and found.ops.unsafe == ()
    assert found.written_by.startswith("2.") and found.producer
    assert found.options == ("--input x:0", "--output y:0")
    assert found.reached_from == ("y:0",)


def test_quick_lists_and_does_not_read(saved: Path) -> None:
    found = look(saved, read=False)
    assert found.whole is None and len(found.variables) == 5 and found.variables[0].min is None


def test_v1_of_the_same(tmp_path: Path) -> None:
    isolate.call(inspected_files.checkpoint, tmp_path / "model.ckpt", 1)
    found = look(tmp_path)
    assert (found.form, found.whole, len(found.variables)) == (Form.SAVER_V1, True, 5)


def test_a_flipped_byte_in_a_shard_is_found_and_the_rest_is_listed(copied: Path) -> None:
    shard = next(copied.glob("*.data-*"))
    content = bytearray(shard.read_bytes())
    content[0] ^= 1
    shard.write_bytes(bytes(content))
    assert look(copied, read=False).whole is None
    found = look(copied)
    assert found.whole is False and len(found.variables) == 5 and found.proposal is not None
    assert len(found.damage) == 1 and "tensor" in found.damage[0]


@pytest.mark.parametrize("named", ("folder", "prefix", "index"))
def test_a_missing_shard_leaves_the_list(copied: Path, named: str) -> None:
    next(copied.glob("*.data-*")).unlink()
    path = {"folder": copied, "prefix": copied / "model.ckpt-7", "index": copied / "model.ckpt-7.index"}[named]
    found = look(path)
    assert found.whole is False and "data" in found.damage[0]
    assert [row.name for row in found.variables] == ["global_step", "odd", "odd/Momentum", "w", "w/Momentum"]
    assert found.options, "the graph is still there"


def test_a_cut_meta_is_damage_and_the_tensors_are_read(copied: Path) -> None:
    meta = next(copied.glob("*.meta"))
    meta.write_bytes(meta.read_bytes()[:-40])
    found = look(copied)
    assert found.whole is False and ".meta" in found.damage[0] and len(found.variables) == 5


def test_a_cut_index_is_damage(copied: Path) -> None:
    index = next(copied.glob("*.index"))
    index.write_bytes(index.read_bytes()[:-20])
    found = look(copied)
    assert found.whole is False and ".index" in found.damage[0]


def test_a_graph_without_values_says_what_it_needs(tmp_path: Path) -> None:
    isolate.call(inspected_files.graph_file, tmp_path / "graph.pb")
    found = look(tmp_path / "graph.pb")
    assert found.whole is True and "no values" in found.needs
    assert [(row.name, row.bytes) for row in found.variables] == [("w", None)]


def test_what_a_hostile_graph_would_do_is_told_and_not_done(tmp_path: Path) -> None:
    isolate.call(inspected_files.hostile, tmp_path / "graph.pb")
    found = look(tmp_path / "graph.pb")
    assert found.ops is not None and found.ops.unsafe == ("WriteFile (WriteFile)",)
    assert not (tmp_path / "executed").exists()


def test_one_node_twice_is_damage(tmp_path: Path) -> None:
    isolate.call(inspected_files.duplicates, tmp_path / "graph.pb")
    found = look(tmp_path / "graph.pb")
    assert found.whole is False and "2 nodes named 'x'" in found.damage[0]
    assert found.ops is not None and found.ops.counts == {"NoOp": 2}


@pytest.mark.parametrize("suffix", (".keras", ".h5"))
def test_a_keras_file_is_told_without_building_it(tmp_path: Path, suffix: str) -> None:
    isolate.call(inspected_files.keras_file, tmp_path / f"model{suffix}", with_lambda=True)
    found = look(tmp_path / f"model{suffix}", values=True)
    assert found.keras is not None and found.keras.model_class == "Sequential"
    assert found.keras.layers[-2:] == (("dense", "Dense"), ("twice", "Lambda"))
    assert found.keras.lambdas == ("twice",)
    assert any("will be refused" in note for note in found.notes)
    assert found.whole is True and any(row.shape == (3, 2) for row in found.variables)


def test_a_keras_archive_whose_checksum_fails_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    isolate.call(inspected_files.keras_file, path)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        at = archive.getinfo("model.weights.h5").header_offset + 2000
    content[at] ^= 0xFF
    path.write_bytes(bytes(content))
    assert look(path).whole is False


def test_a_saved_model_is_told_with_its_signature(tmp_path: Path) -> None:
    isolate.call(inspected_files.saved_model, tmp_path / "exported")
    found = look(tmp_path / "exported")
    assert (found.form, found.whole, found.options) == (Form.SAVED_MODEL, True, ())
    assert found.proposal is not None and [one.key for one in found.proposal.declared] == ["serving_default"]


def test_nothing_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        look(tmp_path / "nowhere")


FORMS = {
    "lenet-traffic": (Form.SAVER_V2, 32),
    "cartpole-pg/cart-pole-100th-episode": (Form.SAVER_V2, 14),
    "puzzle15/modeldir": (Form.SAVER_V2, 2),
    "threaded-lstm": (Form.SAVER_V2, 2),
    "v1-neo": (Form.SAVER_V1, 2),
    "iris-2shard": (Form.OBJECT_CHECKPOINT, 18),
    "java-graph": (Form.GRAPH_DEF, 2),
    "sm-rossman": (Form.SAVED_MODEL, None),
    "taxi-estimator/export/chicago-taxi/1646034756": (Form.SAVED_MODEL, 21),
    "frozen-charrnn": (Form.GRAPH_DEF, None),
}


@pytest.mark.parametrize("model", FORMS)
def test_models_from_the_wild_are_told(model: str, wild: Path) -> None:
    form, count = FORMS[model]
    found = look(wild / model, values=True)
    assert (found.form, found.whole, found.damage) == (form, True, ())
    assert found.variables and count in (None, len(found.variables))
    if model == "iris-2shard":
        assert "module:Model" in found.needs and found.proposal is None
    if model == "java-graph":
        assert "no values" in found.needs


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_ends_in_anything_but_an_answer_or_a_message(
    data: st.DataObject, saved: Path, untouched: Inspection, tmp_path: Path
) -> None:
    folder = tmp_path / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved, folder)
    victim = data.draw(st.sampled_from(sorted(path.name for path in folder.iterdir())))
    content = bytearray((folder / victim).read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    for position in data.draw(st.lists(st.integers(0, max(0, len(content) - 1)), max_size=4)):
        if content:
            content[position] ^= data.draw(st.integers(1, 255))
    (folder / victim).write_bytes(bytes(content))
    try:
        found = look(folder, values=True)
    except PipelineError as error:
        assert type(error).__name__ != "ChildFailed" or "SIG" in str(error), str(error)
        return
    if victim.endswith(".index") or ".data-" in victim:
        # TensorFlow never reads an index's metaindex block nor the padding of its footer: there a flip changes nothing.
        assert found.whole is False or found.variables == untouched.variables
