"""Broken, hostile or foreign files are each refused with an error of their own, before anything in them is executed."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks import isolate
from tasks.adoption import adopt as adoption
from tasks.errors import (
    ChildFailed,
    CoverageError,
    DamagedError,
    ImpureError,
    PipelineError,
    UnsafeGraph,
    UnsupportedGraph,
    UsageError,
)
from tasks.forms.detect import detect
from tasks.isolate import Limits
from tasks.records.adoption import ModelOptions, ProbeSource
from tasks.records.settings import SessionOptions
from tests.adoption.pipeline import Shipyard
from tests.forms import object_calls
from tests.makers import hostile_models, keras_3_models, one_network_in_every_form, saved_model_faults

NAMED = ModelOptions(inputs=("x=net/x:0",), outputs=("y=net/y:0",))
XY = ModelOptions(inputs=("x",), outputs=("y",))


def adopt(path: Path, given: ModelOptions, out: Path) -> None:
    """What the step does, without its store."""
    out.mkdir()
    isolate.call(adoption.adopt, detect(path), given, ProbeSource(rows=3), SessionOptions(), None, out)


def refusal(path: Path, given: ModelOptions, out: Path, **limits: Any) -> PipelineError:
    with isolate.limits(Limits(**{"seconds": 60.0, "memory": 3 * 2**30, **limits})), pytest.raises(PipelineError) as at:
        adopt(path, given, out)
    said = str(at.value)
    assert "Traceback" not in said
    assert "expected no error" not in said, f"an exception that nobody foresaw: {said}"
    assert "Graph execution error" not in said
    return at.value


@pytest.fixture
def copy(yard: Shipyard, tmp_path: Path) -> Callable[[Callable[[Path], None]], Path]:
    """A copy of what a way has written, to be spoiled."""

    def copied(way: Callable[[Path], None]) -> Path:
        shutil.copytree(yard.written(way), tmp_path / way.__name__, dirs_exist_ok=True)
        return tmp_path / way.__name__

    return copied


Copy = Callable[[Callable[[Path], None]], Path]
V2 = ("model.ckpt-7.index", "model.ckpt-7.data-00000-of-00001", "model.ckpt-7.meta")
FILES = {
    **{name: (one_network_in_every_form.saver_v2, name, "") for name in V2},
    "V1": (one_network_in_every_form.saver_v1, "model.ckpt-7", ""),
    "frozen.pb": (one_network_in_every_form.frozen, "frozen.pb", "frozen.pb"),
    "frozen.pbtxt": (one_network_in_every_form.frozen, "frozen.pbtxt", "frozen.pbtxt"),
    "saved_model.pb": (one_network_in_every_form.simple_save, "model/saved_model.pb", "model"),
    "variables.index": (one_network_in_every_form.simple_save, "model/variables/variables.index", "model"),
    "variables.data": (one_network_in_every_form.simple_save, "model/variables/variables.data-00000-of-00001", "model"),
    "model.keras": (one_network_in_every_form.keras_archive, "model.keras", "model.keras"),
    "model.h5": (one_network_in_every_form.keras_hdf5, "model.h5", "model.h5"),
}


@pytest.mark.parametrize("kept", [0.0, 0.6], ids=["empty", "truncated"])
@pytest.mark.parametrize("name", FILES)
def test_an_empty_or_truncated_file_is_damage_and_is_named(copy: Copy, tmp_path: Path, name: str, kept: float) -> None:
    way, file, path = FILES[name]
    folder = copy(way)
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[: int(kept * len(content))])
    error = refusal(
        folder / path, ModelOptions() if path in ("model", "model.keras", "model.h5") else NAMED, tmp_path / "out"
    )
    assert isinstance(error, DamagedError), error
    assert Path(file).name.split(".data")[0].split(".index")[0] in str(error)


def test_nothing_at_a_path_lists_what_is_beside_it(copy: Copy) -> None:
    with pytest.raises(UsageError, match=r"frozen\.pb, frozen\.pbtxt"):
        detect(copy(one_network_in_every_form.frozen) / "frozen.bp")


def test_an_index_of_another_model_is_refused(copy: Copy, tmp_path: Path) -> None:
    """The swap that file sizes do not give away: every checksum of the index is of other data."""
    folder = copy(one_network_in_every_form.saver_v2)
    (tmp_path / "other").mkdir()
    isolate.call(hostile_models.other_graph, tmp_path / "other")
    shutil.copyfile(tmp_path / "other" / V2[0], folder / V2[0])
    error = refusal(folder, NAMED, tmp_path / "out")
    assert isinstance(error, CoverageError | DamagedError)
    assert "net/" in str(error) or "model.ckpt-7" in str(error)


def test_data_of_another_checkpoint_of_the_same_model_is_damage(copy: Copy, tmp_path: Path) -> None:
    folder = copy(one_network_in_every_form.saver_v2)
    content = bytearray((folder / V2[1]).read_bytes())
    (folder / V2[1]).write_bytes(bytes(reversed(content)))
    assert isinstance(refusal(folder, NAMED, tmp_path / "out"), DamagedError)


@pytest.mark.parametrize("shard", [0, 1])
@pytest.mark.parametrize(
    ("way", "pattern"), [(one_network_in_every_form.saver_v2_two_shards, "*.data-0000{}-of-00002"), (one_network_in_every_form.saver_v1_two_shards, "*-0000{}-of-00002")]
)  # fmt: skip
def test_a_missing_shard_is_named_before_tensorflow_is_asked(
    copy: Copy, way: Callable[[Path], None], pattern: str, shard: int
) -> None:
    folder = copy(way)
    (gone,) = folder.glob(pattern.format(shard))
    gone.unlink()
    with pytest.raises(DamagedError, match=gone.name):
        detect(folder)


@pytest.mark.parametrize("place", [10, -60])
def test_a_corrupt_index_is_damage(copy: Copy, tmp_path: Path, place: int) -> None:
    folder = copy(one_network_in_every_form.saver_v2)
    content = bytearray((folder / V2[0]).read_bytes())
    content[place] ^= 0xFF
    (folder / V2[0]).write_bytes(content)
    assert isinstance(refusal(folder, NAMED, tmp_path / "out"), DamagedError)


def test_a_checkpoint_file_of_another_machine_is_a_hint(copy: Copy) -> None:
    folder = copy(one_network_in_every_form.saver_v2)
    (folder / "checkpoint").write_text('model_checkpoint_path: "/home/else/run/model.ckpt-7"\n')
    found = detect(folder)
    assert found.path == folder / "model.ckpt-7"
    assert "/home/else/run/model.ckpt-7" in " ".join(found.notes)


def test_a_checkpoint_file_that_names_a_deleted_step_says_so_and_what_was_taken(copy: Copy) -> None:
    folder = copy(one_network_in_every_form.saver_v2)
    (folder / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-9"\n')
    found = detect(folder)
    assert "model.ckpt-7" in found.chosen
    assert "model.ckpt-9, which is not there" in " ".join(found.notes)


def test_a_checkpoint_file_alone_names_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/Users/me/model.ckpt-12"\n')
    with pytest.raises(DamagedError, match=r"/Users/me/model\.ckpt-12"):
        detect(tmp_path)


def test_v1_and_v2_under_one_prefix_are_asked_about(copy: Copy) -> None:
    folder = copy(one_network_in_every_form.saver_v2)
    shutil.copyfile(copy(one_network_in_every_form.saver_v1) / "model.ckpt-7", folder / "model.ckpt-7")
    for path in (folder, folder / "model.ckpt-7"):
        with pytest.raises(UsageError, match=r"V1 .* and V2"):
            detect(path)


@pytest.mark.parametrize(
    ("kind", "error_class", "words"),
    [
        ("duplicate nodes", DamagedError, "2 nodes named 'y'"),
        ("unknown op", UnsupportedGraph, "the unknown op SentencepieceTokenizeOp"),
        ("no kernel", UnsupportedGraph, "CudnnRNN"),
    ],
)
def test_a_graph_that_cannot_be_run_here(
    tmp_path: Path, kind: str, error_class: type[PipelineError], words: str
) -> None:
    isolate.call(hostile_models.odd, kind, tmp_path / "graph.pb")
    error = refusal(tmp_path / "graph.pb", XY, tmp_path / "out")
    assert type(error) is error_class
    assert words in str(error)


def test_an_unknown_python_class_is_an_error_of_its_own(tmp_path: Path) -> None:
    isolate.call(object_calls.save_custom, tmp_path / "model.keras")
    error = refusal(tmp_path / "model.keras", ModelOptions(), tmp_path / "out")
    assert type(error) is UnsupportedGraph
    assert "Python class unknown" in str(error)


def test_a_saved_model_without_a_meta_graph(tmp_path: Path) -> None:
    isolate.call(hostile_models.no_meta_graphs, tmp_path / "model")
    error = refusal(tmp_path / "model", ModelOptions(), tmp_path / "out")
    assert isinstance(error, DamagedError)
    assert "0 MetaGraphDefs" in str(error)


@pytest.mark.parametrize(
    ("way", "file"),
    [(one_network_in_every_form.frozen, "frozen.pb"), (one_network_in_every_form.simple_save, "model/saved_model.pb")],
)
def test_a_graph_of_more_than_2_gib_is_not_read(copy: Copy, way: Callable[[Path], None], file: str) -> None:
    path = copy(way) / file
    with path.open("ab") as stream:
        stream.truncate(2**31 + 5)  # sparse
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DamagedError, match=r"2\.0 GiB"):
        detect(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20, "KiB"


def test_a_meta_of_more_than_2_gib_is_not_read(copy: Copy, tmp_path: Path) -> None:
    folder = copy(one_network_in_every_form.saver_v2)
    with (folder / V2[2]).open("ab") as stream:
        stream.truncate(2**31 + 5)
    error = refusal(folder, NAMED, tmp_path / "out")
    assert isinstance(error, DamagedError)
    assert "2.0 GiB" in str(error)


@pytest.mark.parametrize(
    ("way", "file"),
    [
        (one_network_in_every_form.saver_v2, V2[1]),
        (one_network_in_every_form.saver_v2, V2[2]),
        (one_network_in_every_form.simple_save, "model/variables/variables.data-00000-of-00001"),
        (one_network_in_every_form.frozen, "frozen.pb"),
        (one_network_in_every_form.module_with_a_table, "model/assets/words.txt"),
    ],
)
def test_a_link_out_of_the_models_folder_is_not_followed(
    copy: Copy, tmp_path: Path, way: Callable[[Path], None], file: str
) -> None:
    path = copy(way) / file
    moved = tmp_path / "elsewhere.bin"
    path.rename(moved)
    path.symlink_to(moved)
    with pytest.raises(UnsafeGraph, match=r"a link to .*elsewhere\.bin"):
        detect(path.parents[len(Path(file).parts) - 1] / Path(file).parts[0] if "/" in file else path)


def test_a_folder_in_the_model_that_links_out_of_it_is_not_followed(copy: Copy, tmp_path: Path) -> None:
    variables = copy(one_network_in_every_form.simple_save) / "model" / "variables"
    variables.rename(tmp_path / "elsewhere")
    variables.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeGraph, match="elsewhere"):
        detect(variables.parent)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ("saved_model.pb", "saved_model.pb: expected the file that was saved"),
        ("variables", "variables.index: expected the file that was saved"),
        ("fingerprint.pb", "expected a fingerprint"),
    ],
)
def test_a_saved_model_that_its_fingerprint_does_not_fit_is_damage(
    copy: Copy, tmp_path: Path, changed: str, words: str
) -> None:
    model = copy(one_network_in_every_form.module_with_a_table) / "model"
    if changed == "saved_model.pb":
        isolate.call(saved_model_faults.nodes_in_other_order, model)  # which computes the same, and is another file
    elif changed == "variables":
        other = copy(one_network_in_every_form.keras_export) / "model"
        shutil.copytree(other / "variables", model / "variables", dirs_exist_ok=True)
    else:
        (model / changed).write_bytes((model / changed).read_bytes()[:3])
    error = refusal(model, ModelOptions(), tmp_path / "out")
    assert isinstance(error, DamagedError) and words in str(error) and "delete its fingerprint.pb" in error.remedy


def test_a_saved_model_that_was_changed_on_purpose_is_taken_without_its_fingerprint(copy: Copy, tmp_path: Path) -> None:
    model = copy(one_network_in_every_form.module_with_a_table) / "model"
    isolate.call(saved_model_faults.nodes_in_other_order, model)
    (model / "fingerprint.pb").unlink()
    adopt(model, ModelOptions(), tmp_path / "out")


def test_a_keras_3_model_that_tensorflow_saved_is_told_how_to_be_exported(tmp_path: Path) -> None:
    isolate.call(keras_3_models.saved_by_tensorflow, tmp_path / "model")
    error = refusal(tmp_path / "model", ModelOptions(), tmp_path / "out")
    assert isinstance(error, CoverageError) and error.where.startswith("model: variable ")
    assert "model.export(folder)" in error.remedy and "var_list" not in error.remedy


def test_a_model_that_keeps_state_between_calls_is_told_so(tmp_path: Path) -> None:
    isolate.call(keras_3_models.with_state, tmp_path / "model.keras")
    error = refusal(tmp_path / "model.keras", ModelOptions(), tmp_path / "out")
    assert isinstance(error, ImpureError) and "state that requests change, by " in error.found
    assert "stateful=False" in error.remedy and "dropout" not in error.remedy


@pytest.mark.parametrize(
    "kind",
    [
        *("WriteFile", "ReadFile", "PyFunc", "EagerPyFunc"),
        *("WriteFile in a function", "WriteFile in a carried graph"),
    ],
)
@pytest.mark.parametrize("wrapped", ["GraphDef", "MetaGraphDef", "SavedModel"])
def test_a_hostile_graph_is_refused_and_nothing_of_it_runs(tmp_path: Path, kind: str, wrapped: str) -> None:
    target = tmp_path / "target"
    path = tmp_path / "graph.pb"
    isolate.call(hostile_models.attack, kind, target, path)
    if wrapped != "GraphDef":
        path = Path(isolate.call(hostile_models.wrapped, path, wrapped))
    error = refusal(path, XY, tmp_path / "out")
    assert isinstance(error, UnsafeGraph)
    assert kind.split(" ")[0] in str(error)
    assert "nothing of this graph was run" in error.remedy
    assert not target.exists()


def test_what_a_saved_models_loader_would_run_is_judged_too(tmp_path: Path) -> None:
    """A main op that writes, in a model whose outputs never reach it."""
    target = tmp_path / "target"
    isolate.call(hostile_models.attack, "WriteFile", target, tmp_path / "graph.pb")
    path = Path(isolate.call(hostile_models.wrapped, tmp_path / "graph.pb", "main op"))
    error = refusal(path, ModelOptions(), tmp_path / "out")
    assert isinstance(error, UnsafeGraph)
    assert not target.exists()


@pytest.mark.parametrize("form", ["MetaGraphDef", "SavedModel"])
def test_a_model_that_restores_another_checkpoint_than_its_own_is_refused(tmp_path: Path, form: str) -> None:
    """It would be served with that one's values, while its own are what is inspected."""
    (tmp_path / "other").mkdir()
    folder = tmp_path / "model"
    isolate.call(hostile_models.restoring_another, form, tmp_path / "other" / "model.ckpt", folder)
    error = refusal(folder, ModelOptions() if form == "SavedModel" else XY, tmp_path / "out")
    assert isinstance(error, UnsafeGraph)
    assert "RestoreV2" in error.where and "reads a file of this machine" in error.found
    assert "the model's own checkpoint" in error.expected


