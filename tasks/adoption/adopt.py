"""Adoption, in a child: what was brought is opened by its own loader, asked for the baseline, and flattened.

The run that it leaves is laid out as `training.py` leaves one, with `adopted.json` (Adopted) beside it; later steps
need to know nothing more.
"""

from __future__ import annotations

import tempfile
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.adoption import flatten, graph_names, option_use, original
from tasks.adoption import from_code as codes
from tasks.baseline import record as baselines
from tasks.baseline import reference
from tasks.baseline.training_run import PREFIX, TrainingRun
from tasks.errors import CoverageError, ParityError, UsageError
from tasks.forms import saver
from tasks.forms.keras import model
from tasks.forms.live_object import LivePredictor
from tasks.graphs import graph as graphs
from tasks.graphs import lookup_tables, rewrite, scan
from tasks.graphs import variables as graph_variables
from tasks.graphs.validate import require_valid_meta_graph
from tasks.graphs.variables import Slice
from tasks.parity import compare
from tasks.parity.predictor import Predictor
from tasks.probe import establish
from tasks.records.adoption import Adopted, Found, ModelOptions, ProbeSource
from tasks.records.baseline import Baseline, Variable
from tasks.records.forms import Form
from tasks.records.settings import SessionOptions
from tasks.records.signature import GraphNames, Signature
from tasks.signatures import resolve
from tasks.tensors import tensor_file
from tasks.tensors.tensor_file import Tensors
from tasks.user_code.source import ModelSource


@dataclass
class SourceModel:
    """A brought model on its way to a run.

    `meta` is its graph, pinned, cut and with a Saver; `prefix` and `sources` where its values are, `live` what answers
    for the original, by the signatures `asked`; `names` are those of `meta`.
    """

    meta: Any
    prefix: Path | None
    sources: Mapping[str, Slice]
    live: Predictor
    asked: tuple[Signature, ...]
    names: GraphNames
    places: Mapping[str, Path]
    notes: tuple[str, ...] = ()
    pins: dict[str, Any] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)  # variable operation -> name in the live object
    probe: Tensors | None = None


def adopt(
    found: Found, given: ModelOptions, source: ProbeSource, options: SessionOptions, code: ModelSource | None, out: Path
) -> None:
    """Leave a run of a brought model in `out`.

    Raises:
        UsageError: something must be said first: signatures, pins, code.
        DamagedError, UnsafeGraph, UnsupportedGraph: the files are not whole, or must not or cannot be run here.
        CoverageError: the outputs need what the files do not hold.
        NondeterministicError, ParityError: the original differs from itself, or answers NaN.
    """
    with (
        tempfile.TemporaryDirectory(dir=out, prefix="scratch-") as scratch,
        opened(found, given, code, options, Path(scratch)) as brought,
    ):
        _leave(brought, found, source, options, out)


@contextmanager
def opened(
    found: Found, given: ModelOptions, code: ModelSource | None, options: SessionOptions, scratch: Path
) -> Iterator[SourceModel]:
    """A brought model, opened by its own loader. Raises as `adopt`."""
    option_use.require_used(found, given, coded=code is not None)
    if found.form.of_keras and code is None:
        with model.loaded(found.path, options) as live:
            yield _of_object(live, given, scratch)
        return
    if found.form in (Form.OBJECT_CHECKPOINT, Form.KERAS, Form.HDF5):
        with codes.restored(found, code, options) as (live, rows):
            brought = _of_object(live, given, scratch)
            brought.probe = rows
            yield brought
        return
    built = codes.graph(code, found) if code is not None else None
    meta = built.meta if built is not None else original.graph(found, given)
    with _of_graph(found, given, meta, options, scratch) as brought:
        brought.probe = built.probe if built is not None else None
        yield brought


