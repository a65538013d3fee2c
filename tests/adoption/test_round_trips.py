"""Every form that TensorFlow ever had: written by its own API, adopted, verified, frozen, exported, smoke-tested, promoted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import isolate
from tasks.errors import CoverageError, UsageError
from tasks.records.forms import Form
from tests.adoption.answers import answers_in, answers_of_saved_model
from tests.adoption.pipeline import Shipped, Shipyard, require_shipped
from tests.makers import one_network_in_every_form

NAMED = {"inputs": ["x=net/x:0"], "outputs": ["y=net/y:0"]}


@dataclass(frozen=True)
class Row:
    """A row of the table of forms: who wrote it, what is given as PATH, what the user says, which form it is."""

    written_by: Callable[[Path], None]
    path: str
    form: Form
    given: dict[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()  # options that name a file of the written folder
    variables: bool = True
    said: dict[str, str] = field(default_factory=dict)  # what is not made, and why


V2, V1 = Form.SAVER_V2, Form.SAVER_V1
ROWS = {
    "saver v2": Row(one_network_in_every_form.saver_v2, "", V2, NAMED),
    "saver v2, resource variables": Row(one_network_in_every_form.saver_v2_resource_variables, "", V2, NAMED),
    "saver v2, two shards": Row(one_network_in_every_form.saver_v2_two_shards, "", V2, NAMED),
    "saver v2, partitioned": Row(one_network_in_every_form.saver_v2_partitioned, "", V2, NAMED),
    "saver v2, partitioned resources": Row(
        one_network_in_every_form.saver_v2_partitioned_resource_variables, "", V2, NAMED
    ),
    "saver v1": Row(one_network_in_every_form.saver_v1, "", V1, NAMED),
    "saver v1, two shards": Row(one_network_in_every_form.saver_v1_two_shards, "", V1, NAMED),
    "saver of tensorflow 0.10": Row(one_network_in_every_form.saver_v1_of_tensorflow_before_0_11, "", V1, NAMED),
    "moving averages": Row(one_network_in_every_form.moving_averages, "", V2, NAMED),
    "no .meta, --graph .pb": Row(
        one_network_in_every_form.without_meta, "model.ckpt-7", V2, {**NAMED, "graph": "graph.pb"}, ("graph",)
    ),
    "no .meta, --graph .pbtxt": Row(
        one_network_in_every_form.without_meta, "model.ckpt-7", V2, {**NAMED, "graph": "graph.pbtxt"}, ("graph",)
    ),
    "no .meta, --model": Row(one_network_in_every_form.without_meta, "model.ckpt-7", V2, {"model": "mine:Mine"}),
    "no .meta, --graph, --var-map": Row(
        one_network_in_every_form.without_meta_under_other_names,
        "model.ckpt-7",
        V2,
        {**NAMED, "graph": "graph.pb", "var_map": "map.yaml"},
        ("graph", "var_map"),
    ),
    "frozen .pb": Row(one_network_in_every_form.frozen, "frozen.pb", Form.GRAPH_DEF, NAMED, variables=False),
    "frozen .pbtxt": Row(one_network_in_every_form.frozen, "frozen.pbtxt", Form.GRAPH_DEF, NAMED, variables=False),
    "simple_save": Row(one_network_in_every_form.simple_save, "model", Form.SAVED_MODEL),
    "builder, tags serve": Row(one_network_in_every_form.built_with_tag_sets, "model", Form.SAVED_MODEL),
    "builder, tags serve,gpu": Row(
        one_network_in_every_form.built_with_tag_sets, "model", Form.SAVED_MODEL, {"tags": ["serve", "gpu"]}
    ),
    "tf.Module with a table": Row(
        one_network_in_every_form.module_with_a_table,
        "model",
        Form.SAVED_MODEL,
        said={"frozen_graph": "not made: the graph keeps state that cannot be folded, Gather (ResourceGather)"},
    ),
    "keras .export": Row(
        one_network_in_every_form.keras_export, "model", Form.SAVED_MODEL, {"signature": "serving_default"}
    ),
    "keras .keras": Row(one_network_in_every_form.keras_archive, "model.keras", Form.KERAS),
    "keras 2 .h5": Row(one_network_in_every_form.keras_2_hdf5, "model.h5", Form.HDF5),
    "keras .h5": Row(one_network_in_every_form.keras_hdf5, "model.h5", Form.HDF5),
    "keras weights, --model": Row(
        one_network_in_every_form.keras_weights, "model.weights.h5", Form.HDF5, {"model": "mine:Network"}
    ),
    "keras .keras, --model": Row(
        one_network_in_every_form.keras_archive_of_own_code, "model.keras", Form.KERAS, {"model": "mine:Doubled"}
    ),
    "keras .h5, inputs by key": Row(one_network_in_every_form.keras_hdf5_by_key, "model.h5", Form.HDF5),
    "object checkpoint, --model": Row(
        one_network_in_every_form.object_checkpoint, "", Form.OBJECT_CHECKPOINT, {"model": "mine:Mine"}
    ),
}


@pytest.fixture
def shipped(yard: Shipyard, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Shipped:
    name: str = request.param
    row = ROWS[name]
    written = yard.written(row.written_by)
    monkeypatch.chdir(written)  # where --model finds its module
    given = {key: written / value if key in row.files else value for key, value in row.given.items()}
    served = f"way-{list(ROWS).index(name)}"
    return yard.shipped(served, written / row.path, given=given, probe={"file": written / "probe.npz"})


def written_for(yard: Shipyard, name: str) -> Path:
    return yard.written(ROWS[name].written_by)


@pytest.mark.sweep
@pytest.mark.parametrize(("shipped", "name"), [(name, name) for name in ROWS], ids=list(ROWS), indirect=["shipped"])
def test_it_ships_with_every_comparison_made_and_answers_as_the_session_that_wrote_it(
    shipped: Shipped, name: str, yard: Shipyard, tmp_path: Path
) -> None:
    row, written = ROWS[name], written_for(yard, name)
    require_shipped(shipped, **row.said)
    assert shipped.adopted.form is row.form
    assert bool(shipped.names.needed) is row.variables
    expected = _renamed(answers_in(written), shipped)
    assert shipped.baseline.keys() == expected.keys()
    for output, array in expected.items():
        np.testing.assert_allclose(shipped.baseline[output], array, rtol=1e-6, atol=1e-6, err_msg=output)
    isolate.call(answers_of_saved_model, shipped.promoted, _probe_for(shipped, written, tmp_path), tmp_path)
    answers = answers_in(tmp_path)
    for output, array in expected.items():
        np.testing.assert_allclose(answers[output], array, rtol=1e-5, atol=1e-5, err_msg=output)


def _renamed(expected: dict[str, Any], shipped: Shipped) -> dict[str, Any]:
    """Where the only output goes by another name than when it was written, its answer goes by that name."""
    keys = [f"{one.key}/{output}" for one in shipped.names.signatures for output in one.outputs]
    return dict(zip(keys, expected.values(), strict=True)) if len(keys) == len(expected) == 1 else expected


def _probe_for(shipped: Shipped, written: Path, out: Path) -> Path:
    """The folder that holds the probe under the promoted model's input names."""
    with np.load(written / "probe.npz") as held:
        given = {name: held[name] for name in held.files}
    names = [name for one in shipped.names.signatures for name in one.inputs]
    np.savez(out / "probe.npz", **(dict(zip(names, given.values(), strict=True)) if len(given) == 1 else given))
    return out


