"""Adoption, in a child: open a source model, record its baseline, and leave a training run.

The training run is laid out as `train` leaves one, with `adopted.json` beside it, so that later steps need to know
nothing more (`tasks/baseline/training_run.py`).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Container, Mapping
from pathlib import Path

from tasks.adoption import flatten
from tasks.adoption.source_model import SourceModel, global_step, opened, outputs_of
from tasks.artifacts.hashes import NONE, Hashes
from tasks.baseline import record as baselines
from tasks.baseline import reference
from tasks.baseline.training_run import TrainingRun
from tasks.errors import CoverageError, ParityError, UsageError
from tasks.graphs import graph as graphs
from tasks.graphs import purity, rewrite
from tasks.graphs.variables import Slice
from tasks.parity import compare
from tasks.probe import establish, tfrecords
from tasks.records.adoption import Adopted, Found, ModelOptions, ProbeSource
from tasks.records.base import Record
from tasks.records.baseline import Baseline, Variable
from tasks.records.forms import Form
from tasks.records.settings import SessionOptions
from tasks.records.signature import OutputRef
from tasks.tensors import tensor_file
from tasks.tensors.tensor_file import Tensors
from tasks.user_code.source import ModelSource


def adopt(
    found: Found,
    given: ModelOptions,
    source: ProbeSource,
    options: SessionOptions,
    code: ModelSource | None,
    out: Path,
    hashes: Hashes = NONE,
) -> None:
    """Leave a training run of a source model in `out`.

    Raises:
        ImpureError: an output depends on more than the inputs, and that is not declared.
        NondeterministicError, ParityError: the original differs from itself, or its answers hold NaN.
        Others: as `opened`.
    """
    with (
        tempfile.TemporaryDirectory(dir=out, prefix="scratch-") as scratch,
        opened(found, given, code, options, Path(scratch)) as model,
    ):
        where = f"{found.path.name}, the {model.live.form}"
        impure = purity.require_pure(model.meta.graph_def, model.names.signatures, given.impure, where)
        model.names = model.names.model_copy(update={"impure": impure})
        # What adoption wrote itself is moved.
        own = model.prefix is not None and model.prefix.is_relative_to(scratch)
        _leave(model, found, source, options, TrainingRun(out), os.replace if own else hashes.bring)


def probe_of(model: SourceModel, found: Found, source: ProbeSource) -> tuple[Tensors, str]:
    """Return the probe of a source model and where it comes from: a file, its own code, or what `establish` finds.

    Raises:
        UsageError: an input has no rows, or rows that it does not accept.
    """
    own = model.probe
    if own is None or source.file is not None:
        folder = found.path if found.form is Form.SAVED_MODEL else None
        return establish.establish(source, model.meta, model.names.signatures, folder, model.places)
    wanted = [str(OutputRef(one.key, name)) for one in model.names.signatures for name in one.inputs]
    if missing := [name for name in wanted if name not in own]:
        remedy = "return rows for every input of every signature, or give them: --probe FILE."
        raise UsageError("probe()", f"rows for {', '.join(wanted)}", f"none for {', '.join(missing)}", remedy)
    return {name: own[name] for name in wanted}, "the model's own"


class ProbeWritten(Record):
    """A probe in a tensor file: its signatures, its origin, and, by signature, the features of rows that are tf.Examples."""

    signatures: tuple[str, ...]
    origin: str
    examples: dict[str, tuple[dict[str, list[int | float | bytes]], ...]]


def write_probe(
    found: Found, given: ModelOptions, source: ProbeSource, options: SessionOptions, code: ModelSource | None, out: Path
) -> ProbeWritten:
    """Write the probe of a source model to `out`, without a call of the model. Raises as `opened` and `probe_of`."""
    with (
        tempfile.TemporaryDirectory(dir=out.parent, prefix="scratch-") as scratch,
        opened(found, given, code, options, Path(scratch)) as model,
    ):
        rows, origin = probe_of(model, found, source)
        tensor_file.write_tensors(out, rows)
        keys = tuple(one.key for one in model.names.signatures if one.inputs)
        inputs = {key: list(tensor_file.select(rows, key).values()) for key in keys}
        parsed = {key: tfrecords.as_examples(arrays[0]) for key, arrays in inputs.items() if len(arrays) == 1}
        examples = {key: features for key, features in parsed.items() if features is not None}
        return ProbeWritten(signatures=keys, origin=origin, examples=examples)


def _leave(
    model: SourceModel,
    found: Found,
    source: ProbeSource,
    options: SessionOptions,
    run: TrainingRun,
    bring: flatten.Bring,
) -> None:
    """Write the training run's files, and the baseline last."""
    rows, origin = probe_of(model, found, source)
    names, meta, sources = model.names, model.meta, model.sources
    step = global_step(model, found)
    if model.prefix is not None:
        placed = flatten.place(sources, model.prefix, run.prefix(step), bring)
        if placed != dict(sources):  # parts of variables became tensors of their own
            sources = placed
            meta.ClearField("saver_def")
            meta = flatten.with_saver(meta, sources, None)
    rewrite.declare(meta, names.signatures)
    run.graph_file.write_bytes(meta.SerializeToString(deterministic=True))
    run.write_names(names)
    tensor_file.write_tensors(run.probe_file, rows)
    run.bring_assets(model.places)
    outputs = outputs_of(names.signatures)
    record = baselines.record(
        run,
        step,
        model.live,
        model.requested,
        rows,
        _variables(model, sources),
        graphs.Graph(meta.graph_def).constants(outputs, names.assets),
        options,
    )
    _require_usable(record, reference.must_be_finite(run.graph_file, names))
    adopted = Adopted(
        form=found.form,
        source=found.path.name,
        chosen=found.chosen,
        available=found.available,
        pins=model.pins,
        probe=origin,
        written_by=meta.meta_info_def.tensorflow_version,
        notes=model.notes,
    )
    run.write_adopted(adopted)


def _require_usable(record: Baseline, finite: Container[str]) -> None:
    """Check as `compare.require_usable`, with remedies for a model that is not trained here."""
    try:
        compare.require_usable(record, finite)
    except ParityError as error:
        remedy = (
            "give inputs for which it answers in numbers: --probe FILE; or, if these are its answers, declare it in the "
            "settings: given: {allow_nonfinite: true}."
            if record.nonfinite
            else "take an earlier checkpoint: this one's training has diverged."
        )
        raise error.changed(remedy=remedy) from None


def _variables(model: SourceModel, sources: Mapping[str, Slice]) -> list[Variable]:
    """Return every variable with the original's own value, by its name in the flattened graph.

    Raises:
        CoverageError: the live object does not show a variable that the outputs need.
    """
    facts = {fact.name: fact for fact in model.live.values()}
    found = []
    for name, source in sorted(sources.items()):
        fact = facts.get(model.paths.get(name, name))
        if fact is not None:
            found.append(Variable(name=name, key=source.key, value=fact.model_copy(update={"name": name})))
    unseen = sorted(set(model.names.needed) - {variable.name for variable in found})
    if unseen:
        raise CoverageError(
            f"the values of the {model.live.form}",
            f"one for each variable that the outputs need, such as {', '.join(unseen[:5])}",
            "none for these",
            "reach every variable from an attribute of the model.",
        )
    return found