@contextmanager
def _of_graph(
    found: Found, given: ModelOptions, meta: Any, options: SessionOptions, scratch: Path
) -> Iterator[SourceModel]:
    where = str(found.path)
    require_valid_meta_graph(meta, where)
    resolved = resolve.resolve(meta, given)
    asked = tuple(one.model_copy(update={"allow_nonfinite": given.allow_nonfinite}) for one in resolved.signatures)
    graph_names.require_keys(asked, where)
    pins = {tensor: tensor_file.as_array(value) for tensor, value in resolved.pins.items()}
    folder = found.path if found.path.is_dir() else found.path.parent
    written = found.form is Form.SAVED_MODEL
    flat = type(meta)()
    flat.CopyFrom(meta)
    theirs = rewrite.operated(flat.graph_def, asked, pins)
    outputs = [spec.tensor for signature in theirs for spec in signature.outputs.values()]
    table_init, assets, places = lookup_tables.find(flat, outputs, folder)
    names = graph_names.of(meta, theirs, assets, table_init, graphs.Graph(flat.graph_def).variables(outputs))
    targets = graph_variables.signature_targets(names)
    scan.require_runnable(flat.graph_def, targets, where)
    graph_names.require_unwritten(flat.graph_def, names, where)
    notes = tuple(dict.fromkeys((*found.notes, *resolved.notes)))  # a thing may be so for several signatures
    notes += _training(flat.graph_def, targets)
    unknown = sorted(scan.scan(meta.graph_def, None).unknown)
    left_out = (f"left out, for this TensorFlow does not know them: {', '.join(unknown)}",) * bool(unknown)
    if written:
        notes += (*original.tag_notes(found.path, meta), *left_out)
        scan.require_loadable(meta, where)
        if unknown:
            kept = [
                *targets,
                *lookup_tables.initialisers(meta),
                *lookup_tables.paths(meta),
                *flatten.declared_nodes(meta),
            ]
            meta, flat = (_reduced(one, kept, meta.saver_def, asked, lookup_tables.LOADED) for one in (meta, flat))
            scan.require_known(meta.graph_def, where)
        with original.loaded(found.path, meta, asked, pins, options, reduced=bool(unknown)) as live:
            values = scratch / PREFIX
            held = flatten.session_values(live.session, graph_variables.variable_facts(flat.graph_def), values)
            saver.require_coverage(saver.compared(flat.graph_def, held, values, targets), values)
            complete = flatten.with_saver(flat, held, None)
            names = _described(complete, names)
            notes += rewrite.reshaped(live.session.graph, asked, names.signatures)
            yield SourceModel(complete, values, held, live, asked, names, places, notes, dict(resolved.pins))
        return
    prefix = found.path if found.form.of_saver else None
    sources: dict[str, Slice] = {}
    own = None
    if prefix is not None:
        sources, own, more = original.values_of(flat, prefix, given, targets)
        notes += more
        notes += flatten.other_savers(flat, prefix, sources, names.needed) if given.var_map is None else ()
    elif names.needed:
        some = ", ".join(names.needed[:5])
        remedy = "give the checkpoint that was saved with it: its prefix as PATH, and this file as --graph."
        raise CoverageError(where, f"values for {len(names.needed)} variables ({some})", "a graph alone", remedy)
    if unknown:
        # A graph with an unknown op cannot be imported, wherever it stands: keep what the outputs and the Saver reach.
        meta, flat = (_reduced(one, targets, own, asked) for one in (meta, flat))
        notes += left_out
    if table_init and table_init not in {node.name for node in meta.graph_def.node}:
        meta.graph_def.node.add().CopyFrom(_node(flat, table_init))
    whole = flatten.with_saver(meta, sources, own)
    scan.require_loadable(whole, where)
    complete = flatten.with_saver(flat, sources, own)
    names = _described(complete, names)
    form = found.form.value
    with original.restored(form, whole, prefix, sources, asked, pins, table_init, assets, places, options) as live:
        notes += rewrite.reshaped(live.session.graph, asked, names.signatures)
        yield SourceModel(complete, prefix, sources, live, asked, names, places, notes, dict(resolved.pins))


