"""Flattening: a graph and its values, however they were saved, become one MetaGraphDef with a Saver and one checkpoint.

That is what `train` leaves, so every later step works on what was brought as it does on what was trained. Nothing is
computed here: nodes are added for saving and restoring, placeholders are pinned, inputs are cut free.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tasks.errors import DamagedError, UsageError
from tasks.forms import graph as graphs
from tasks.forms import saved_model as loader
from tasks.forms import saver, tables, tensors
from tasks.forms.graph import Slice
from tasks.records.settings import SessionOptions
from tasks.records.signature import GraphNames, Signature, TensorSpec

_SCOPE = "tfship_"
PINNED = "_tfship_pinned"  # marks a Const that was a placeholder: whoever trains must feed it again


def sources(meta: Any, prefix: Path, renamed: Mapping[str, str]) -> tuple[dict[str, Slice], Any | None]:
    """Where a checkpoint holds each variable of a graph, and the graph's own SaverDef if that finds all of them there.

    Of several savers in a graph the one is taken that finds most in this checkpoint; where there is none, variables are
    found by their names. `renamed` (variable -> key) comes before either.

    Raises:
        UsageError: `renamed` names a variable or a key that there is not.
    """
    from tensorflow.core.protobuf import saver_pb2

    keys = set(saver.reader(prefix).get_variable_to_shape_map())
    variables = graphs.variable_facts(meta.graph_def)
    for variable, key in renamed.items():
        if variable not in variables or key not in keys:
            wrong, known = (variable, variables) if variable not in variables else (key, keys)
            listed = ", ".join(sorted(known)[:8])
            raise UsageError(
                "--var-map", "variables of the graph, and keys of the checkpoint", wrong, f"among {listed}."
            )
    definitions = [meta.saver_def] if meta.saver_def.restore_op_name else []
    if "savers" in meta.collection_def:
        held = meta.collection_def["savers"].bytes_list.value
        definitions += [saver_pb2.SaverDef.FromString(encoded) for encoded in held]
    best: dict[str, Slice] = {}
    chosen = None
    for definition in definitions:
        restored = graphs.restored_slices(meta.graph_def, definition)
        there = {name: source for name, source in restored.items() if source.key in keys}
        if len(there) > len(best):
            best = there
            chosen = definition if len(there) == len(restored) else None
    by_name = {name: Slice(name) for name in variables if name in keys}
    asked = {name: Slice(key) for name, key in renamed.items()}
    own = bool(best) and not asked and chosen is not None
    return {**({} if best else by_name), **best, **asked}, chosen if own else None


def with_saver(meta: Any, found: Mapping[str, Slice], own: Any | None) -> Any:
    """The MetaGraphDef with what a restore by Saver needs: restore nodes for `found`, the variables' collection.

    `own` is the graph's SaverDef where it serves.

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
            found_words = str(error).split("\n")[0][:300]
            raise DamagedError("the graph", "one that can be imported", found_words, "save the model again.") from None
        definition = own if own is not None else _saver(graph, found)
        declared = _declared(meta)
        added = [_variable(graph, name) for name in sorted(found) if name not in declared]
    completed = type(meta)()
    completed.CopyFrom(meta)
    # What was there stays as it was: TensorFlow cannot import every graph again that it writes.
    there = {node.name for node in meta.graph_def.node}
    completed.graph_def.node.extend(node for node in graph.as_graph_def().node if node.name not in there)
    completed.ClearField("saver_def")
    if definition is not None:
        completed.saver_def.CopyFrom(definition)
    for variable in added:
        completed.collection_def["variables"].bytes_list.value.append(variable.SerializeToString())
    return completed


def keep_variables(meta: Any) -> None:
    """Forget, in place, the variables in collections that are not in the graph (any more)."""
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