@pytest.mark.parametrize("spelled", ["model.ckpt-7", "model.ckpt-7.meta", "model.ckpt-7.index", "checkpoint"])
def test_a_checkpoint_is_the_same_by_its_folder_its_prefix_or_one_of_its_files(yard: Shipyard, spelled: str) -> None:
    written = yard.written(one_network_in_every_form.saver_v2)
    shipped = yard.shipped("way-0", written, given=NAMED, probe={"file": written / "probe.npz"})
    again = yard.ship(written / spelled, "way-0", given=NAMED, probe={"file": written / "probe.npz"})
    assert again.steps["adopt"].digest == shipped.steps["adopt"].digest
    assert {again.steps[name].state for name in ("adopt", "export", "smoke_test")} == {"cached"}
    assert again.steps["promote"].state == "unchanged"


def test_what_a_run_writes_is_adopted_again_and_answers_the_same(yard: Shipyard) -> None:
    """The other direction of the table: SavedModel, frozen graph, and on request checkpoints of either version."""
    written = yard.written(one_network_in_every_form.saver_v2)
    probe = {"file": written / "probe.npz"}
    first = yard.ship(written, "out", given=NAMED, probe=probe, also=["saver_v1", "saver_v2"])
    made = first.artifact("convert")
    outs = {
        Form.SAVED_MODEL: first.promoted,
        Form.GRAPH_DEF: first.artifact("freeze") / "frozen_graph.pb",
        V1: made / "saver_v1",
        V2: made / "saver_v2",
    }
    for form, path in outs.items():
        given = {} if form is Form.SAVED_MODEL else NAMED
        again = yard.ship(path, "again", given=given, probe=probe, until="adopt")
        assert again.adopted.form is form
        np.testing.assert_array_equal(again.baseline["serving_default/y"], first.baseline["serving_default/y"])


