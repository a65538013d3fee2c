"""The live object of a training run, built again from the user's code, or by Keras from the source model's file.

With the values of a checkpoint it can be written in the forms that only objects have. Runs in children: one writes, and a
fresh one restores and compares with the baseline.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.baseline import reference as proof
from tasks.baseline.training_run import TrainingRun
from tasks.errors import CoverageError, UnsafeGraph, UnsupportedGraph
from tasks.forms import checkpoint_files, live_object, object_checkpoint, saver
from tasks.forms.keras import model as keras
from tasks.forms.live_object import LivePredictor
from tasks.graphs import graph as graphs
from tasks.graphs import variables as graph_variables
from tasks.parity import compare
from tasks.parity import predictor as predictors
from tasks.records.base import Record
from tasks.records.baseline import TensorFact, Variable
from tasks.records.parity import NotMade, ParityReport, Tolerance
from tasks.records.settings import SessionOptions
from tasks.records.signature import DEFAULT_KEY, Signature
from tasks.tensors import tensor_file
from tasks.tensors.tensor_file import Array, Tensors
from tasks.training.object_mode import EXPORTED, exported
from tasks.user_code import objects
from tasks.user_code import source as sources
from tasks.user_code.model import Objects
from tasks.user_code.source import ModelSource


class Origin(Record):
    """The origin of a live object: `code`, built with `hyperparameters` over its own, else the Keras file `archive`."""

    code: ModelSource | None = None
    hyperparameters: dict[str, Any] = {}
    archive: Path | None = None


class NoObjects(Exception):  # noqa: N818 - the reason why a form is not made
    """There is no live object from which the form could be written."""


def write_checkpoint(origin: Origin, folder: Path, prefix: str, run: Path, step: int, out: Path) -> NotMade | None:
    """Write the checkpoint `folder`/`prefix` by tf.train.Checkpoint, under the name `model`, or return why not.

    Raises:
        CoverageError: the code makes other variables than the training run has.
    """
    try:
        with _valued(origin, folder / prefix, run) as built:
            object_checkpoint.write(built.module, out, step)
    except NoObjects as reason:
        return NotMade(str(reason))
    return None


def write_archive(origin: Origin, folder: Path, prefix: str, run: Path, out: Path) -> NotMade | None:
    """Write the checkpoint as a `.keras` archive, or return why not.

    The live object must be a Keras model that opens without the user's code. Raises as `write_checkpoint`, and ParityError.
    """
    import keras as keras_library

    try:
        with _valued(origin, folder / prefix, run) as built:
            if not isinstance(built.module, keras_library.Model):
                return NotMade(f"Keras writes its own models, and this is a {type(built.module).__name__}")
            if any(function is not None for function in built.signatures.values()) or set(built.signatures) - {
                DEFAULT_KEY
            }:
                return NotMade("an archive keeps no signatures, and this model has some of its own")
            keras.write(built.module, out)
    except NoObjects as reason:
        return NotMade(str(reason))
    except (UnsafeGraph, UnsupportedGraph) as error:
        return NotMade(f"expected {error.expected}, found {error.found}")
    return None


def prove_checkpoint(
    form: str, origin: Origin, folder: Path, run: Path, step: int, tolerance: Tolerance
) -> ParityReport:
    """Restore a written object-based checkpoint into a new object, and compare that with the baseline.

    The values are restored by TensorFlow first, then as `adopt` restores them.

    Raises:
        CoverageError: a variable of the object has no tensor of its dtype and shape.
    """
    reference = proof.Reference.read(run, step)
    prefix = object_checkpoint.prefix_of(folder, step)
    with _made(origin, reference.session) as built, tempfile.TemporaryDirectory() as scratch:
        live = objects.live(built, form)
        operations, names = exported(live, Path(scratch))
        keys = {one.key for one in reference.names.signatures}
        signatures = {one.key: one for one in names.signatures if one.key in keys}
        opened = _ByOperation(form, live, signatures, {path: name for name, path in operations.items()})
        object_checkpoint.restore_by_tensorflow(prefix, built.module)
        needed = [_by_its_name(variable) for variable in reference.needed]
        values = [variable.value for variable in needed]
        rows = [row for row in compare.values(form, values, opened.values()) if row.passed is False]
        object_checkpoint.restore(prefix, built.module)
        meta = saver.meta_graph(TrainingRun(Path(scratch)).graph_file)
        outputs = [spec.tensor for one in signatures.values() for spec in one.outputs.values()]
        constants = list(graphs.Graph(meta.graph_def).constants(outputs, names.assets))
        assets = Path(scratch) / EXPORTED
        report = proof.judge(opened, assets, reference, needed, constants, tolerance)
        structure = proof.structure_not_compared(form, reference, "the object's code builds its functions again")
        return report.model_copy(update={"rows": (*rows, *report.rows, *structure)})


def _by_its_name(variable: Variable) -> Variable:
    """Return a variable whose value has the operation's name too, so that equal values are not confused."""
    return variable.model_copy(update={"value": variable.value.model_copy(update={"name": variable.name})})