def place(found: Mapping[str, Slice], prefix: Path, target: Path) -> dict[str, Slice]:
    """Put a checkpoint's files under another prefix, unchanged where each variable is one tensor; return its sources.

    Parts of partitioned variables are written as tensors of their own, for nothing else understands them.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if not any(source.spec for source in found.values()):
        for path in saver.files(prefix):
            shutil.copyfile(path, target.with_name(target.name + path.name.removeprefix(prefix.name)))
        return dict(found)
    checkpoint = saver.reader(prefix)
    loader.write_bundle(
        target, ((name, saver.read_slice(checkpoint, source, prefix)) for name, source in sorted(found.items()))
    )
    return {name: Slice(name) for name in found}


def saved_model(folder: Path, tags: Iterable[str], out_meta: Path, out_prefix: Path) -> GraphNames:
    """Flatten a SavedModel that we wrote: its graph to `out_meta`, its values to `out_prefix`, keyed by variables' names.

    Its assets stay where they are; the names say which they are.
    """
    with loader.session_of(folder, tags, SessionOptions()) as (session, meta):
        graphs.modernise(meta)
        signatures = tuple(loader.signatures_in(meta.signature_def))
        outputs = [spec.tensor for signature in signatures for spec in signature.outputs.values()]
        table_init, assets, _ = tables.find(meta, outputs, folder)
        held = session_values(session, graphs.variable_facts(meta.graph_def), out_prefix)
    completed = with_saver(meta, held, None)
    out_meta.write_bytes(completed.SerializeToString(deterministic=True))
    return GraphNames(
        signatures=signatures,
        assets=assets,
        needed=tuple(sorted(graphs.variables_needed(completed.graph_def, outputs))),
        table_init=table_init,
    )


def pin(graph_def: Any, tensor: str, value: tensors.Array) -> None:
    """Make the placeholder behind `tensor` a constant, in place."""
    import tensorflow as tf

    node = _node(graph_def, tensor)
    dtype = node.attr["dtype"].type
    node.op = "Const"
    del node.input[:]
    for name in list(node.attr):
        if not name.startswith("_"):
            del node.attr[name]
    node.attr.pop("_output_shapes", None)
    node.attr["dtype"].type = dtype
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value, dtype=tf.dtypes.as_dtype(dtype)))
    node.attr[PINNED].b = True


def cut(graph_def: Any, tensor: str, spec: TensorSpec) -> str:
    """Make a placeholder of any tensor, in place: whoever read it reads the placeholder, whose tensor is returned."""
    import tensorflow as tf

    name, _, position = tensor.partition(":")
    taken = {node.name for node in graph_def.node}
    made = f"{_SCOPE}input/{name.rpartition('/')[2]}" + (f"_{position}" if position not in ("", "0") else "")
    while made in taken:
        made += "_"
    spellings = {name, f"{name}:0"} if position in ("", "0") else {tensor}
    for node in graph_def.node:
        for index, source in enumerate(node.input):
            if source in spellings:
                node.input[index] = made
    placeholder = graph_def.node.add(name=made, op="Placeholder")
    placeholder.attr["dtype"].type = tf.dtypes.as_dtype(spec.dtype).as_datatype_enum
    placeholder.attr["shape"].shape.CopyFrom(tf.TensorShape(spec.shape).as_proto())
    return f"{made}:0"


def operated(graph_def: Any, signatures: Iterable[Signature], pins: Mapping[str, Any]) -> tuple[Signature, ...]:
    """Pin and cut in place; the signatures by the tensors that are their inputs now."""
    import tensorflow as tf

    signatures = tuple(signatures)
    for tensor, value in pins.items():
        pin(graph_def, tensor, value)
    moved: dict[str, str] = {}
    for signature in signatures:
        for spec in signature.inputs.values():
            node = _node(graph_def, spec.tensor)
            if node.op in ("Placeholder", "PlaceholderV2", "PlaceholderWithDefault"):
                # Graphs of TensorFlow < 1.0 hold no shape here, or one that is not read.
                node.attr["shape"].shape.CopyFrom(tf.TensorShape(spec.shape).as_proto())
                node.attr.pop("_output_shapes", None)
            elif spec.tensor not in moved:
                moved[spec.tensor] = cut(graph_def, spec.tensor, spec)

    def renamed(specs: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
        return {
            alias: spec.model_copy(update={"tensor": moved.get(spec.tensor, spec.tensor)})
            for alias, spec in specs.items()
        }

    return tuple(
        one.model_copy(update={"inputs": renamed(one.inputs), "outputs": renamed(one.outputs)}) for one in signatures
    )


def described(meta: Any, signatures: Iterable[Signature]) -> tuple[Signature, ...]:
    """The signatures with the dtypes and shapes that the graph gives their tensors, whatever was declared of them."""
    import tensorflow as tf

    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(meta.graph_def, name="")

    def found(specs: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
        tensors_ = {alias: graph.get_tensor_by_name(spec.tensor) for alias, spec in specs.items()}
        return {
            alias: TensorSpec(
                tensor=specs[alias].tensor,
                dtype=tensor.dtype.base_dtype.name,
                shape=None if tensor.shape.rank is None else tuple(tensor.shape.as_list()),
            )
            for alias, tensor in tensors_.items()
        }

    return tuple(
        one.model_copy(update={"inputs": found(one.inputs), "outputs": found(one.outputs)}) for one in signatures
    )


def session_values(session: Any, variables: Iterable[str], target: Path) -> dict[str, Slice]:
    """Write the values of a session's variables as a checkpoint, one by one; those without a value are left out."""
    import tensorflow as tf

    readers = graphs.readers(session.graph, variables)
    held: dict[str, Slice] = {}

    def values() -> Any:
        for name, tensor in readers.items():
            try:
                value = tensors.as_array(session.run(tensor))
            except tf.errors.FailedPreconditionError:
                continue  # nobody gave it a value; coverage says whether the outputs need it
            held[name] = Slice(name)
            yield name, value

    target.parent.mkdir(parents=True, exist_ok=True)
    loader.write_bundle(target, values())
    return held