@pytest.mark.parametrize("there", ["/etc/passwd", "elsewhere"])
def test_a_table_that_reads_a_file_outside_the_models_folder_is_refused(tmp_path: Path, there: str) -> None:
    """Or the file would be shipped as an asset: whoever writes a model could have any file of its reader published."""
    secret = tmp_path / "secret.txt" if there == "elsewhere" else Path(there)
    if there == "elsewhere":
        secret.write_text("a secret\n")
    folder = tmp_path / "model"
    folder.mkdir()
    isolate.call(hostile_models.table_of, secret, folder)
    error = refusal(folder, XY, tmp_path / "out")
    assert isinstance(error, UnsafeGraph | DamagedError)
    assert str(secret) in str(error)
    assert not list((tmp_path / "out").rglob("*passwd*")) + list((tmp_path / "out").rglob("secret*"))


@pytest.mark.parametrize("named", ["/etc/passwd", "../../../../../../../../etc/passwd", "elsewhere"])
def test_an_asset_entry_that_leads_out_of_a_saved_model_is_refused(tmp_path: Path, named: str) -> None:
    (tmp_path / "words.txt").write_text("a\nb\n")
    secret = tmp_path / "secret.txt"
    secret.write_text("c\nd\n")
    folder = tmp_path / "model"
    pointed = secret if named == "elsewhere" else Path(named)
    isolate.call(hostile_models.saved_table_of, tmp_path / "words.txt", pointed, folder)
    (tmp_path / "words.txt").unlink()
    error = refusal(folder, ModelOptions(), tmp_path / "out")
    assert isinstance(error, UnsafeGraph | DamagedError)
    assert not list((tmp_path / "out").rglob("*passwd*")) + list((tmp_path / "out").rglob("secret*"))


