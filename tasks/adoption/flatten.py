"""Flattening: a graph and its values, however they were saved, become one MetaGraphDef with a Saver and one checkpoint.

This is what `train` leaves, so that every later step works on a source model as it does on one that was trained here.
Nothing is computed: nodes are added for saving and restoring.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import DamagedError, UsageError
from tasks.forms import checkpoint_files, saver
from tasks.forms import saved_model as loader
from tasks.graphs import graph as graphs
from tasks.graphs import lookup_tables, rewrite, validate
from tasks.graphs import variables as graph_variables
from tasks.graphs.protos import MetaGraphDef
from tasks.graphs.variables import Slice
from tasks.parity.predictor import SessionPredictor
from tasks.records.settings import SessionOptions
from tasks.records.signature import GraphNames

_SCOPE = "tfship_"
Bring = Callable[[Path, Path], object]  # makes the second a file with the contents of the first

_AVERAGE = "/ExponentialMovingAverage"


def sources(meta: MetaGraphDef, prefix: Path, renamed: Mapping[str, str]) -> tuple[dict[str, Slice], Any | None]:
    """Return where a checkpoint holds each variable of a graph, and the graph's own SaverDef if it restores all of them.

    The graph's own saver is taken if this checkpoint holds all that it restores, otherwise the saver of the graph that
    finds most; without one, variables are found by their names. `renamed` (variable -> key) takes precedence.

    Raises:
        UsageError: `renamed` names a variable or a key that does not exist.
    """
    keys = set(saver.reader(prefix).get_variable_to_shape_map())
    variables = graph_variables.variable_facts(meta.graph_def)
    for variable, key in renamed.items():
        if variable not in variables or key not in keys:
            wrong, known = (variable, variables) if variable not in variables else (key, keys)
            listed = ", ".join(sorted(known)[:8])
            raise UsageError(
                "--var-map", "variables of the graph, and keys of the checkpoint", wrong, f"among {listed}."
            )
    savers = _savers(meta, keys)
    of_graph = [one for one in savers[:1] if one.complete and one.definition == meta.saver_def]
    best = of_graph[0] if of_graph else max(savers, key=lambda one: len(one.there), default=None)
    mapped = {name: Slice(key) for name, key in renamed.items()}
    if best is None:
        return {name: Slice(name) for name in variables if name in keys} | mapped, None
    return best.there | mapped, best.definition if best.complete and not mapped else None


def other_savers(
    meta: MetaGraphDef, prefix: Path, taken: Mapping[str, Slice], needed: Iterable[str]
) -> tuple[str, ...]:
    """Return notes on savers of the graph that restore needed variables from other keys, as one of moving averages does."""
    keys = set(saver.reader(prefix).get_variable_to_shape_map())
    needed, notes = sorted(needed), []
    for other in _savers(meta, keys):
        differ = [name for name in needed if other.complete and taken[name] != other.there.get(name, taken[name])]
        if differ:
            name = differ[0]
            more = f", and {len(differ) - 1} more likewise" if len(differ) > 1 else ""
            key = other.there[name].key
            notes.append(
                f"{name} is restored from {taken[name].key}{more}; another saver of the graph takes {key}: "
                "--var-map chooses"
            )
    return tuple(notes)


def unused_averages(
    meta: MetaGraphDef, prefix: Path, taken: Mapping[str, Slice], targets: Iterable[str]
) -> tuple[str, ...]:
    """Return notes on moving averages in a checkpoint, of what the outputs read themselves: of variables, of batch moments.

    (tensorflow/python/training/moving_averages.py names them.)
    """
    reached = graphs.Graph(meta.graph_def).reached_nodes(targets)
    read = {taken[name].key for name in reached if name in taken} | set(reached)
    held = sorted(key for key in saver.reader(prefix).get_variable_to_shape_map() if key.endswith(_AVERAGE))
    unused = [key for key in held if key not in read and key.removesuffix(_AVERAGE) in read]
    notes = []
    for of_variables in (True, False):
        keys = [key for key in unused if (key.removesuffix(_AVERAGE) in taken) is of_variables]
        if keys:
            more = f", and {len(keys) - 1} more likewise" if len(keys) > 1 else ""
            remedy = "--var-map chooses" if of_variables else "a graph made for inference would read that"
            name = keys[0].removesuffix(_AVERAGE)
            notes.append(f"the outputs read {name}, not its moving average {keys[0]}, which was saved{more}: {remedy}")
    return tuple(notes)


def with_saver(meta: MetaGraphDef, found: Mapping[str, Slice], own: Any | None) -> Any:
    """Return a MetaGraphDef with what a restore by Saver needs: restore nodes for `found`, the variables' collection.

    `own` is the graph's SaverDef if it restores `found`.

    Raises:
        DamagedError: the graph cannot be imported.
    """
    import tensorflow as tf

    graph = tf.Graph()
    with graph.as_default():
        try:
            producer = meta.meta_info_def.stripped_op_list
            tf.import_graph_def(meta.graph_def, name="", producer_op_list=producer if producer.op else None)
        except (ValueError, TypeError, KeyError, tf.errors.OpError) as error:
            sentence = str(error).split("\n")[0][:300]
            raise DamagedError("the graph", "one that can be imported", sentence, "save the model again.") from None
        definition = own if own is not None else _saver(graph, found)
        declared = {graphs.node_name(one.variable_name) for one in graph_variables.declared_variables(meta)}
        added = [_variable(graph, name) for name in sorted(found) if name not in declared]
    completed = type(meta)()
    completed.CopyFrom(meta)
    # The nodes of `meta` stay unchanged: TensorFlow cannot import again every graph that it writes.
    there = {node.name for node in meta.graph_def.node}
    completed.graph_def.node.extend(node for node in graph.as_graph_def().node if node.name not in there)
    completed.ClearField("saver_def")
    if definition is not None:
        completed.saver_def.CopyFrom(definition)
    for variable in added:
        completed.collection_def["variables"].bytes_list.value.append(variable.SerializeToString())
    return completed


def keep_variables(meta: MetaGraphDef) -> None:
    """Remove from the collections, in place, the variables that are not in the graph."""
    from tensorflow.core.framework import variable_pb2

    nodes = {node.name for node in meta.graph_def.node}
    for collection in meta.collection_def.values():
        if collection.WhichOneof("kind") == "bytes_list":
            kept = []
            for encoded in collection.bytes_list.value:
                variable = variable_pb2.VariableDef.FromString(encoded)
                named = (variable.variable_name, variable.initializer_name, variable.snapshot_name)
                if {graphs.node_name(name) for name in named if name} <= nodes:
                    kept.append(encoded)
            collection.bytes_list.value[:] = kept


def declared_nodes(meta: MetaGraphDef) -> list[str]:
    """Return the nodes from which a loader makes its variables: without them it restores none."""
    return [
        name
        for one in graph_variables.declared_variables(meta)
        for name in (one.variable_name, one.initializer_name, one.initial_value_name, one.snapshot_name)
        if name
    ]


def place(found: Mapping[str, Slice], prefix: Path, target: Path, bring: Bring) -> dict[str, Slice]:
    """Bring a checkpoint to another prefix, unchanged if each variable is one tensor; return where the variables are.

    Parts of partitioned variables become tensors of their own: later forms do not know parts.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if not any(source.spec for source in found.values()):
        for path in checkpoint_files.files(prefix):
            bring(path, target.with_name(target.name + path.name.removeprefix(prefix.name)))
        return dict(found)
    checkpoint = saver.reader(prefix)
    loader.write_bundle(
        target, ((name, saver.read_slice(checkpoint, source, prefix)) for name, source in sorted(found.items()))
    )
    return {name: Slice(name) for name in found}


