"""The tensors of a GraphDef by name: what they are, and what they depend on. Works on the proto.

Shapes that no attribute tells are inferred by importing the part of the graph that leads to them. That runs no op of a
signature, but TensorFlow folds constants while it imports, and `ReadFile` of a constant is such a fold: so a part that
`ops` would refuse is never imported, and its shapes stay unknown.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from typing import Any

from tasks.errors import UsageError
from tasks.graphs import graph as graphs
from tasks.graphs import scan
from tasks.graphs.graph import Graph, full_name, output_index
from tasks.graphs.protos import GraphDef
from tasks.graphs.validate import output_types
from tasks.records.signature import TensorSpec
from tasks.tensors.tensor_type import Shape

PLACEHOLDERS = ("Placeholder", "PlaceholderV2")
# What hands a graph its batches without being asked by name.
FEEDERS = (
    *("IteratorGetNext", "IteratorGetNextSync", "IteratorGetNextAsOptional", "QueueDequeue", "QueueDequeueV2"),
    *("QueueDequeueMany", "QueueDequeueManyV2", "QueueDequeueUpTo", "QueueDequeueUpToV2", "ReaderRead", "ReaderReadV2"),
    *("ReaderReadUpTo", "ReaderReadUpToV2", "InfeedDequeue", "InfeedDequeueTuple", "Unstage", "MapUnstage"),
)
_LEGACY_SCALAR = 21  # up to this producer, a scalar may mean any shape (tensorflow/core/ops/array_ops.cc, Placeholder)
_REFERENCE = 100  # DT_FLOAT_REF = DT_FLOAT + 100 (tensorflow/core/framework/types.proto)
_HANDLES = frozenset({20, 21})  # DT_RESOURCE, DT_VARIANT


class Specs:
    """The tensors of one graph."""

    def __init__(self, graph_def: GraphDef) -> None:
        self.graph = Graph(graph_def)
        self.graph_def, self.nodes = graph_def, self.graph.nodes
        self._inferred: dict[str, Shape] = {}

    def types(self, name: str) -> list[int]:
        """Return the dtypes of a node's outputs, as enum values; empty if its op is unknown."""
        found = output_types(self.nodes[name], self.graph)
        return [dtype - _REFERENCE if dtype > _REFERENCE else dtype for dtype in found]

    def named(self, name: str, option: str) -> str:
        """Return the full name, `node:0`, of a tensor that the user named, by it or by its operation's name.

        A variable, of either kind, stands for its value: the tensor by which the graph reads it.

        Raises:
            UsageError: there is none; the message lists similar names.
        """
        node, _, position = name.partition(":")
        if node not in self.nodes:
            lower = {key.lower(): key for key in self.nodes}
            near = [lower[key] for key in difflib.get_close_matches(node.lower(), lower, n=5, cutoff=0.5)]
            near += [key for key in self.nodes if key.endswith("/" + node) and key not in near][:5]
            found = f"none; similar names are {', '.join(near)}" if near else f"{len(self.nodes)} nodes of other names"
            raise UsageError(option, f"a tensor named {name!r}", found, "name one that `tfship inspect` lists.")
        types = self.types(node)
        index = int(position) if position.isdigit() else 0
        if not types or index >= len(types):
            op = self.nodes[node].op
            has = f"{len(types)} of {op}" if types else f"{op}, which has none that is known"
            raise UsageError(option, f"output {index} of {node}", f"outputs: {has}", "name a tensor, `node:0`.")
        if self.nodes[node].op in graphs.VARIABLE_OPS and (value := self.value_of(node)):
            return value
        if types[index] in _HANDLES:
            raise UsageError(option, "a tensor with a value", f"{node}:{index}, a handle", "name what reads it.")
        self.require_one_value(f"{node}:{index}", option)
        return f"{node}:{index}"

    def require_one_value(self, tensor: str, option: str) -> None:
        """Raise UsageError for a tensor within a loop of TensorFlow 1, which nothing outside of the loop can fetch."""
        node = graphs.node_name(tensor)
        if node in self.graph.in_loops:
            found = f"{tensor}, which has one in each iteration of a loop"
            ends = ", ".join(self._ends_of_loop(node)) or "there is none"
            raise UsageError(option, "a tensor of one value", found, f"name what leaves the loop: {ends}.")

    def _ends_of_loop(self, node: str) -> list[str]:
        """Return the tensors that leave the loop of a node and depend on it, at most three."""
        waiting, seen, found = [node], {node}, []
        while waiting:
            for read in self.graph.body.readers.get(waiting.pop(0), ()):
                name = read.node.name
                if name not in self.graph.in_loops:
                    found.append(f"{name}:0")
                elif name not in seen:
                    waiting.append(name)
                seen.add(name)
        return sorted(set(found))[:3]

    def value_of(self, variable: str) -> str | None:
        """Return the tensor by which the graph reads a variable, or None; the variable's own `…/read` if there is one."""
        reads = [
            read.node.name
            for read in self.graph.body.readers.get(variable, ())
            if read.node.op in ("Identity", "ReadVariableOp")
        ]
        first = sorted(reads, key=lambda name: not name.startswith(f"{variable}/"))[:1]
        return f"{first[0]}:0" if first else None

    def spec(self, tensor: str) -> TensorSpec:
        """Return the dtype and shape of a tensor, as `infer` and the attributes of its node give them."""
        import tensorflow as tf

        node, index = graphs.node_name(tensor), output_index(tensor)
        types = self.types(node)
        known = index < len(types) and bool(types[index])
        dtype = tf.dtypes.as_dtype(types[index]).name if known else "unknown"
        return TensorSpec(tensor=tensor, dtype=dtype, shape=self._shape(tensor))

    def _shape(self, tensor: str) -> Shape:
        said = self._said(tensor)
        return said if said is not None else self._inferred.get(tensor)

    def _said(self, tensor: str) -> Shape:
        """Return the shape that attributes give, or None."""
        name, index = graphs.node_name(tensor), output_index(tensor)
        node = self.nodes[name]
        proto = None
        if "_output_shapes" in node.attr and index < len(node.attr["_output_shapes"].list.shape):
            proto = node.attr["_output_shapes"].list.shape[index]
        elif node.op in ("Const", "HostConst"):
            proto = graphs.attribute(node, "value").tensor.tensor_shape
        elif "shape" in node.attr and (node.op.startswith("Placeholder") or node.op in graphs.VARIABLE_OPS):
            proto = node.attr["shape"].shape
            if not proto.dim and node.op == "Placeholder" and self.graph_def.versions.producer <= _LEGACY_SCALAR:
                return None
        elif "output_shapes" in node.attr and index < len(node.attr["output_shapes"].list.shape):
            proto = node.attr["output_shapes"].list.shape[index]
        return None if proto is None else shape_of(proto)

    def infer(self, tensors: Iterable[str], stops: Collection[str] = ()) -> None:
        """Learn the shapes of `tensors` and of all that they depend on, down to `stops`, as far as can be."""
        import tensorflow as tf

        part = self._part(list(tensors), set(stops))
        found = scan.scan(part, [node.name for node in part.node])
        if found.unsafe or found.unknown:
            return
        graph = tf.Graph()
        try:
            with graph.as_default():
                tf.import_graph_def(part, name="")
        except (ValueError, TypeError, KeyError, tf.errors.OpError):
            return  # what is wrong with it is said where it is loaded; here only shapes stay unknown
        for operation in graph.get_operations():
            for output in operation.outputs:
                shape: Shape = None if output.shape.rank is None else tuple(output.shape.as_list())
                if shape is None and operation.type in PLACEHOLDERS:
                    shape = _taken_by(output)
                if shape is not None:
                    self._inferred[output.name] = shape

    def _part(self, tensors: list[str], stops: set[str]) -> GraphDef:
        names, _ = self.needed(tensors, stops)
        part = type(self.graph_def)()
        part.versions.CopyFrom(self.graph_def.versions)
        stand_ins: dict[str, str] = {}
        for name in sorted(names):
            node = part.node.add()
            node.CopyFrom(self.nodes[name])
            node.device = ""
            node.attr.pop("_class", None)  # it may name a node that is not in this part
            for position, source in enumerate(node.input):
                if not source.startswith("^") and full_name(source) in stops:
                    node.input[position] = stand_ins.setdefault(full_name(source), f"tfship_stop_{len(stand_ins)}")
        for tensor, name in stand_ins.items():
            said, source, index = self._shape(tensor), graphs.node_name(tensor), output_index(tensor)
            node = part.node.add(name=name, op="Placeholder")
            node.attr["dtype"].type = self.types(source)[index]
            node.attr["shape"].shape.CopyFrom(proto_of(said))
        part.library.CopyFrom(self.graph_def.library)
        graphs.drop_unused_functions(part)
        return part

    def needed(self, tensors: Iterable[str], stops: Collection[str]) -> tuple[set[str], dict[str, str]]:
        """Return the nodes that `tensors` depend on, down to `stops`, and the reader of each placeholder's or feeder's tensor
        among them: tensor -> node.
        """
        stopped = set(stops)
        pinned = {graphs.node_name(stop) for stop in stopped if self.nodes[graphs.node_name(stop)].op in PLACEHOLDERS}
        found: set[str] = set()
        entered: dict[str, str] = {}
        waiting = [(full_name(tensor), "the outputs") for tensor in tensors]
        while waiting:
            tensor, reader = waiting.pop()
            name = graphs.node_name(tensor)
            if tensor in stopped or name in pinned:
                continue
            if self.nodes[name].op in (*PLACEHOLDERS, *FEEDERS) and not tensor.startswith("^"):
                entered.setdefault(tensor, reader)
            if name not in found:
                found.add(name)
                sources = self.nodes[name].input
                waiting += [(source if source.startswith("^") else full_name(source), name) for source in sources]
        return found, entered


