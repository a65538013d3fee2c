"""Rewriting of graphs for inference: placeholders are pinned, inputs are cut off and given their shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tasks.graphs import graph as graphs
from tasks.graphs.protos import GraphDef, MetaGraphDef, NodeDef
from tasks.graphs.tensor_specs import Specs
from tasks.records.signature import Signature, TensorSpec
from tasks.tensors import tensor_file
from tasks.tensors.tensor_type import Shape, written

PINNED = "_tfship_pinned"  # marks a Const that was a placeholder: whoever trains must feed it again
_PLACEHOLDERS = ("Placeholder", "PlaceholderV2", "PlaceholderWithDefault")


def operated(graph_def: GraphDef, signatures: Iterable[Signature], pins: Mapping[str, Any]) -> tuple[Signature, ...]:
    """Pin and cut in place; the signatures by the tensors that are their inputs now.

    An input that several signatures share takes what any of them takes, but nothing that the graph itself does not.
    """
    import tensorflow as tf

    signatures = tuple(signatures)
    for tensor, value in pins.items():
        pin(graph_def, tensor, value)
    specs = Specs(graph_def)
    shapes: dict[str, Any] = {}
    dtypes: dict[str, str] = {}
    for signature in signatures:
        for spec in signature.inputs.values():
            shapes[spec.tensor] = _either(shapes.get(spec.tensor), spec.shape)
            dtypes[spec.tensor] = spec.dtype
    moved: dict[str, str] = {}
    for tensor, shape in shapes.items():
        node = _node(graph_def, tensor)
        if node.op in _PLACEHOLDERS:
            # Graphs of TensorFlow < 1.0 hold no shape here, or one that is not read.
            own = tf.TensorShape(specs.spec(tensor).shape)
            taken = shape.merge_with(own) if shape.is_compatible_with(own) else shape
            node.attr["shape"].shape.CopyFrom(taken.as_proto())
            node.attr.pop("_output_shapes", None)
        else:
            moved[tensor] = cut(graph_def, tensor, dtypes[tensor], shape)

    def renamed(specs: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
        return {
            alias: spec.model_copy(update={"tensor": moved.get(spec.tensor, spec.tensor)})
            for alias, spec in specs.items()
        }

    found = tuple(
        one.model_copy(update={"inputs": renamed(one.inputs), "outputs": renamed(one.outputs)}) for one in signatures
    )
    _rejoin(graph_def, found, moved)
    return found


def pin(graph_def: GraphDef, tensor: str, value: tensor_file.Array) -> None:
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


def cut(graph_def: GraphDef, tensor: str, dtype: str, shape: Any) -> str:
    """Make a placeholder of any tensor, in place: whoever read it reads the placeholder, whose tensor is returned."""
    import tensorflow as tf

    name, _, position = tensor.partition(":")
    taken = {node.name for node in graph_def.node}
    made = f"tfship_input/{name.rpartition('/')[2]}" + (f"_{position}" if position not in ("", "0") else "")
    while made in taken:
        made += "_"
    spellings = {name, f"{name}:0"} if position in ("", "0") else {tensor}
    for node in graph_def.node:
        for index, source in enumerate(node.input):
            if source in spellings:
                node.input[index] = made
    placeholder = graph_def.node.add(name=made, op="Placeholder")
    placeholder.attr["dtype"].type = tf.dtypes.as_dtype(dtype).as_datatype_enum
    placeholder.attr["shape"].shape.CopyFrom(shape.as_proto())
    return f"{made}:0"


def described(meta: MetaGraphDef, signatures: Iterable[Signature]) -> tuple[Signature, ...]:
    """Return the signatures with the dtypes and shapes that the graph gives their tensors, whatever was declared."""
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
                shape=_shape(tensor),
            )
            for alias, tensor in tensors_.items()
        }

    return tuple(
        one.model_copy(update={"inputs": found(one.inputs), "outputs": found(one.outputs)}) for one in signatures
    )


def reshaped(graph: Any, asked: Sequence[Signature], shipped: Sequence[Signature]) -> tuple[str, ...]:
    """Return notes on inputs whose shapes differ from the requested ones, or from those of the source model's graph."""
    notes = []
    for one, other in zip(asked, shipped, strict=True):
        for alias, spec in one.inputs.items():
            own, taken = _shape(graph.get_tensor_by_name(spec.tensor)), other.inputs[alias].shape
            where = f"input {alias} of {one.key}"
            if taken != spec.shape:
                notes.append(f"{where} takes {written(taken)}, where {written(spec.shape)} is declared")
            elif (
                own and taken and any(ours is not None and size is None for size, ours in zip(own, taken, strict=True))
            ):
                notes.append(f"{where} takes {written(taken)} only, as declared; the graph's own takes {written(own)}")
    return tuple(notes)