def saved_model(folder: Path, tags: Iterable[str], out_meta: Path, out_prefix: Path) -> GraphNames:
    """Flatten an exported SavedModel: its graph to `out_meta`, its values to `out_prefix`, keyed by variables' names.

    Its assets stay in `folder`; the names list them.
    """
    with loader.session_of(folder, tags, SessionOptions()) as (session, meta):
        rewrite.modernise(meta)
        signatures = tuple(loader.signatures_in(meta.signature_def))
        outputs = [spec.tensor for signature in signatures for spec in signature.outputs.values()]
        table_init, assets, _ = lookup_tables.find(meta, outputs, folder)
        held = session_values(session, graph_variables.variable_facts(meta.graph_def), out_prefix)
    completed = with_saver(meta, held, None)
    out_meta.write_bytes(completed.SerializeToString(deterministic=True))
    return GraphNames(
        signatures=signatures,
        assets=assets,
        needed=tuple(sorted(graphs.Graph(completed.graph_def).variables(outputs))),
        table_init=table_init,
    )


def session_values(session: Any, variables: Iterable[str], target: Path) -> dict[str, Slice]:
    """Write the values of a session's variables as a checkpoint, one at a time; uninitialised ones are left out."""
    readers = SessionPredictor("", session, (), graph_variables.read_tensors(session.graph, variables))
    held: dict[str, Slice] = {}

    def values() -> Any:
        for name, value in readers.read():
            if value is not None:  # uninitialised; the coverage check finds out if the outputs need it
                held[name] = Slice(name)
                yield name, value

    target.parent.mkdir(parents=True, exist_ok=True)
    loader.write_bundle(target, values())
    return held