@dataclass(frozen=True)
class _ByOperation:
    """A live object whose values have the names of a graph's variable operations. See `Predictor`."""

    form: str
    live: LivePredictor
    signatures: Mapping[str, Signature]
    operations: Mapping[str, str]  # path in the live object -> variable operation

    def predict(self, signature: str, inputs: Mapping[str, Array]) -> Tensors:
        return self.live.predict(signature, inputs)

    def values(self) -> Iterator[TensorFact]:
        for fact in self.live.values():
            yield fact.model_copy(update={"name": self.operations.get(fact.name, fact.name)})


@contextmanager
def _made(origin: Origin, options: SessionOptions) -> Iterator[Objects]:
    """Build the live object. Raises NoObjects if the code builds a graph."""
    predictors.eager(options)
    if origin.code is None:
        assert origin.archive is not None
        with keras.loaded(origin.archive, options) as loaded:
            yield Objects(loaded.root)
        return
    with sources.importable(origin.code) as model_class:
        model = model_class()
    if not objects.expected(model):
        raise NoObjects(f"{origin.code.module}:{origin.code.attribute} builds a TF1 graph, and no live object")
    yield objects.build(model, {**getattr(model, "hyperparameters", {}), **origin.hyperparameters})


@contextmanager
def _valued(origin: Origin, prefix: Path, run: Path) -> Iterator[Objects]:
    """Build the live object and load a checkpoint's values into every variable."""
    names = TrainingRun(run).names()
    with _made(origin, SessionOptions()) as built, tempfile.TemporaryDirectory() as scratch:
        if built.module is None:
            raise NoObjects("a graph function stands alone, and there is no object that holds its variables")
        live = objects.live(built)
        operations, _ = exported(live, Path(scratch))
        meta = saver.meta_graph(checkpoint_files.meta_file(prefix))
        held = graph_variables.restored_slices(meta.graph_def, meta.saver_def)
        if lost := sorted(operations.keys() - held.keys()):
            raise NoObjects(f"the checkpoint does not hold every variable of the object: {', '.join(lost[:5])}")
        reached = live_object.variables(built.module)
        if loose := [operations[name] for name in names.needed if operations.get(name, "") not in reached]:
            raise NoObjects(f"no attribute of the object leads to {', '.join(sorted(loose)[:5])}")
        if not reached:
            raise NoObjects("there are no variables to save")
        checkpoint = saver.reader(prefix)
        for name, path in operations.items():
            _assign(live.variables[path], saver.read_slice(checkpoint, held[name], prefix), path)
        yield built


def _assign(variable: Any, value: Array, path: str) -> None:
    if tensor_file.dtype_name(value) != variable.dtype.base_dtype.name or not variable.shape.is_compatible_with(
        value.shape
    ):
        expected = f"{tensor_file.dtype_name(value)}{list(value.shape)}, as in the training run"
        found = f"{variable.dtype.base_dtype.name}{variable.shape}"
        raise CoverageError(
            f"the code's variable {path}", expected, found, "restore the code with which the model was trained."
        )
    variable.assign(value)
