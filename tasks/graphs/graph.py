"""Reading a GraphDef without running it: what the outputs reach, which variables those need, what a restore writes.

Works on protos. Names are as in GraphDef: `node`, `node:1`, `^node` for a control input.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tasks.errors import PipelineError
from tasks.records.baseline import TensorFact
from tasks.tensors import tensor_file

OpenShape = tuple[int | None, ...] | None
"""A variable's shape: a size is None where any goes, the whole where any rank goes."""

# Every op that holds a variable's state; the first two are TF1's reference variables.
VARIABLE_OPS = frozenset({"Variable", "VariableV2", "VarHandleOp", "TemporaryVariable", "AutoReloadVariable"})
# Every op that only makes sense with such a state: none may be left in a frozen graph.
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


# Every op whose state lies outside variables and comes back with no restore of theirs: mutable tables, queues,
# iterators, tree ensembles. (Immutable hash tables are filled by their initialiser, each time the model is loaded.)
OTHER_STATE = re.compile(
    r"(Anonymous)?Mutable(Dense)?HashTable\w*|(FIFO|PaddingFIFO|RandomShuffle|Priority)Queue(V2)?|Barrier"
    r"|(Anonymous|OneShot)?Iterator(V[23])?|\w*ConditionalAccumulator|(BoostedTrees|DecisionTree|FertileStats)\w*"
)


def attribute(node: Any, name: str) -> Any:
    """An attribute's AttrValue, an empty one where the node has none: asking a protobuf map itself would add it."""
    return node.attr[name] if name in node.attr else _no_attribute()


@lru_cache(maxsize=1)
def _no_attribute() -> Any:
    from tensorflow.core.framework import attr_value_pb2

    return attr_value_pb2.AttrValue()


def node_name(tensor: str) -> str:
    """The node that a tensor or control input comes from."""
    return tensor.lstrip("^").split(":")[0]


def reached(graph_def: Any, targets: Iterable[str]) -> set[str]:
    """The names of all nodes that `targets` (tensors or operations) depend on, themselves included.

    Raises:
        PipelineError: a target is not in the graph.
    """
    nodes = {node.name: node for node in graph_def.node}
    waiting = [node_name(target) for target in targets]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        if name not in nodes:
            raise PipelineError(
                "the graph", f"a node named {name!r}", f"{len(nodes)} other nodes", "name a tensor of this graph."
            )
        found.add(name)
        waiting.extend(node_name(source) for source in nodes[name].input)
    return found


def variables_needed(graph_def: Any, targets: Iterable[str]) -> set[str]:
    """The variable operations that `targets` read, directly or through functions that take them as arguments."""
    names = reached(graph_def, targets)
    return {node.name for node in graph_def.node if node.name in names and node.op in VARIABLE_OPS}


def reached_nodes(graph_def: Any, targets: Iterable[str]) -> dict[str, Any]:
    """Every node that `targets` depend on, with the bodies of the functions that they call.

    A node of a function is called `node@function`, for its own name is unique in its function only; no node's name has
    an `@` (tensorflow/core/graph/graph_constructor.cc), so nobody can hide one behind the other.
    """
    names = reached(graph_def, targets)
    found = {node.name: node for node in graph_def.node if node.name in names}
    functions = {function.signature.name: function for function in graph_def.library.function}
    for name in called(functions, found.values()):
        found |= {f"{node.name}@{name}": node for node in functions[name].node_def}
    return found


def called(functions: Mapping[str, Any], nodes: Iterable[Any]) -> set[str]:
    """The functions that these nodes lead to, directly or through another function."""
    found: set[str] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        names = [node.op]
        for attribute in node.attr.values():
            names += [attribute.func.name, *(function.name for function in attribute.list.func)]
        for name in names:
            if name in functions and name not in found:
                found.add(name)
                waiting.extend(functions[name].node_def)
    return found


def other_state(graph_def: Any, targets: Iterable[str]) -> list[str]:
    """What `targets` read that no restored variable holds: `name (op)`."""
    nodes = reached_nodes(graph_def, targets)
    return sorted(f"{name} ({node.op})" for name, node in nodes.items() if OTHER_STATE.fullmatch(node.op))


def constants(graph_def: Any, targets: Iterable[str], assets: Iterable[Any]) -> Iterator[TensorFact]:
    """Every constant that `targets` read, paths of assets excepted: weights can be baked in, too."""
    import tensorflow as tf

    paths = {node_name(asset.tensor) for asset in assets}
    for name, node in reached_nodes(graph_def, targets).items():
        if node.op == "Const" and name not in paths:
            yield tensor_file.fact(name, tensor_file.as_array(tf.make_ndarray(attribute(node, "value").tensor)))


def all_nodes(graph_def: Any) -> Iterator[Any]:
    """Every node of the graph and of every function in its library."""
    yield from graph_def.node
    for function in graph_def.library.function:
        yield from function.node_def