@dataclass(frozen=True)
class _Saver:
    """A saver of a graph; `there` are the variables that a checkpoint holds for it, `complete` if those are all."""

    definition: Any
    there: dict[str, Slice]
    complete: bool


def _savers(meta: MetaGraphDef, keys: set[str]) -> list[_Saver]:
    """Return the savers that find something among a checkpoint's keys, the graph's own first."""
    found = []
    for definition in validate.savers(meta):
        restored = graph_variables.restored_slices(meta.graph_def, definition)
        there = {name: source for name, source in restored.items() if source.key in keys}
        if there:
            found.append(_Saver(definition, there, len(there) == len(restored)))
    return found


def _saver(graph: Any, found: Mapping[str, Slice]) -> Any | None:
    """Add nodes that restore and save `found`, parts of tensors too, as Saver makes them; return their SaverDef.

    (tensorflow/python/training/saver.py.)
    """
    import tensorflow as tf
    from tensorflow.core.protobuf import saver_pb2

    if not found:
        return None
    names = sorted(found)
    keys, parts = [found[name].key for name in names], [found[name].spec for name in names]
    handles = [graph.get_operation_by_name(name) for name in names]
    dtypes = [handle.get_attr("dtype") for handle in handles]
    values = list(graph_variables.read_tensors(graph, names).values())
    with tf.name_scope(f"{_SCOPE}save/"):
        filename = tf.compat.v1.placeholder_with_default("model", (), name="filename")
        restored = tf.raw_ops.RestoreV2(prefix=filename, tensor_names=keys, shape_and_slices=parts, dtypes=dtypes)
        assigns = [_assign(handle, value) for handle, value in zip(handles, restored, strict=True)]
        restore = tf.group(*assigns, name="restore_all")
        saved = tf.raw_ops.SaveV2(
            prefix=filename,
            tensor_names=keys,
            shape_and_slices=parts,
            tensors=[graph.get_tensor_by_name(value) for value in values],
        )
        with tf.control_dependencies([saved]):
            written = tf.identity(filename, name="written")
    return saver_pb2.SaverDef(
        filename_tensor_name=filename.name,
        save_tensor_name=written.name,
        restore_op_name=restore.name,
        version=saver_pb2.SaverDef.V2,
    )


def _assign(handle: Any, value: Any) -> Any:
    import tensorflow as tf

    if handle.type == "VarHandleOp":
        return tf.raw_ops.AssignVariableOp(resource=handle.outputs[0], value=value)
    # As Saver does: a variable of an unknown shape accepts any.
    known = handle.outputs[0].shape.is_fully_defined()
    return tf.raw_ops.Assign(ref=handle.outputs[0], value=value, validate_shape=known).op


def _variable(graph: Any, name: str) -> Any:
    """Return the VariableDef from which a loader makes a variable. It needs an initialiser, which is never run."""
    import tensorflow as tf
    from tensorflow.core.framework import variable_pb2

    handle = graph.get_operation_by_name(name)
    dtype = handle.get_attr("dtype")
    dims = [max(dim.size, 0) for dim in handle.get_attr("shape").dim]
    resource = handle.type == "VarHandleOp"
    with tf.name_scope(f"{_SCOPE}variable/{name}/"):
        initial = tf.zeros(dims, dtype)
        assigned = _assign(handle, initial)
        if resource:
            snapshot = tf.raw_ops.ReadVariableOp(resource=handle.outputs[0], dtype=dtype)
        else:
            snapshot = tf.identity(handle.outputs[0])
    return variable_pb2.VariableDef(
        variable_name=handle.outputs[0].name,
        initializer_name=assigned.name,
        initial_value_name=initial.name,
        snapshot_name=snapshot.name,
        is_resource=resource,
        trainable=True,
    )