@pytest.mark.parametrize(
    "kind",
    [
        "a Const of a negative shape",
        "a Const of a huge shape",
        "a Const whose shape overflows",
        "a Const with more bytes than shape",
        "a Fill of a tebibyte",
    ],
)
def test_an_op_that_wants_the_impossible_ends_in_a_message(tmp_path: Path, kind: str) -> None:
    isolate.call(hostile_models.bomb, kind, tmp_path / "graph.pb")
    error = refusal(tmp_path / "graph.pb", XY, tmp_path / "out", seconds=6.0, memory=2 * 2**30)
    assert isinstance(error, PipelineError)


def test_a_graph_that_never_ends_meets_its_deadline(tmp_path: Path) -> None:
    isolate.call(hostile_models.bomb, "a loop without end", tmp_path / "graph.pb")
    error = refusal(tmp_path / "graph.pb", XY, tmp_path / "out", seconds=4.0)
    assert isinstance(error, ChildFailed)
    assert "within 4 s" in str(error)


@pytest.mark.parametrize("text", [b"# " * 60 + b"x", b"#\n" * 2000 + b"x", b" " * 4096], ids=["one", "many", "blank"])
def test_comments_without_a_graph_after_them_are_judged_at_once(tmp_path: Path, text: bytes) -> None:
    """In a child, for the test's sake alone: a pattern that tries every way to read them ends on no day of this year."""
    (tmp_path / "graph.pbtxt").write_bytes(text)
    with isolate.limits(Limits(seconds=60.0)), pytest.raises(DamagedError, match=r"graph\.pbtxt"):
        isolate.call(detect, tmp_path / "graph.pbtxt")


@pytest.mark.parametrize("depth", [0, 40, 3000], ids=["calls itself", "doubles 40 times", "3000 deep"])
def test_functions_that_call_each_other_without_end_end_in_a_message(tmp_path: Path, depth: int) -> None:
    isolate.call(hostile_models.recursion, depth, tmp_path / "graph.pb")
    error = refusal(tmp_path / "graph.pb", XY, tmp_path / "out", seconds=4.0, memory=2 * 2**30)
    assert isinstance(error, PipelineError)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_cannot_be_read_is_the_environments_fault(copy: Copy) -> None:
    path = copy(one_network_in_every_form.frozen) / "frozen.pb"
    path.chmod(0)
    with pytest.raises(PipelineError, match="permission"):
        detect(path)
