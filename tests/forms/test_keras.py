"""Keras files are refused before anything is built, reported as damaged, or answer as the saved model did."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks import isolate
from tasks.errors import (
    CoverageError,
    DamagedError,
    EnvironmentFailure,
    PipelineError,
    UnsafeGraph,
    UnsupportedGraph,
    UsageError,
)
from tasks.forms.keras import allowed_classes
from tests.forms import object_calls
from tests.makers import keras_2_models, keras_3_models


@pytest.mark.parametrize("name", ["cnn", "lstm", "text", "two"])
def test_the_exported_graph_answers_bit_for_bit_as_the_live_object(tmp_path: Path, name: str) -> None:
    found = isolate.call(object_calls.differences, name, tmp_path / "exported")
    assert found
    assert not any(found.values())


def test_variables_of_one_name_are_told_apart_in_an_export(tmp_path: Path) -> None:
    found = isolate.call(object_calls.operations_of_three_equal_layers, tmp_path / "exported")
    assert len(found) == 11
    assert all(found.values())


@pytest.mark.parametrize(
    ("name", "suffix"), [("cnn", "keras"), ("cnn", "h5"), ("lstm", "keras"), ("lstm", "h5"), ("text", "keras"), ("two", "keras")]
)  # fmt: skip
def test_a_file_answers_as_the_model_that_was_saved_whatever_it_is_called(
    tmp_path: Path, name: str, suffix: str
) -> None:
    written = tmp_path / f"model.{suffix}"
    isolate.call(object_calls.save, name, written)
    called = written.rename(tmp_path / "brought.bin")
    assert isolate.call(object_calls.answers_as_saved, name, called)
    isolate.call(object_calls.write_again, called, tmp_path / "again.keras")
    assert isolate.call(object_calls.answers_as_saved, name, tmp_path / "again.keras")


def test_inputs_and_outputs_have_keras_own_names(tmp_path: Path) -> None:
    isolate.call(object_calls.save, "two", tmp_path / "two.keras")
    found = isolate.call(object_calls.load, tmp_path / "two.keras")
    assert found == {"inputs": ["a", "b"], "outputs": ["difference", "sum"]}


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize("kind", ["by_key", "nested", "list_of_one"])
def test_inputs_are_taken_as_the_model_takes_them(tmp_path: Path, kind: str, suffix: str) -> None:
    """A dictionary's by their keys there, whatever the layers are called; any other's by their layers."""
    path = tmp_path / f"model.{suffix}"
    names = {"by_key": ["left", "right"], "nested": ["layer_a", "layer_b"], "list_of_one": ["layer_a"]}[kind]
    assert isolate.call(object_calls.taken_as_declared, kind, path) == names


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_lambda_anywhere_is_refused_with_the_layer_and_the_reason(tmp_path: Path, suffix: str, wrapped: bool) -> None:
    path = tmp_path / f"model.{suffix}"
    isolate.call(object_calls.save_lambda, path, wrapped)
    with pytest.raises(UnsafeGraph, match=r"plus_one.*a Lambda layer(.|\n)*Python code that the file brings along"):
        isolate.call(object_calls.load, path)


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_a_class_of_the_users_own_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model.{suffix}"
    isolate.call(object_calls.save_custom, path)
    with pytest.raises(UnsupportedGraph, match=r"twice.*Python class unknown: .*Doubling(.|\n)*--model module:Model"):
        isolate.call(object_calls.load, path)
    isolate.call(object_calls.coded, path)  # and that is so: nothing says that the code is of no use


@pytest.mark.parametrize(
    ("node", "error"),
    [
        ({"module": "os", "class_name": "system", "config": "id"}, UnsafeGraph),
        ({"module": "keras.utils", "class_name": "get_file", "config": {}}, UnsafeGraph),
        ({"module": "keras.src.utils.file_utils", "class_name": "get_file", "config": {}}, UnsafeGraph),
        ({"module": "builtins", "class_name": "eval", "config": "1"}, UnsafeGraph),
        ({"class_name": "__lambda__", "config": {"value": "x"}}, UnsafeGraph),
        ({"class_name": "Dense", "config": {"activation": {"function_type": "lambda"}}}, UnsafeGraph),
        ({"class_name": "StringLookup", "config": {"name": "s", "vocabulary": "/etc/passwd"}}, UnsafeGraph),
        ({"class_name": "IntegerLookup", "config": {"name": "s", "vocabulary": "/etc/passwd"}}, UnsafeGraph),
        ({"class_name": "TextVectorization", "config": {"name": "s", "vocabulary": "/etc/passwd"}}, UnsafeGraph),
        ({"class_name": "TFSMLayer", "config": {"filepath": "/tmp/model"}}, UnsafeGraph),
        ({"class_name": "TorchModuleWrapper", "config": {"module": "gASV"}}, UnsafeGraph),
        ({"module": "builtins", "class_name": "function", "config": "mine"}, UnsupportedGraph),
        ({"module": "mine", "class_name": "Layer", "registered_name": "mine>Layer"}, UnsupportedGraph),
        ({"module": "keras.layers", "class_name": "Dense", "registered_name": "mine>Dense"}, UnsupportedGraph),
        ({"module": "keras.layers", "class_name": "Dens"}, UnsupportedGraph),
        ({"module": None, "class_name": "TFOpLambda"}, UnsupportedGraph),
        ({"module": 3, "class_name": "Dense"}, DamagedError),
    ],
    ids=lambda value: str(value.get("class_name")) if isinstance(value, dict) else value.__name__,
)
def test_what_is_no_layer_of_keras_is_refused_wherever_it_stands(
    tmp_path: Path, node: dict[str, Any], error: type[PipelineError]
) -> None:
    path = tmp_path / "model.keras"
    inner = {
        "module": "keras.layers",
        "class_name": "Dense",
        "config": {"name": "d", "kernel_initializer": [{"a": node}]},
    }
    config = {"module": "keras", "class_name": "Sequential", "config": {"name": "s", "layers": [inner]}}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
    with pytest.raises(error):
        isolate.call(object_calls.require_safe, path)


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "assets/../../evil", "C:\\evil", "config.json"])
def test_members_that_lead_out_or_come_twice_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.keras"
    isolate.call(object_calls.save, "cnn", path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, "{}")
    with pytest.raises(UnsafeGraph, match=r"leads out|twice"):
        isolate.call(object_calls.load, path)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    isolate.call(object_calls.save, "cnn", path)
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open("assets/zeros", "w", force_zip64=True) as member,
    ):
        for _ in range(1100):
            member.write(bytes(2**20))
    with pytest.raises(UnsafeGraph, match="GiB in a file of"):
        isolate.call(object_calls.load, path)


def _external_link(file: Any, tmp_path: Path) -> None:
    file["stolen"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/values")


def _external_values(file: Any, tmp_path: Path) -> None:
    file.create_dataset("stolen", (4,), "f4", external=[(str(tmp_path / "other.bin"), 0, 16)])


def _virtual(file: Any, tmp_path: Path) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "values", (4,))
    file.create_virtual_dataset("stolen", layout)


def _unallocated(file: Any, tmp_path: Path) -> None:
    file.create_dataset("huge", (2**40,), "f4", chunks=(2**16,))


@pytest.mark.parametrize("plant", [_external_link, _external_values, _virtual, _unallocated])
@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_hdf5_that_reads_other_files_or_swells_is_refused(tmp_path: Path, plant: Any, suffix: str) -> None:
    path = tmp_path / f"model.{suffix}"
    isolate.call(object_calls.save, "cnn", path)
    weights = path
    if suffix == "keras":
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        weights = tmp_path / "weights.h5"
        weights.write_bytes(members["model.weights.h5"])
    with h5py.File(weights, "a") as file:
        plant(file, tmp_path)
    if suffix == "keras":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in (members | {"model.weights.h5": weights.read_bytes()}).items():
                archive.writestr(name, content)
    with pytest.raises(UnsafeGraph):
        isolate.call(object_calls.load, path)


@pytest.mark.parametrize("name", ["model.weights.h5", "model.h5"])
def test_weights_alone_ask_for_the_code(tmp_path: Path, name: str) -> None:
    isolate.call(object_calls.save_weights, "cnn", tmp_path / "model.weights.h5")
    (tmp_path / "model.weights.h5").rename(tmp_path / name)
    with pytest.raises(UsageError, match=r"weights without a model(.|\n)*--model module:Model"):
        isolate.call(object_calls.load, tmp_path / name)


@pytest.mark.parametrize("name", ["cnn", "lstm"])
def test_weights_with_the_code_are_the_model_again(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.weights.h5"
    isolate.call(object_calls.save_weights, name, path)
    assert isolate.call(object_calls.weights_restored, name, path)
    with pytest.raises(CoverageError, match="weights"):
        isolate.call(object_calls.weights_restored, name, path, "two")


def test_weights_of_a_whole_older_file_serve_the_code_too(tmp_path: Path) -> None:
    isolate.call(object_calls.save, "cnn", tmp_path / "model.h5")
    with h5py.File(tmp_path / "model.h5") as whole, h5py.File(tmp_path / "old", "w") as old:
        for name, value in whole["model_weights"].attrs.items():
            old.attrs[name] = value
        for name in whole["model_weights"]:
            whole.copy(f"model_weights/{name}", old)
    assert isolate.call(object_calls.weights_restored, "cnn", tmp_path / "old")


def test_a_weight_that_is_not_the_files_is_named(tmp_path: Path) -> None:
    """Keras loads what it finds; had it found nothing, the initial value would have been shipped."""
    path = tmp_path / "model.h5"
    isolate.call(object_calls.save, "cnn", path)
    isolate.call(object_calls.load, path)
    with pytest.raises(CoverageError, match="bytes that the file holds"):
        isolate.call(object_calls.weights_lost, path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("whole")
    for suffix in ("keras", "h5"):
        isolate.call(object_calls.save, "cnn", folder / f"model.{suffix}", False)
    return {suffix: folder / f"model.{suffix}" for suffix in ("keras", "h5")}


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize("kept", [0, 3, 100, 0.5, 0.98])
def test_a_cut_file_is_damaged(whole: dict[str, Path], tmp_path: Path, suffix: str, kept: float) -> None:
    content = whole[suffix].read_bytes()
    length = kept if isinstance(kept, int) else int(len(content) * kept)
    (tmp_path / "cut").write_bytes(content[:length])
    with pytest.raises(DamagedError):
        isolate.call(object_calls.load, tmp_path / "cut")


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_loads_without_a_traceback(
    whole: dict[str, Path], tmp_path: Path, suffix: str, where: float, bit: int
) -> None:
    """The archive's checksums see every bit of its members; HDF5 has none, there only the structure can be seen."""
    content = bytearray(whole[suffix].read_bytes())
    content[int(where * len(content))] ^= 1 << bit
    flipped = tmp_path / "flipped"
    flipped.write_bytes(content)
    try:
        isolate.call(object_calls.load, flipped)
    except (DamagedError, UnsafeGraph, UnsupportedGraph, UsageError, CoverageError):
        return
    if suffix == "keras":
        assert isolate.call(object_calls.answers_as_saved, "cnn", flipped)


