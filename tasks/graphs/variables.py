"""Variables of a GraphDef: which there are, what a Saver restores into them, and the tensors that read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.graphs.graph import VARIABLE_OPS, Graph, attribute, node_name, output_index
from tasks.graphs.protos import GraphDef, MetaGraphDef, NodeDef
from tasks.tensors.tensor_type import Shape

# Every op that only makes sense with a variable's state: none may be left in a frozen graph.
STATEFUL_OPS = VARIABLE_OPS | {
    "Assign",
    "AssignAdd",
    "AssignSub",
    "AssignVariableOp",
    "AssignAddVariableOp",
    "AssignSubVariableOp",
    "IsVariableInitialized",
    "ReadVariableOp",
    "ResourceGather",
    "ResourceGatherNd",
    "VarIsInitializedOp",
    "VariableShape",
}


def variable_facts(graph_def: GraphDef) -> dict[str, tuple[str, Shape]]:
    """Return (dtype, shape) of every variable operation; an open shape is fixed by the value."""
    import tensorflow as tf

    def shape(node: NodeDef) -> Shape:
        proto = attribute(node, "shape").shape
        return None if proto.unknown_rank else tuple(None if dim.size < 0 else dim.size for dim in proto.dim)

    return {
        node.name: (tf.dtypes.as_dtype(attribute(node, "dtype").type).base_dtype.name, shape(node))
        for node in graph_def.node
        if node.op in VARIABLE_OPS
    }


def takes(shape: Shape, found: tuple[int, ...]) -> bool:
    """Return True if a variable of `shape` can hold a value of the shape `found`."""
    if shape is None:
        return True
    return len(shape) == len(found) and all(one in (None, size) for one, size in zip(shape, found, strict=True))


def read_tensors(graph: Any, variables: Iterable[str]) -> dict[str, str]:
    """Map variable operations of a tf.Graph to tensors with their values; resource variables get a new read operation."""
    import tensorflow as tf

    found = {}
    for name in variables:
        operation = graph.get_operation_by_name(name)
        tensor = operation.outputs[0]
        if operation.type == "VarHandleOp":
            with graph.as_default(), graph.name_scope("tfship_read/"):
                tensor = tf.raw_ops.ReadVariableOp(resource=tensor, dtype=operation.get_attr("dtype"))
        found[name] = tensor.name
    return found


@dataclass(frozen=True)
class Slice:
    """The tensor of a checkpoint that holds a variable: its key, and the slice of it for a partitioned variable.

    `spec` is "" for all of it, else `10 4 0,5:-`: the full shape, then start and length of each dimension, `-` for all
    (tensorflow/python/ops/variables.py, SaveSliceInfo; core/framework/tensor_slice.h).
    """

    key: str
    spec: str = ""

    @property
    def window(self) -> tuple[slice, ...]:
        """The slice as an index into the full tensor."""
        parts = self.spec.split(" ")[-1].split(":") if self.spec else []
        edges = [None if part == "-" else [int(number) for number in part.split(",")] for part in parts]
        return tuple(slice(None) if edge is None else slice(edge[0], edge[0] + edge[1]) for edge in edges)

    def shape(self, full: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the slice of a tensor of shape `full`."""
        window = self.window or tuple(slice(None) for _ in full)
        return tuple(len(range(*part.indices(size))) for part, size in zip(window, full, strict=False))


def restored(graph_def: GraphDef, saver_def: Any) -> dict[str, str]:
    """Map each variable operation that a Saver restores to its key in the checkpoint."""
    return {name: source.key for name, source in restored_slices(graph_def, saver_def).items()}


def restored_slices(graph_def: GraphDef, saver_def: Any) -> dict[str, Slice]:
    """Map each variable operation that a Saver restores to what is read from the checkpoint.

    Keys count, not the names of operations: a moving average is restored under another name than its own.
    (tensorflow/python/training/saver.py: restore ops are Assigns fed by RestoreV2, gathered under `restore_all`.)
    """
    nodes = Graph(graph_def).nodes
    assigns: dict[str, Slice] = {}
    waiting, seen = [node_name(saver_def.restore_op_name)], set()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in nodes:
            continue
        seen.add(name)
        node = nodes[name]
        if node.op in ("Assign", "AssignVariableOp"):
            source = _restored_slice(nodes, node.input[1])
            if source is not None:
                assigns[node_name(node.input[0])] = source
        waiting.extend(node_name(source) for source in node.input if source.startswith("^"))
    return assigns


def _restored_slice(nodes: Mapping[str, NodeDef], tensor: str) -> Slice | None:
    import tensorflow as tf

    def listed(name: str) -> Any:
        return tf.make_ndarray(attribute(nodes[node_name(name)], "value").tensor).ravel()

    while True:
        node = nodes[node_name(tensor)]
        if node.op in ("Identity", "Reshape", "Cast"):
            tensor = node.input[0]
            continue
        if node.op not in ("RestoreV2", "Restore", "RestoreSlice"):
            return None
        position = output_index(tensor)
        specs = listed(node.input[2]) if node.op != "Restore" else [b""]
        return Slice(listed(node.input[1])[position].decode(), specs[position].decode())


def declared_variables(meta: MetaGraphDef, collection: str = "variables") -> list[Any]:
    """Return the VariableDefs in a collection of a MetaGraphDef."""
    from tensorflow.core.framework import variable_pb2

    if collection not in meta.collection_def:
        return []
    return [variable_pb2.VariableDef.FromString(one) for one in meta.collection_def[collection].bytes_list.value]


def signature_targets(names: Any) -> list[str]:
    """Return every tensor and operation that a model's GraphNames name: outputs, inputs, and the tables' initialiser."""
    wanted = [spec.tensor for one in names.signatures for specs in (one.outputs, one.inputs) for spec in specs.values()]
    return wanted + ([names.table_init] if names.table_init else [])