def drop_unused_functions(graph_def: Any) -> None:
    """Remove from the library, in place, every function that no node of the graph leads to."""
    functions = {function.signature.name: function for function in graph_def.library.function}
    gradients = {gradient.function_name: gradient for gradient in graph_def.library.gradient}
    kept = called(functions, graph_def.node)
    while more := {gradients[name].gradient_func for name in kept if name in gradients} - kept:
        kept |= more | called(functions, (node for name in more for node in functions[name].node_def))
    library = type(graph_def.library)()
    library.function.extend(function for name, function in functions.items() if name in kept)
    library.gradient.extend(gradient for name, gradient in gradients.items() if name in kept)
    graph_def.library.CopyFrom(library)


def variable_facts(graph_def: Any) -> dict[str, tuple[str, OpenShape]]:
    """(dtype, shape) of every variable operation; a shape may be open, and is the value's then."""
    import tensorflow as tf

    def shape(node: Any) -> OpenShape:
        proto = attribute(node, "shape").shape
        return None if proto.unknown_rank else tuple(None if dim.size < 0 else dim.size for dim in proto.dim)

    return {
        node.name: (tf.dtypes.as_dtype(attribute(node, "dtype").type).base_dtype.name, shape(node))
        for node in graph_def.node
        if node.op in VARIABLE_OPS
    }


def takes(shape: OpenShape, found: tuple[int, ...]) -> bool:
    """Whether a variable of that shape can hold a value of the other."""
    if shape is None:
        return True
    return len(shape) == len(found) and all(one in (None, size) for one, size in zip(shape, found, strict=True))


def readers(graph: Any, variables: Iterable[str]) -> dict[str, str]:
    """For each variable operation a tensor that holds its value; resource variables get a new read operation."""
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
    """Where a checkpoint holds a variable: its key, and for a part of a partitioned one which part of that tensor.

    `spec` is "" for the whole, else `10 4 0,5:-`: the whole shape, then start and length of each dimension, `-` for all
    (tensorflow/python/ops/variables.py, SaveSliceInfo; core/framework/tensor_slice.h).
    """

    key: str
    spec: str = ""

    @property
    def window(self) -> tuple[slice, ...]:
        """The part, as an index into the whole."""
        parts = self.spec.split(" ")[-1].split(":") if self.spec else []
        edges = [None if part == "-" else [int(number) for number in part.split(",")] for part in parts]
        return tuple(slice(None) if edge is None else slice(edge[0], edge[0] + edge[1]) for edge in edges)

    def shape(self, whole: tuple[int, ...]) -> tuple[int, ...]:
        """The part's shape, of a tensor of shape `whole`."""
        window = self.window or tuple(slice(None) for _ in whole)
        return tuple(len(range(*part.indices(size))) for part, size in zip(window, whole, strict=False))


def restored(graph_def: Any, saver_def: Any) -> dict[str, str]:
    """What a Saver's restore operation writes: variable operation -> the key it reads from the checkpoint."""
    return {name: source.key for name, source in restored_slices(graph_def, saver_def).items()}


def restored_slices(graph_def: Any, saver_def: Any) -> dict[str, Slice]:
    """What a Saver's restore operation writes: variable operation -> what it reads from the checkpoint.

    Keys are what counts, not operation names: a moving average is restored under another name than its own.
    (tensorflow/python/training/saver.py: restore ops are Assigns fed by RestoreV2, gathered under `restore_all`.)
    """
    nodes = {node.name: node for node in graph_def.node}
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


def _restored_slice(nodes: Mapping[str, Any], tensor: str) -> Slice | None:
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
        position = int(tensor.partition(":")[2] or 0)
        specs = listed(node.input[2]) if node.op != "Restore" else [b""]
        return Slice(listed(node.input[1])[position].decode(), specs[position].decode())


def modernise(meta_graph: Any) -> Any:
    """Make an old MetaGraphDef importable: devices cleared, TF<1 `Variable` ops given their later name, in place.

    `Variable` and `VariableV2` differ in nothing but shape inference (tensorflow/core/ops/state_ops.cc); TensorFlow's
    own converter overlooks the first.
    """
    for node in all_nodes(meta_graph.graph_def):
        node.device = ""
        if node.op == "Variable":
            node.op = "VariableV2"
    return meta_graph


def name_assets(graph_def: Any, assets: Iterable[Any]) -> None:
    """Leave only the file's name, in place, in the Consts that hold an asset's path: the path was of one machine.

    Whoever loads the model feeds the path (tensorflow/cc/saved_model/loader.cc).
    """
    import tensorflow as tf

    names = {node_name(asset.tensor): asset.filename for asset in assets}
    for node in graph_def.node:
        if node.name in names and node.op == "Const":
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(names[node.name]))


def declare(meta: Any, signatures: Iterable[Any]) -> None:
    """Write SignatureDefs into a MetaGraphDef, in place: whoever reads it again need not be told."""
    import tensorflow as tf
    from tensorflow.core.protobuf import meta_graph_pb2

    def info(spec: Any) -> Any:
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


def targets(names: Any) -> list[str]:
    """Every tensor and operation that a model's signatures name: outputs, inputs that no output may need, tables' filling."""
    wanted = [spec.tensor for one in names.signatures for specs in (one.outputs, one.inputs) for spec in specs.values()]
    return wanted + ([names.table_init] if names.table_init else [])
