"""Which files fill a graph's lookup tables: a name is followed back to where it comes from, through function bodies too.

A table may be filled from a file that the model brings along, whose path the loader feeds. Any other name would have a
file of this machine read, and its lines given out as the answers of a lookup.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

from tasks.errors import UnsafeGraph
from tasks.graphs import graph as graphs
from tasks.graphs.scopes import Placed, placed

FILLS = frozenset({"InitializeTableFromTextFile", "InitializeTableFromTextFileV2"})
# Where a call's own inputs begin, before which stands a condition (tensorflow/core/ops/functional_ops.cc).
_FIRST_ARGUMENT = {
    **dict.fromkeys(("PartitionedCall", "StatefulPartitionedCall"), 0),
    **dict.fromkeys(("If", "StatelessIf", "Case", "StatelessCase"), 1),
}


def require_own(graph_def: Any, targets: list[str], paths: Collection[str], where: str) -> None:
    """Refuse to run `targets` where they fill a table from a file whose name is not surely one of the tensors `paths`.

    Raises:
        UnsafeGraph: they do.
    """
    reached = list(placed(graph_def, targets, swapped_in=True))
    origins = _Origins(graph_def, reached, paths)
    for at in reached:
        if at.node.op in FILLS and not origins.known(at, at.node.input[1] if len(at.node.input) > 1 else ""):
            raise UnsafeGraph(
                f"{where}: {at.name} ({at.node.op}), which {', '.join(targets[:4])} would run",
                "tables that are filled when the model is loaded, from files that are its assets",
                "one that reads a file of this machine, by a name that the graph makes up",
                "export the model again with that file as an asset; nothing of this graph was run.",
            )


class _Origins:
    """Where tensors come from, as far as they are only handed on."""

    def __init__(self, graph_def: Any, reached: list[Placed], paths: Collection[str]) -> None:
        self._graph_def, self._reached, self._paths = graph_def, reached, paths
        gradients = {entry.gradient_func for entry in graph_def.library.gradient}
        implementing = {one.signature.name for one in graph_def.library.function if "api_implements" in one.attr}
        self._swapped_in = gradients | implementing  # called by others than those that name them

    def known(self, at: Placed, tensor: str) -> bool:
        """Whether the tensor that `at` reads is one of the known paths, whoever calls the function that `at` is in."""
        waiting, seen = [(at, tensor)], set()
        while waiting:
            at, tensor = waiting.pop()
            here = at.function.signature.name if at.function is not None else ""
            if (here, tensor) in seen:
                continue
            seen.add((here, tensor))
            if not here and (tensor if ":" in tensor else f"{tensor}:0") in self._paths:
                continue
            sources = list(self._sources(at, tensor))
            if not sources:
                return False
            waiting += sources
        return True

    def _sources(self, at: Placed, tensor: str) -> Iterator[tuple[Placed, str]]:
        """What hands a tensor on to `at`; nothing where it is made there."""
        name = graphs.node_name(tensor)
        node = at.within.get(name)
        arguments = [one.name for one in at.function.signature.input_arg] if at.function is not None else []
        if node is None and name in arguments:
            yield from self._callers(at.function, arguments.index(name))
        elif node is not None and name not in arguments:
            if node.op == "Identity":
                yield at, node.input[0]
            elif node.op == "ReadVariableOp" and at.function is None:
                yield from ((at, path) for path in self._assigned(node.input[0]))

    def _callers(self, function: Any, position: int) -> Iterator[tuple[Placed, str]]:
        name = function.signature.name
        lists = any(one.number_attr or one.type_list_attr for one in function.signature.input_arg)
        for at in self._reached:
            held = [value.func.name for value in at.node.attr.values()]
            held += [one.name for value in at.node.attr.values() for one in value.list.func]
            if name not in (at.node.op, *held):
                continue
            first = 0 if at.node.op == name else _FIRST_ARGUMENT.get(at.node.op)
            given = [source for source in at.node.input if not source.startswith("^")]
            if first is None or lists or name in self._swapped_in or position + first >= len(given):
                yield at, ""  # nobody can say what it is given
            else:
                yield at, given[position + first]

    def _assigned(self, handle: str) -> list[str]:
        """What is assigned to a variable, where nothing else can reach it: TF2 keeps assets' paths in such."""

        def shared(node: Any) -> str:
            return graphs.attribute(node, "shared_name").s.decode(errors="replace") or str(node.name)

        name = graphs.node_name(handle)
        handles = {node.name: shared(node) for node in self._graph_def.node if node.op == "VarHandleOp"}
        elsewhere = sum(node.op == "VarHandleOp" for node in graphs.all_nodes(self._graph_def)) - len(handles)
        if name not in handles or elsewhere or Counter(handles.values())[handles[name]] > 1:
            return []
        readers = [node for node in self._graph_def.node if name in {graphs.node_name(one) for one in node.input}]
        paths = [node.input[1] for node in readers if node.op == "AssignVariableOp"]
        only = all(node.op in ("AssignVariableOp", "ReadVariableOp", "VarIsInitializedOp") for node in readers)
        return paths if only else []
