"""Keras files: the `.keras` archive and HDF5, of Keras 3 or 2, opened in safe mode as a live object; the archive written.

Everything here runs in a child.
"""

from __future__ import annotations

import hashlib
import platform
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.errors import CoverageError, EnvironmentFailure, ParityError, UnsupportedGraph, UsageError
from tasks.forms import live_object
from tasks.forms.keras import archive_check, config_diff, library
from tasks.forms.keras.archive_check import require_safe
from tasks.forms.live_object import LivePredictor
from tasks.parity import compare
from tasks.parity import predictor as predictors
from tasks.records.baseline import TensorFact
from tasks.records.forms import KERAS_ARCHIVE
from tasks.records.parity import ParityReport
from tasks.records.settings import SessionOptions
from tasks.tensors import tensor_file

__all__ = ["loaded", "require_safe", "restore_weights", "signature_of", "write"]

DEFAULT = "serving_default"
# Keras saves a layer's low-rank update within its kernel, and begins with an update of zeros again
# (keras/src/layers/core/dense.py, `enable_lora`, `load_own_variables`).
_LOW_RANK = re.compile(r"/lora_\w+_[ab]$")
ARCHIVE = KERAS_ARCHIVE


@contextmanager
def loaded(path: Path, options: SessionOptions) -> Iterator[LivePredictor]:
    """Load the model of a Keras file as a live object, whatever the file's name; its compilation is left out.

    Raises:
        UnsafeGraph, UnsupportedGraph, DamagedError, UsageError: as `require_safe`.
        UnsupportedGraph: Keras cannot build it.
        EnvironmentFailure: this Python cannot read it.
        CoverageError: a weight differs from the file's.
    """
    require_safe(path)
    _require_vocabularies(path)
    predictors.eager(options)
    keras = library.of_file(path)
    zipped = archive_check.zipped(path)
    with tempfile.TemporaryDirectory() as scratch:
        named = Path(scratch) / (ARCHIVE if zipped else "model.h5")  # Keras goes by the name
        named.symlink_to(path.absolute())
        try:
            model = keras.models.load_model(str(named), compile=False, safe_mode=True)
        except EOFError:  # the members are whole: `require_safe` has read them
            what = f"Python {platform.python_version()}, whose zipfile mixes up members that are read in turns"
            remedy = "run it with another Python; of those tried, 3.11.7 does not, 3.12.1 and 3.13.0 do."
            raise EnvironmentFailure(str(path), "a Python that reads the archive", what, remedy) from None
        except Exception as error:  # Keras raises whatever a layer's constructor does
            found = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300] if str(error) else ''}"
            remedy = (
                "load and save it with the Keras that wrote it, or export a SavedModel there; "
                "or give its code with --model module:Model."
            )
            raise UnsupportedGraph(
                str(path), f"a model that {library.described(keras)} builds", found, remedy
            ) from None
        _require_weights(path, model, zipped)
    form = "Keras archive" if zipped else "Keras HDF5"
    yield LivePredictor(form, {DEFAULT: signature_of(model)}, model)


def _require_vocabularies(path: Path) -> None:
    """Refuse an archive with a layer whose vocabulary is empty, which Keras cannot load."""
    for layer in archive_check.empty_vocabularies(path):
        remedy = "call `adapt`, or give the layer its vocabulary, before the model is saved."
        raise UnsupportedGraph(f"{path}, layer {layer!r}", "a vocabulary", "one without words", remedy)


def notes(path: Path) -> tuple[str, ...]:
    """Return a note on a file that Keras 2 builds."""
    keras = library.of_file(path)
    if keras is library.keras_3():
        return ()
    wrote = archive_check.version(path) or "of an unknown version"
    return (f"written by Keras {wrote}, and built by {library.described(keras)}",)


def restore_weights(path: Path, model: Any) -> None:
    """Give a live Keras model the weights of a `.weights.h5`, of an older HDF5 file, or of a `.keras` archive.

    Nothing else of a file is loaded; the layers of an entire Keras 3 model must agree with the live model's.

    Raises:
        UnsafeGraph, DamagedError: as `require_safe`.
        CoverageError: the file's weights are not this model's, or its layers differ.
        UsageError: it is not a Keras model, or the archive holds more than weights can restore.
    """
    import keras

    if not isinstance(model, keras.Model):
        remedy = "let `build` return Objects(module=…) with the Keras model that the weights belong to."
        raise UsageError(str(path), "a Keras model from the code, to take its weights", type(model).__name__, remedy)
    zipped = archive_check.zipped(path)
    if (described := archive_check.described(path)) is not None:
        _require_alike(path, described, model)
    with tempfile.TemporaryDirectory() as scratch:
        name = ARCHIVE if zipped else "model.weights.h5" if archive_check.by_layers(path) else "model.h5"
        named = Path(scratch) / name  # Keras goes by the name
        named.symlink_to(path.absolute())
        try:
            model.load_weights(str(named))
        except (ValueError, KeyError, OSError, RuntimeError, TypeError) as error:
            found = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300] if str(error) else ''}"
            remedy = "give the code that wrote these weights, with the same layers in the same order."
            raise CoverageError(str(path), f"weights of the model {model.name!r}", found, remedy) from None
        _require_weights(path, model, zipped)


def _require_alike(path: Path, theirs: Any, model: Any) -> None:
    """Refuse code whose layers are not those that a file describes: with its weights they would answer otherwise."""
    import keras

    if held := archive_check.assets(path):
        remedy = "export a SavedModel where the model is, or save weights alone and let the code bring the rest."
        raise UsageError(str(path), "a model that its weights restore", f"further files: {held[0]}", remedy)
    remedy = "give the code that saved this file."
    try:
        ours = keras.saving.serialize_keras_object(model)
    except Exception as error:  # a layer's own get_config raises whatever it does
        found = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300] if str(error) else ''}"
        raise CoverageError(str(path), "code whose model has the file's configuration", found, remedy) from None
    if different := config_diff.difference(theirs, ours):
        raise CoverageError(f"{path}, {different.where}", different.theirs, f"{different.ours} in the code", remedy)


