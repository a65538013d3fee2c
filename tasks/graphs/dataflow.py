"""Following a tensor through a GraphDef, and through the functions that it is handed to, to what uses it.

Works on protos and runs nothing. A tensor of a function's body is called `argument` or `node:output:index`
(tensorflow/core/framework/function.proto), one of a graph `node` or `node:index`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tasks.graphs import graph as graphs
from tasks.graphs.graph import Body, Graph
from tasks.graphs.protos import NodeDef
from tasks.tensors.tensor_file import Array

# Ops that hand on the elements of the inputs at these positions, rearranged, selected or in another dtype.
_FIRST = (
    *("Cast", "CheckNumerics", "ClipByValue", "Enter", "EnsureShape", "Exit", "ExpandDims", "Gather", "GatherNd"),
    *("GatherV2", "Identity", "NextIteration", "PlaceholderWithDefault", "PreventGradient", "RefEnter", "RefIdentity"),
    *("RefSwitch", "Reshape", "Slice", "Snapshot", "SplitV", "Squeeze", "StopGradient", "StridedSlice", "StringLower"),
    *("StringStrip", "StringUpper", "Switch", "TensorArrayReadV3", "TensorListFromTensor", "TensorListGetItem"),
    *("TensorListStack", "Tile", "Transpose", "Unique", "UniqueV2", "Unpack"),
)
_HANDS_ON: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(_FIRST, (0,)),
    "Maximum": (0, 1),
    "Minimum": (0, 1),
    "RaggedTensorToTensor": (1,),
    "Select": (1, 2),
    "SelectV2": (1, 2),
    "SparseFillEmptyRows": (1,),
    "SparseToDense": (2,),
    "Split": (1,),
}
_BOOLEAN = {"All", "Identity", "LogicalAnd", "Merge", "Switch"}
_HANDS_ALL_ON = {"ConcatV2", "Concat", "IdentityN", "Merge", "Pack"}
_DEEPEST = 16
_SAME = {"Identity", "ReadVariableOp", "Enter", "RefEnter", "StopGradient", "Snapshot", "Cast"}


@dataclass(frozen=True, eq=False)
class Scope:
    """A body, and for a function's the call that it serves here."""

    body: Body
    caller: Scope | None = None
    call: Any = None
    offset: int = 0
    depth: int = 0


class Use(NamedTuple):
    """A node that takes a tensor as its input at `position`, and does more than hand it on."""

    scope: Scope
    node: NodeDef
    position: int


class Dataflow:
    """The paths of tensors through one graph and the functions that it calls."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.graph = Scope(graph.body)

    def uses(self, scope: Scope, name: str, outputs: Iterable[str] | None = None) -> list[Use]:
        """Return the uses of the node or argument `name`, or of its `outputs` only, directly or passed on."""
        found: list[Use] = []
        waiting: list[tuple[Scope, str, frozenset[str] | None]] = [
            (scope, name, None if outputs is None else frozenset(outputs))
        ]
        entered: dict[tuple[int, str, int, str], Scope] = {}
        seen: set[tuple[Scope, str, frozenset[str] | None]] = set()
        while waiting:
            here = waiting.pop()
            if here in seen:
                continue
            seen.add(here)
            scope, name, wanted = here
            for node, position, output in scope.body.readers.get(name, ()):
                if wanted is not None and output not in wanted:
                    continue
                calls = self._graph.calls(node)
                if calls:
                    for function, offset in calls:
                        key = (id(scope), node.name, offset, function)
                        inner = entered.setdefault(key, self._enter(scope, node, function, offset))
                        if 0 <= position - offset < len(inner.body.arguments) and inner.depth < _DEEPEST:
                            waiting.append((inner, inner.body.arguments[position - offset], None))
                elif node.op in _HANDS_ALL_ON or position in _HANDS_ON.get(node.op, ()):
                    waiting.append((scope, node.name, None))
                else:
                    found.append(Use(scope, node, position))
                    if node.op == "TensorArrayScatterV3" and position == 2:
                        waiting.append((scope, node.input[0].partition(":")[0], None))
            if scope.caller is not None:
                for index in scope.body.returned.get(name, ()):
                    waiting.append((scope.caller, scope.call.name, frozenset((str(index), f"output:{index}"))))
        return found

    def _enter(self, scope: Scope, node: NodeDef, function: str, offset: int) -> Scope:
        return Scope(self._graph.functions[function], scope, node, offset, scope.depth + 1)

    def everywhere(self) -> Iterator[tuple[Scope, Any]]:
        """Yield every node of the graph, and of every function once for each call that leads to it."""
        waiting, count = [self.graph], 0
        while waiting and count < 10_000:  # calls can multiply: what is not seen is only not known
            scope = waiting.pop()
            count += 1
            for node in scope.body.every:
                yield scope, node
                if scope.depth < _DEEPEST:
                    waiting += [
                        self._enter(scope, node, function, offset) for function, offset in self._graph.calls(node)
                    ]

    def origin(self, scope: Scope, tensor: str) -> tuple[Scope, Any] | None:
        """Return the node that a tensor comes from, through ops that pass it on unchanged and arguments of functions."""
        for _ in range(1000):
            name = tensor.partition(":")[0]
            node = scope.body.nodes.get(name)
            if node is not None:
                if node.op not in _SAME or not node.input:
                    return scope, node
                tensor = node.input[0]
            elif name in scope.body.arguments and scope.caller is not None:
                position = scope.body.arguments.index(name) + scope.offset
                if position >= len(scope.call.input):
                    return None
                tensor, scope = scope.call.input[position], scope.caller
            else:
                return None
        return None

    def asserted(self, scope: Scope, name: str) -> bool:
        """Return True if an `Assert` depends on the truth of the comparison `name`, through other boolean ops alone."""
        waiting, seen = [name], set[str]()
        while waiting:
            for node, *_ in scope.body.readers.get(waiting.pop(), ()):
                if node.op == "Assert" or any(
                    inner.op == "Assert"
                    for one in self._graph.called([node])
                    for inner in self._graph.functions[one].every
                ):
                    return True
                if node.op in _BOOLEAN and node.name not in seen:
                    seen.add(node.name)
                    waiting.append(node.name)
        return False

    def constant(self, scope: Scope, tensor: str) -> Array | None:
        """Return the value of a tensor that comes from a Const, else None."""
        import tensorflow as tf

        found = self.origin(scope, tensor)
        if found is None or found[1].op != "Const":
            return None
        try:
            return np.asarray(tf.make_ndarray(graphs.attribute(found[1], "value").tensor))
        except (ValueError, TypeError, KeyError):
            return None

    def shape(self, scope: Scope, tensor: str) -> list[int] | None:
        """Return the shape of a table or weight as far as the graph states it; -1 for an open size."""
        found = self.origin(scope, tensor)
        if found is None:
            return None
        scope, node = found
        if node.op == "ConcatV2":
            parts = [self.shape(scope, source) for source in node.input[:-1]]
            axis = self.constant(scope, node.input[-1])
            if axis is None or int(axis) != 0 or not all(parts):
                return None
            known = [part for part in parts if part]
            return [sum(part[0] for part in known), *known[0][1:]]
        proto = (
            graphs.attribute(node, "value").tensor.tensor_shape
            if node.op == "Const"
            else graphs.attribute(node, "shape").shape
        )
        if (node.op != "Const" and "shape" not in node.attr) or proto.unknown_rank:
            return None
        return [int(dim.size) for dim in proto.dim]