def shape_of(proto: Any) -> Shape:
    """Return a TensorShapeProto as sizes; None for an unknown rank."""
    return None if proto.unknown_rank else tuple(None if dim.size < 0 else dim.size for dim in proto.dim)


def proto_of(shape: Shape) -> Any:
    """Sizes as a TensorShapeProto."""
    from tensorflow.core.framework import tensor_shape_pb2

    if shape is None:
        return tensor_shape_pb2.TensorShapeProto(unknown_rank=True)
    dims = [tensor_shape_pb2.TensorShapeProto.Dim(size=-1 if size is None else size) for size in shape]
    return tensor_shape_pb2.TensorShapeProto(dim=dims)


def _taken_by(output: Any) -> Shape:
    """Return the shape that the readers of a placeholder of any shape require: a matrix for MatMul, images for Conv2D."""
    for reader in output.consumers():
        if len(reader.inputs) < 2 or reader.inputs[0] is not output or reader.inputs[1].shape.rank is None:
            continue
        other = reader.inputs[1].shape.as_list()
        if reader.type == "MatMul" and not reader.get_attr("transpose_a") and len(other) == 2:
            return None, other[1 if reader.get_attr("transpose_b") else 0]
        if reader.type == "Conv2D" and reader.get_attr("data_format") == b"NHWC" and len(other) == 4:
            return None, None, None, other[2]
    return None