def signature_of(model: Any) -> Any:
    """Return the default signature of a built Keras model, for inference: inputs and outputs by Keras' own names.

    An input of a model that takes a dictionary is named by its key, any other one by its layer.

    Raises:
        UsageError: the model does not declare its inputs.
        UnsupportedGraph: an input or output is not a tensor.
    """
    import tensorflow as tf

    inputs = getattr(model, "inputs", None)
    if not inputs:
        remedy = "give signatures: Objects(module=…, signatures={'serving_default': a tf.function})."
        raise UsageError(f"the Keras model {model.name!r}", "inputs of known shape", "none", remedy)
    structure = getattr(model, "_inputs_struct", None)  # what it is called with; `inputs` are the same, flat
    if structure is None:
        structure = getattr(model, "_nested_inputs", None)  # of Keras 2
    keys = {id(tensor): str(key) for key, tensor in structure.items()} if isinstance(structure, dict) else {}
    names = [keys.get(id(tensor), _input_name(tensor)) for tensor in inputs]
    specs = {
        name: tf.TensorSpec(tensor.shape, tensor.dtype, name=name) for name, tensor in zip(names, inputs, strict=True)
    }
    declared = getattr(model, "output_names", None) or []
    keras = library.of_object(model)
    tree = keras.tree if keras is not None and hasattr(keras, "tree") else tf.nest

    def call(**fed: Any) -> Any:
        taken = next(iter(fed.values())) if len(fed) == 1 else fed
        if structure is not None:
            taken = tree.pack_sequence_as(structure, [fed[name] for name in names])
        answer = model(taken, training=False)
        if isinstance(answer, dict):
            return answer
        outputs = tree.flatten(answer)
        known = declared if len(set(declared)) == len(outputs) else [model.layers[-1].name]
        return dict(zip(known, outputs, strict=True)) if len(known) == len(outputs) else outputs

    return live_object.served(call, specs)


def write(source: Path | Any, out: Path) -> None:
    """Write the `.keras` archive of a Keras file, or of a live model, and prove it by loading it again.

    Raises:
        ParityError: what was written has other weights or signatures than its source.
        UnsupportedGraph: Keras cannot write it.
        As `loaded`.
    """
    options = SessionOptions()
    if isinstance(source, Path):
        with loaded(source, options) as opened:
            return write(opened.root, out)
    origin = LivePredictor("Keras model", {DEFAULT: signature_of(source)}, source)
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        named = Path(scratch) / ARCHIVE
        try:
            source.save(str(named))
        except Exception as error:  # a layer's own get_config raises whatever it does
            found = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300] if str(error) else ''}"
            remedy = "give every layer of the code a get_config."
            raise UnsupportedGraph(
                f"the Keras model {source.name!r}", "one that Keras can write", found, remedy
            ) from None
        with loaded(named, options) as written:
            rows = compare.values(written.form, _weights(origin), _weights(written))
            rows += compare.signatures(written.form, origin.signatures.values(), written.signatures.values())
        report = ParityReport(rows=tuple(rows))
        if report.failures:
            raise ParityError.of(report)
        named.replace(out)
    return None


def _input_name(tensor: Any) -> str:
    """Return the name of the input layer, which the file keeps; the tensor of an unnamed input is numbered in each process."""
    history = getattr(tensor, "_keras_history", None)
    layer = getattr(history, "operation", None) or getattr(history, "layer", None)  # as Keras 3 and Keras 2 call it
    return str(layer.name if layer is not None else tensor.name)


def _weights(live: LivePredictor) -> list[TensorFact]:
    """Return the weights of a Keras model; the state of random numbers, which layers may read, is renamed in each process."""
    weights = live_object.variables(live.root)
    return [fact for fact in live.values() if fact.name in weights]


def _require_weights(path: Path, model: Any, zipped: bool) -> None:
    """Refuse a model one of whose weights is none of the file's: Keras gave it an initial value."""
    held = Counter(_digests(path, zipped))
    weights = dict(library.weights_of(model))
    wanted = {
        name: hashlib.sha256(tensor_file.as_bytes(tensor_file.as_array(weight.numpy()))).hexdigest()
        for name, weight in weights.items()
    }
    lost = []
    for name, digest in wanted.items():
        if held[digest]:
            held[digest] -= 1
        elif not (_LOW_RANK.search(name) and not weights[name].numpy().any()):
            lost.append(name)
    if lost:
        raise CoverageError(
            f"{path}: {len(lost)} of {len(wanted)} weights",
            "the bytes that the file holds",
            f"others for {', '.join(lost[:8])}",
            "save the model again with the Keras that wrote it, or give its code with --model module:Model.",
        )


def _digests(path: Path, zipped: bool) -> Iterator[str]:
    import zipfile

    import h5py

    if zipped:
        with (
            zipfile.ZipFile(path) as archive,
            archive.open(archive_check.WEIGHTS) as stream,
            h5py.File(stream, "r") as file,
        ):
            yield from _hashed(file)
    else:
        with h5py.File(path, "r") as file:
            yield from _hashed(file)


def _hashed(file: Any) -> Iterator[str]:
    import h5py

    for _, item in archive_check.items(file):
        if isinstance(item, h5py.Dataset) and item.shape is not None:
            yield hashlib.sha256(tensor_file.as_bytes(tensor_file.as_array(item[()]))).hexdigest()