def test_a_keras_model_is_written_as_an_archive_again(yard: Shipyard) -> None:
    written = yard.written(one_network_in_every_form.keras_hdf5)
    probe = {"file": written / "probe.npz"}
    first = yard.ship(written / "model.h5", "out-keras", probe=probe, also=["keras"])
    again = yard.ship(first.artifact("convert") / "keras", "again-keras", probe=probe, until="adopt")
    assert again.adopted.form is Form.KERAS
    ours, theirs = (run.baseline["serving_default/y"] for run in (again, first))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize(
    "way",
    [one_network_in_every_form.object_checkpoint, one_network_in_every_form.keras_weights],
    ids=lambda way: str(way.__name__),
)
def test_an_object_is_written_as_its_checkpoint_and_is_the_same_again(
    yard: Shipyard, way: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = yard.written(way)
    monkeypatch.chdir(written)  # where --model finds its module
    path, code = (
        (written, "mine:Mine")
        if way is one_network_in_every_form.object_checkpoint
        else (written / "model.weights.h5", "mine:Network")
    )
    settings: dict[str, Any] = {"given": {"model": code}, "probe": {"file": written / "probe.npz"}}
    first = yard.ship(path, "out-objects", also=["object_checkpoint"], **settings)
    again = yard.ship(first.artifact("convert") / "object_checkpoint", "again-objects", until="adopt", **settings)
    assert again.adopted.form is Form.OBJECT_CHECKPOINT
    np.testing.assert_array_equal(again.baseline["serving_default/y"], first.baseline["serving_default/y"])
    candidates = {row.candidate for row in first.summary.parity if row.passed}
    assert "object_checkpoint" in candidates


@pytest.mark.parametrize("name", ["graph.pb", "graph.pbtxt"])
def test_a_graph_that_is_not_frozen_has_no_values_and_says_so(yard: Shipyard, name: str) -> None:
    error = yard.refused(yard.written(one_network_in_every_form.without_meta) / name, given=NAMED)
    assert isinstance(error, CoverageError)
    assert error.expected == "values for 3 variables (net/b, net/out, net/w)"
    assert "--graph" in error.remedy


def test_a_meta_that_was_deleted_with_its_checkpoint_is_explained(yard: Shipyard, tmp_path: Path) -> None:
    written = yard.written(one_network_in_every_form.meta_deleted_with_the_first)
    assert not list(written.glob("*.meta"))
    for path in (written, written / "model.ckpt-3"):
        error = yard.refused(path, given=NAMED)
        assert (
            isinstance(error, UsageError) and "write_meta_graph=False" in error.found and "max_to_keep" in error.found
        )
        assert "export_meta_graph" in error.remedy and "--model" in error.remedy
    folder = Path(shutil.copytree(written, tmp_path / "folder"))
    one = yard.written(one_network_in_every_form.saver_v2)
    shutil.copyfile(one / "model.ckpt-7.meta", folder / "model.ckpt-7.meta")
    error = yard.refused(folder / "model.ckpt-3", given=NAMED)
    assert f"--graph {folder / 'model.ckpt-7.meta'}" in error.remedy
    probe = {"file": one / "probe.npz"}
    yard.ship(
        folder / "model.ckpt-3",
        "other-meta",
        given={**NAMED, "graph": folder / "model.ckpt-7.meta"},
        probe=probe,
        until="adopt",
    )


def test_a_meta_graph_alone_has_no_values_and_says_so(yard: Shipyard, tmp_path: Path) -> None:
    (tmp_path / "alone.meta").write_bytes(
        (yard.written(one_network_in_every_form.saver_v2) / "model.ckpt-7.meta").read_bytes()
    )
    error = yard.refused(tmp_path / "alone.meta", given=NAMED)
    assert isinstance(error, CoverageError)
    assert "values for 3 variables" in error.expected