def _of_object(live: LivePredictor, given: ModelOptions, scratch: Path) -> SourceModel:
    """A live object, exported and flattened."""
    chosen = {key: one for key, one in live.signatures.items() if given.signature in (None, key)}
    if given.inputs or given.outputs or given.pins or not chosen:
        found = ", ".join(live.signatures)
        raise UsageError("--input, --output, --pin, --signature", f"a signature of it: {found}", "others", "leave out.")
    paths = live.export(scratch / "exported")
    meta_file, prefix = TrainingRun(scratch).graph_file, scratch / PREFIX
    names = flatten.saved_model(scratch / "exported", ["serve"], meta_file, prefix)
    meta = saver.meta_graph(meta_file)
    signatures_ = tuple(
        one.model_copy(update={"allow_nonfinite": given.allow_nonfinite or chosen[one.key].allow_nonfinite})
        for one in names.signatures
        if one.key in chosen
    )
    names = names.model_copy(update={"signatures": signatures_})
    outputs = outputs_of(signatures_)
    scan.require_runnable(meta.graph_def, outputs, live.form)
    places = {asset.filename: scratch / "exported" / "assets" / asset.filename for asset in names.assets}
    sources = graph_variables.restored_slices(meta.graph_def, meta.saver_def)
    asked = tuple(chosen[one.key].model_copy(update={"allow_nonfinite": one.allow_nonfinite}) for one in signatures_)
    notes = _training(meta.graph_def, outputs)
    return SourceModel(meta, prefix, sources, live, asked, names, places, notes, paths=paths)


def outputs_of(asked: tuple[Signature, ...]) -> list[str]:
    """The tensors that signatures give."""
    return [spec.tensor for signature in asked for spec in signature.outputs.values()]


def probe_of(brought: SourceModel, found: Found, source: ProbeSource) -> tuple[Tensors, str]:
    """What a brought model is asked, and where that comes from: the file given, its own code, or what else there is.

    Raises:
        UsageError: an input has no rows, or not such as it takes.
    """
    own = brought.probe
    if own is None or source.file is not None:
        folder = found.path if found.form is Form.SAVED_MODEL else None
        return establish.establish(source, brought.meta, brought.names.signatures, folder, brought.places)
    wanted = [f"{one.key}/{name}" for one in brought.names.signatures for name in one.inputs]
    if missing := [name for name in wanted if name not in own]:
        remedy = "return rows for every input of every signature, or give them: --probe FILE."
        raise UsageError("probe()", f"rows for {', '.join(wanted)}", f"none for {', '.join(missing)}", remedy)
    return {name: own[name] for name in wanted}, "the model's own"


def _leave(brought: SourceModel, found: Found, source: ProbeSource, options: SessionOptions, out: Path) -> None:
    """Write the run's files, and the baseline last."""
    rows, words = probe_of(brought, found, source)
    names, meta, sources = brought.names, brought.meta, brought.sources
    step = global_step(brought, found)
    run = TrainingRun(out)
    if brought.prefix is not None:
        placed = flatten.place(sources, brought.prefix, run.prefix(step))
        if placed != dict(sources):  # parts of variables became tensors of their own
            sources = placed
            meta.ClearField("saver_def")
            meta = flatten.with_saver(meta, sources, None)
    rewrite.declare(meta, names.signatures)
    run.graph_file.write_bytes(meta.SerializeToString(deterministic=True))
    run.write_names(names)
    tensor_file.write_tensors(run.probe_file, rows)
    run.copy_assets(brought.places)
    outputs = outputs_of(names.signatures)
    record = baselines.record(
        run,
        step,
        brought.live,
        brought.asked,
        rows,
        _variables(brought, sources),
        graphs.Graph(meta.graph_def).constants(outputs, names.assets),
        options,
    )
    _require_usable(record, reference.must_be_finite(run.graph_file, names))
    adopted = Adopted(
        form=found.form,
        source=found.path.name,
        chosen=found.chosen,
        available=found.available,
        pins=brought.pins,
        probe=words,
        written_by=meta.meta_info_def.tensorflow_version,
        notes=brought.notes,
    )
    run.write_adopted(adopted)