def test_a_folder_and_a_text_are_no_keras_files(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("PK is how a zip begins")
    with pytest.raises(DamagedError):
        isolate.call(object_calls.load, tmp_path / "text")
    shutil.copyfile(tmp_path / "text", tmp_path / "other")
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(DamagedError):
        isolate.call(object_calls.load, tmp_path / "array.npy")


def test_a_low_rank_update_is_in_the_kernel_and_its_zeros_are_no_loss(tmp_path: Path) -> None:
    answers = isolate.call(keras_3_models.low_rank, tmp_path / "model.keras")
    found = isolate.call(object_calls.answers_to, tmp_path / "model.keras", {"x": [[1.0] * 4] * 3})
    (live,), (exported,) = found["live"].values(), found["exported"].values()
    assert live == exported and not found["notes"]
    np.testing.assert_allclose(live, answers, rtol=1e-5)


def test_a_layer_without_its_vocabulary_is_named(tmp_path: Path) -> None:
    isolate.call(keras_3_models.without_vocabulary, tmp_path / "model.keras")
    with pytest.raises(UnsupportedGraph, match=r"layer 'string_lookup': expected a vocabulary(.|\n)*adapt"):
        isolate.call(object_calls.load, tmp_path / "model.keras")


# Keras 2, as tf_keras


def stored_members_keep_their_place(path: Path) -> bool:
    """Whether a member can be read on, relative to its place, after another was read; not so in Python 3.12.1 and 3.13.0."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a", "b"):
            archive.writestr(name, bytes(range(100)) * 500)
    with zipfile.ZipFile(path) as archive, archive.open("a") as first:
        first.read(1)
        archive.read("b")
        try:
            first.seek(30050)  # beyond what is buffered
            return first.read(1) == bytes([50])
        except (EOFError, zipfile.BadZipFile):
            return False


@pytest.mark.sweep
@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize("name", keras_2_models.NETWORKS)
def test_a_file_of_keras_2_answers_as_the_model_that_was_saved(tmp_path: Path, name: str, suffix: str) -> None:
    if (name, suffix) == ("text", "h5"):
        pytest.skip("Keras 2 cannot write a vocabulary into HDF5")
    path = tmp_path / f"model.{suffix}"
    saved = isolate.call(keras_2_models.save, name, path)
    if name == "text" and not stored_members_keep_their_place(tmp_path / "two.zip"):
        with pytest.raises(EnvironmentFailure, match="whose zipfile mixes up members"):
            isolate.call(object_calls.answers_to, path, saved["rows"])
        return
    found = isolate.call(object_calls.answers_to, path, saved["rows"])
    assert found["live"] == found["exported"] == saved["answers"]
    (note,) = found["notes"]
    assert re.fullmatch(r"written by Keras 2\.\d+\.\d+, and built by Keras 2 \(tf_keras 2\.\d+\.\d+\)", note)


def test_code_in_a_file_of_keras_2_is_refused(tmp_path: Path) -> None:
    isolate.call(keras_2_models.save_subclassed, tmp_path / "own.keras")
    with pytest.raises(UnsupportedGraph, match=r"Doubling(.|\n)*--model module:Model"):
        isolate.call(object_calls.load, tmp_path / "own.keras")
    for suffix in ("keras", "h5"):
        isolate.call(keras_2_models.save_lambda, tmp_path / f"lambda.{suffix}")
        with pytest.raises(UnsafeGraph, match="layer 'sequential/twice'"):
            isolate.call(object_calls.load, tmp_path / f"lambda.{suffix}")


@pytest.mark.parametrize(
    "function",
    [
        "io.write_file",
        "io.read_file",
        "py_function",
        "numpy_function",
        "raw_ops.WriteFile",
        "io.decode_proto",
        "math",
        "print",
    ],
)
def test_a_function_of_tensorflow_that_is_not_known_to_be_harmless_is_refused(tmp_path: Path, function: str) -> None:
    isolate.call(keras_2_models.save_with_function, tmp_path / "model.h5", function)
    with pytest.raises(UnsupportedGraph, match=rf"layer .*found tf\.{re.escape(function)}\."):
        isolate.call(object_calls.load, tmp_path / "model.h5")


@pytest.mark.parametrize(
    ("op", "allowed"), [("Mul", True), ("WriteFile", False), ("PyFunc", False), ("NoSuchOp", False)]
)
def test_an_op_in_a_layer_of_tensorflow_2_0_is_held_against_the_harmless_ones(op: str, allowed: bool) -> None:
    node = {"class_name": "TensorFlowOpLayer", "config": {"name": "op", "node_def": {"name": "op", "op": op}}}
    config = {"class_name": "Functional", "config": {"layers": [node]}}
    if allowed:
        allowed_classes.require_known("m.h5", config, legacy=True)
    else:
        with pytest.raises(UnsupportedGraph, match=f"the op {op}"):
            allowed_classes.require_known("m.h5", config, legacy=True)


def test_an_hdf5_file_of_keras_2_is_opened(tmp_path: Path) -> None:
    """As Keras 2.4 wrote it: no modules, `batch_input_shape`, weights under the layer's name twice."""
    ones = {"class_name": "Ones", "config": {}}
    dense = {
        "class_name": "Dense",
        "config": {"name": "dense", "trainable": True, "dtype": "float32", "units": 3, "activation": "linear",
                   "use_bias": True, "kernel_initializer": ones, "bias_initializer": ones, "kernel_regularizer": None},
    }  # fmt: skip
    shape = {
        "batch_input_shape": [None, 4],
        "dtype": "float32",
        "sparse": False,
        "ragged": False,
        "name": "dense_input",
    }
    layers = [{"class_name": "InputLayer", "config": shape}, dense]
    config = {"class_name": "Sequential", "config": {"name": "sequential", "layers": layers}}
    path = tmp_path / "old.h5"
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(config)
        file.attrs["keras_version"], file.attrs["backend"] = "2.4.0", "tensorflow"
        held = file.create_group("model_weights")
        held.attrs["layer_names"] = [b"dense"]
        held.attrs["keras_version"], held.attrs["backend"] = "2.4.0", "tensorflow"
        layer = held.create_group("dense")
        layer.attrs["weight_names"] = [b"dense/kernel:0", b"dense/bias:0"]
        layer["dense/kernel:0"] = np.arange(12, dtype=np.float32).reshape(4, 3)
        layer["dense/bias:0"] = np.full(3, 2, dtype=np.float32)
    assert isolate.call(object_calls.load, path) == {"inputs": ["dense_input"], "outputs": ["dense"]}
    with h5py.File(path, "a") as file:
        del file["model_weights/dense/dense/bias:0"]
        file["model_weights/dense/dense/bias:0"] = np.full(4, 2, dtype=np.float32)
    with pytest.raises(UnsupportedGraph):
        isolate.call(object_calls.load, path)