def _rejoin(graph_def: GraphDef, signatures: Sequence[Signature], moved: Mapping[str, str]) -> None:
    """Give a cut input its own way back, in place, where another signature computes what is fed there.

    (The example of TensorFlow Serving's own tutorial: `classify` parses what `predict` is fed.)
    """
    before = {graphs.node_name(placeholder): tensor for tensor, placeholder in moved.items()}
    computed: set[str] = set()
    while before:
        foreign: set[str] = set()
        for one in signatures:
            own = {graphs.node_name(spec.tensor) for spec in one.inputs.values()}
            foreign |= graphs.Graph(graph_def).reach(spec.tensor for spec in one.outputs.values()) & before.keys() - own
        if foreign <= computed:
            return
        for name in foreign - computed:
            node = _node(graph_def, name)
            node.op = "PlaceholderWithDefault"
            node.input.append(before[name])
        computed |= foreign


def _either(one: Any | None, other: Any) -> Any:
    """Return the TensorShape that covers both shapes."""
    import tensorflow as tf

    shape = tf.TensorShape(other)
    return shape if one is None else one.most_specific_compatible_shape(shape)


def _shape(tensor: Any) -> Shape:
    return None if tensor.shape.rank is None else tuple(tensor.shape.as_list())


def _node(graph_def: GraphDef, tensor: str) -> NodeDef:
    name = graphs.node_name(tensor)
    return next(node for node in graph_def.node if node.name == name)


def modernise(meta_graph: MetaGraphDef) -> MetaGraphDef:
    """Make an old MetaGraphDef importable, in place: clear devices, rename the `Variable` ops of TensorFlow < 1.

    `Variable` and `VariableV2` differ in shape inference only (tensorflow/core/ops/state_ops.cc); TensorFlow's own
    converter overlooks the first.
    """
    for node in graphs.Graph(meta_graph.graph_def).every_node():
        node.device = ""
        if node.op == "Variable":
            node.op = "VariableV2"
    return meta_graph


def name_assets(graph_def: GraphDef, assets: Iterable[Any]) -> None:
    """Leave only the name of the file, in place, in the Consts that hold the path of an asset: a path of one machine.

    The loader of the model feeds the path (tensorflow/cc/saved_model/loader.cc).
    """
    import tensorflow as tf

    names = {graphs.node_name(asset.tensor): asset.filename for asset in assets}
    for node in graph_def.node:
        if node.name in names and node.op == "Const":
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(names[node.name]))


def declare(meta: MetaGraphDef, signatures: Iterable[Signature]) -> None:
    """Write SignatureDefs into a MetaGraphDef, in place, so that its next reader finds them declared."""
    import tensorflow as tf
    from tensorflow.core.protobuf import meta_graph_pb2

    def info(spec: TensorSpec) -> Any:
        found = meta_graph_pb2.TensorInfo(name=spec.tensor, dtype=tf.dtypes.as_dtype(spec.dtype).as_datatype_enum)
        found.tensor_shape.CopyFrom(tf.TensorShape(spec.shape).as_proto())
        return found

    meta.ClearField("signature_def")
    for signature in signatures:
        definition = meta.signature_def[signature.key]
        definition.method_name = signature.method.value
        for side, specs in ((definition.inputs, signature.inputs), (definition.outputs, signature.outputs)):
            for name, spec in specs.items():
                side[name].CopyFrom(info(spec))
