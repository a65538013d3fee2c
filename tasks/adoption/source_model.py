"""A source model, opened by its own loader and flattened to one graph with a Saver.

Whatever its form was, what `opened` yields is what a training run is written from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.adoption import flatten, from_code, graph_names, source_graph, source_loader
from tasks.baseline.training_run import PREFIX, TrainingRun
from tasks.errors import CoverageError, UsageError
from tasks.forms import checkpoint_files, saver
from tasks.forms.keras import model as keras
from tasks.forms.live_object import LivePredictor
from tasks.graphs import graph as graphs
from tasks.graphs import lookup_tables, rewrite, scan
from tasks.graphs import variables as graph_variables
from tasks.graphs.protos import GraphDef, MetaGraphDef
from tasks.graphs.validate import require_valid_meta_graph
from tasks.graphs.variables import Slice
from tasks.parity.predictor import Predictor
from tasks.records.adoption import Found, ModelOptions
from tasks.records.coverage import Coverage
from tasks.records.forms import Form
from tasks.records.settings import SessionOptions
from tasks.records.signature import GraphNames, Signature
from tasks.signatures import resolve
from tasks.tensors import tensor_file
from tasks.tensors.tensor_file import Tensors
from tasks.user_code.source import ModelSource


@dataclass
class SourceModel:
    """A source model, open and flattened.

    `meta` is its graph, pinned, cut and with a Saver, `names` are that graph's. `prefix` and `sources` say where its
    values are. `live` answers for the original, by the signatures `requested`. `paths` maps a variable operation to the
    variable's name in the live object; `probe` is the probe of the model's own code.
    """

    meta: MetaGraphDef
    prefix: Path | None
    sources: Mapping[str, Slice]
    live: Predictor
    requested: tuple[Signature, ...]
    names: GraphNames
    places: Mapping[str, Path]
    notes: tuple[str, ...] = ()
    pins: dict[str, Any] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)
    probe: Tensors | None = None


@contextmanager
def opened(
    found: Found, options: ModelOptions, code: ModelSource | None, session: SessionOptions, scratch: Path
) -> Iterator[SourceModel]:
    """Open a source model by its own loader.

    Raises:
        UsageError: something is missing: signatures, pins, code; or an option does not apply.
        DamagedError, UnsafeGraph, UnsupportedGraph: the files are damaged, or must not or cannot be run here.
        CoverageError: the outputs need what the files do not hold.
    """
    source_graph.require_applicable(found, options, coded=code is not None)
    if found.form.of_keras and code is None:
        with keras.loaded(found.path, session) as live:
            source = _of_object(live, options, scratch)
            source.notes += keras.notes(found.path)
            yield source
    elif found.form.of_objects:
        with from_code.restored(found, code, session) as (live, rows):
            source = _of_object(live, options, scratch)
            source.probe = rows
            yield source
    else:
        built = from_code.graph(code, found) if code is not None else None
        meta = built.meta if built is not None else source_graph.graph(found, options)
        with _of_graph(found, options, meta, session, scratch) as source:
            source.probe = built.probe if built is not None else None
            yield source


@contextmanager
def _of_graph(
    found: Found, options: ModelOptions, meta: MetaGraphDef, session: SessionOptions, scratch: Path
) -> Iterator[SourceModel]:
    where = str(found.path)
    require_valid_meta_graph(meta, where)
    resolved = resolve.resolve(meta, options)
    requested = tuple(
        one.model_copy(update={"allow_nonfinite": options.allow_nonfinite}) for one in resolved.signatures
    )
    graph_names.require_keys(requested, where)
    pins = {tensor: tensor_file.as_array(value) for tensor, value in resolved.pins.items()}
    folder = found.path if found.path.is_dir() else found.path.parent
    flat = type(meta)()
    flat.CopyFrom(meta)
    signatures = rewrite.operated(flat.graph_def, requested, pins)
    outputs = outputs_of(signatures)
    table_init, assets, places = lookup_tables.find(flat, outputs, folder)
    names = graph_names.of(meta, signatures, assets, table_init, graphs.Graph(flat.graph_def).variables(outputs))
    targets = graph_variables.signature_targets(names)
    scan.require_runnable(flat.graph_def, targets, where)
    graph_names.require_unwritten(flat.graph_def, names, where)
    notes = tuple(dict.fromkeys((*found.notes, *resolved.notes)))  # a note may be of several signatures
    notes += _training_notes(flat.graph_def, targets)
    unknown = sorted(scan.scan(meta.graph_def, None).unknown)
    left_out = (f"left out, because this TensorFlow does not know them: {', '.join(unknown)}",) * bool(unknown)
    if found.form is Form.SAVED_MODEL:
        notes += (*source_graph.tag_notes(found.path, meta), *left_out)
        scan.require_loadable(meta, where)
        if unknown:
            kept = [
                *targets,
                *lookup_tables.initialisers(meta),
                *lookup_tables.paths(meta),
                *flatten.declared_nodes(meta),
            ]
            meta, flat = (_reduced(one, kept, meta.saver_def, requested, lookup_tables.LOADED) for one in (meta, flat))
            scan.require_known(meta.graph_def, where)
        with source_loader.loaded(found.path, meta, requested, pins, session, reduced=bool(unknown)) as live:
            values = scratch / PREFIX
            held = flatten.session_values(live.session, graph_variables.variable_facts(flat.graph_def), values)
            _require_held(saver.compared(flat.graph_def, held, values, targets), found.path)
            complete = flatten.with_saver(flat, held, None)
            names = _described(complete, names)
            notes += rewrite.reshaped(live.session.graph, requested, names.signatures)
            yield SourceModel(complete, values, held, live, requested, names, places, notes, dict(resolved.pins))
        return
    prefix = found.path if found.form.of_saver else None
    sources: dict[str, Slice] = {}
    own = None
    if prefix is not None:
        sources, own, more = source_loader.values_of(flat, prefix, options, targets)
        notes += more
        if options.var_map is None:
            notes += flatten.other_savers(flat, prefix, sources, names.needed)
            notes += flatten.unused_averages(flat, prefix, sources, targets)
    elif names.needed:
        some = ", ".join(names.needed[:5])
        remedy = "give the checkpoint that was saved with it: its prefix as PATH, and this file as --graph."
        raise CoverageError(where, f"values for {len(names.needed)} variables ({some})", "a graph alone", remedy)
    if unknown:
        # A graph with an unknown op cannot be imported, wherever it stands: keep what the outputs and the Saver reach.
        meta, flat = (_reduced(one, targets, own, requested) for one in (meta, flat))
        notes += left_out
    if table_init and table_init not in {node.name for node in meta.graph_def.node}:
        meta.graph_def.node.add().CopyFrom(next(node for node in flat.graph_def.node if node.name == table_init))
    original = flatten.with_saver(meta, sources, own)
    scan.require_loadable(original, where)
    complete = flatten.with_saver(flat, sources, own)
    names = _described(complete, names)
    form = found.form.value
    with source_loader.restored(
        form, original, prefix, sources, requested, pins, table_init, assets, places, session
    ) as live:
        notes += rewrite.reshaped(live.session.graph, requested, names.signatures)
        yield SourceModel(complete, prefix, sources, live, requested, names, places, notes, dict(resolved.pins))


def _require_held(coverage: Coverage, folder: Path) -> None:
    """Check as `saver.require_coverage` that a loaded SavedModel has a value for every variable that its outputs read."""
    try:
        saver.require_coverage(coverage, folder)
    except CoverageError as error:
        remedy = (
            "export it again with its variables: a Keras 3 model by `model.export(folder)`, because of its variables "
            "`tf.saved_model.save` writes copies that nothing reads; a tf.Module with its variables as attributes."
        )
        raise error.changed(remedy=remedy) if error.coverage is not None else error from None


def _of_object(live: LivePredictor, options: ModelOptions, scratch: Path) -> SourceModel:
    """Export and flatten a live object."""
    chosen = {key: one for key, one in live.signatures.items() if options.signature in (None, key)}
    if options.inputs or options.outputs or options.pins or not chosen:
        expected = f"one of the model's signatures: {', '.join(live.signatures)}"
        remedy = "leave --input, --output and --pin out, and choose with --signature."
        raise UsageError("--input, --output, --pin, --signature", expected, "others", remedy)
    folder = scratch / "exported"
    paths = live.export(folder)
    meta_file, prefix = TrainingRun(scratch).graph_file, scratch / PREFIX
    names = flatten.saved_model(folder, ["serve"], meta_file, prefix)
    meta = saver.meta_graph(meta_file)
    signatures = tuple(
        one.model_copy(update={"allow_nonfinite": options.allow_nonfinite or chosen[one.key].allow_nonfinite})
        for one in names.signatures
        if one.key in chosen
    )
    names = names.model_copy(update={"signatures": signatures})
    outputs = outputs_of(signatures)
    scan.require_runnable(meta.graph_def, outputs, live.form)
    places = {asset.filename: folder / "assets" / asset.filename for asset in names.assets}
    sources = graph_variables.restored_slices(meta.graph_def, meta.saver_def)
    requested = tuple(chosen[one.key].model_copy(update={"allow_nonfinite": one.allow_nonfinite}) for one in signatures)
    notes = _training_notes(meta.graph_def, outputs)
    if others := [key for key in live.signatures if key not in chosen]:
        notes += (
            f"left out by --signature {options.signature}, and so neither proven nor served: {', '.join(others)}",
        )
    return SourceModel(meta, prefix, sources, live, requested, names, places, notes, paths=paths)


def outputs_of(signatures: tuple[Signature, ...]) -> list[str]:
    """Return the output tensors of all signatures."""
    return [spec.tensor for signature in signatures for spec in signature.outputs.values()]


def global_step(source: SourceModel, found: Found) -> int:
    """Return the global step that a source model's checkpoint holds, else the one in its name, else 0."""
    names, prefix, sources = source.names, source.prefix, source.sources
    variable = graphs.node_name(names.global_step) if names.global_step else None
    if prefix is not None and variable in sources:
        return max(int(saver.read_slice(saver.reader(prefix), sources[str(variable)], prefix).ravel()[0]), 0)
    return checkpoint_files.step_of(found.path) or 0 if found.form.of_saver else 0


def _described(meta: MetaGraphDef, names: GraphNames) -> GraphNames:
    return names.model_copy(update={"signatures": rewrite.described(meta, names.signatures)})


def _training_notes(graph_def: GraphDef, targets: Iterable[str]) -> tuple[str, ...]:
    """Return a note on nodes that may compute as in training, if there are any."""
    found = scan.in_training(graph_def, targets)
    shown = ", ".join(found[:4]) + (f", and {len(found) - 4} more" if len(found) > 4 else "")
    advice = "pin its switch (--pin), or export the model for inference"
    return (f"may compute as in training, by batch statistics or with dropout on: {shown}: {advice}",) * bool(found)


def _reduced(
    meta: MetaGraphDef,
    targets: list[str],
    own: Any | None,
    requested: tuple[Signature, ...],
    collections: tuple[str, ...] = (),
) -> Any:
    """Cut a graph to what outputs and Saver reach; of its collections keep the variables' and `collections`."""
    import tensorflow as tf

    present = {node.name for node in meta.graph_def.node}
    wanted = {graphs.node_name(name) for name in (*targets, *outputs_of(requested))}
    wanted |= {graphs.node_name(spec.tensor) for one in requested for spec in one.inputs.values()}
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