def _require_usable(record: Baseline, finite: Container[str]) -> None:
    """See `parity.require_usable`; the remedy is one for a model that nobody here trains."""
    try:
        compare.require_usable(record, finite)
    except ParityError as error:
        remedy = (
            "give inputs for which it answers in numbers: --probe FILE; or, if these are its answers, say so in the "
            "settings: given: {allow_nonfinite: true}."
            if record.nonfinite
            else "take an earlier checkpoint: this one's training has diverged."
        )
        raise ParityError(error.where, error.expected, error.found, remedy, error.facts) from None


def _variables(brought: SourceModel, sources: Mapping[str, Slice]) -> list[Variable]:
    """Every variable with the original's own value, by the name that it has in the flattened graph.

    Raises:
        CoverageError: the outputs need one that the live object does not show.
    """
    facts = {fact.name: fact for fact in brought.live.values()}
    found = []
    for name, source in sorted(sources.items()):
        fact = facts.get(brought.paths.get(name, name))
        if fact is not None:
            found.append(Variable(name=name, key=source.key, value=fact.model_copy(update={"name": name})))
    unseen = sorted(set(brought.names.needed) - {variable.name for variable in found})
    if unseen:
        raise CoverageError(
            f"the {brought.live.form}'s own values",
            f"one for each variable that the outputs need ({', '.join(unseen[:5])} among them)",
            "none for these",
            "reach every variable from an attribute of the model.",
        )
    return found


def _node(meta: Any, name: str) -> Any:
    return next(node for node in meta.graph_def.node if node.name == name)


def global_step(brought: SourceModel, found: Found) -> int:
    """Where a brought model stands: the global step that its checkpoint holds, else what its name says, else 0."""
    names, prefix, sources = brought.names, brought.prefix, brought.sources
    variable = graphs.node_name(names.global_step) if names.global_step else None
    if prefix is not None and variable in sources:
        return max(int(saver.read_slice(saver.reader(prefix), sources[str(variable)], prefix).ravel()[0]), 0)
    return saver.step_of(found.path) or 0 if found.form.of_saver else 0


def _described(meta: Any, names: GraphNames) -> GraphNames:
    return names.model_copy(update={"signatures": rewrite.described(meta, names.signatures)})


def _training(graph_def: Any, targets: Iterable[str]) -> tuple[str, ...]:
    """A note on what may compute as in training."""
    found = scan.in_training(graph_def, targets)
    shown = ", ".join(found[:4]) + (f", and {len(found) - 4} more" if len(found) > 4 else "")
    advice = "pin its switch (--pin), or export the model for inference"
    return (f"may compute as in training, by batch statistics or with dropout on: {shown}: {advice}",) * bool(found)


def _reduced(
    meta: Any, targets: list[str], own: Any | None, asked: tuple[Signature, ...], collections: tuple[str, ...] = ()
) -> Any:
    """The part of a graph that outputs and Saver reach; of its collections the variables' and these."""
    import tensorflow as tf

    present = {node.name for node in meta.graph_def.node}
    wanted = {graphs.node_name(name) for name in (*targets, *outputs_of(asked))}
    wanted |= {graphs.node_name(spec.tensor) for one in asked for spec in one.inputs.values()}
    if own is not None:
        named = (own.filename_tensor_name, own.save_tensor_name, own.restore_op_name)
        wanted |= {graphs.node_name(name) for name in named}
    reduced = type(meta)()
    reduced.CopyFrom(meta)
    reduced.graph_def.CopyFrom(tf.compat.v1.graph_util.extract_sub_graph(meta.graph_def, sorted(wanted & present)))
    reduced.graph_def.library.CopyFrom(meta.graph_def.library)
    reduced.graph_def.versions.CopyFrom(meta.graph_def.versions)
    graphs.drop_unused_functions(reduced.graph_def)
    for name in list(reduced.collection_def):
        if name not in ("variables", "trainable_variables", *collections):
            del reduced.collection_def[name]
    flatten.keep_variables(reduced)
    return reduced