def _node(graph_def: Any, tensor: str) -> Any:
    name = graphs.node_name(tensor)
    return next(node for node in graph_def.node if node.name == name)


def _declared(meta: Any) -> set[str]:
    from tensorflow.core.framework import variable_pb2

    if "variables" not in meta.collection_def:
        return set()
    held = meta.collection_def["variables"].bytes_list.value
    return {graphs.node_name(variable_pb2.VariableDef.FromString(encoded).variable_name) for encoded in held}


def _saver(graph: Any, found: Mapping[str, Slice]) -> Any | None:
    """Nodes that restore `found` by key, and save it again, as Saver makes them (python/training/saver.py)."""
    import tensorflow as tf
    from tensorflow.core.protobuf import saver_pb2

    if not found:
        return None
    names = sorted(found)
    keys, whole = [found[name].key for name in names], [""] * len(found)
    handles = [graph.get_operation_by_name(name) for name in names]
    dtypes = [handle.get_attr("dtype") for handle in handles]
    values = list(graphs.readers(graph, names).values())
    with tf.name_scope(f"{_SCOPE}save/"):
        filename = tf.compat.v1.placeholder_with_default("model", (), name="filename")
        restored = tf.raw_ops.RestoreV2(prefix=filename, tensor_names=keys, shape_and_slices=whole, dtypes=dtypes)
        assigns = [_assign(handle, value) for handle, value in zip(handles, restored, strict=True)]
        restore = tf.group(*assigns, name="restore_all")
        saved = tf.raw_ops.SaveV2(
            prefix=filename,
            tensor_names=keys,
            shape_and_slices=whole,
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
    return tf.raw_ops.Assign(ref=handle.outputs[0], value=value).op


def _variable(graph: Any, name: str) -> Any:
    """The VariableDef that a loader rebuilds a variable from. Its initialiser is there for form, and never run."""
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
