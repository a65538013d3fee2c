"""Files that a model's operations read: the name of each is followed to its origin, through function bodies too.

A table may be filled from a file that comes with the model, and variables restored from the model's own checkpoint: paths
that the loader feeds. With any other name a file of this machine would be read, and its contents served as answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

from tasks.errors import UnsafeGraph
from tasks.graphs import graph as graphs
from tasks.graphs.graph import CALLS, Body, Graph, Placed, full_name
from tasks.graphs.protos import GraphDef, NodeDef

FILLS = frozenset({"InitializeTableFromTextFile", "InitializeTableFromTextFileV2"})
RESTORES = frozenset({"Restore", "RestoreV2", "RestoreSlice"})
# The input that names a file, by op.
_NAMES_FILE = dict.fromkeys(FILLS, 1) | dict.fromkeys(RESTORES, 0)


def require_own(graph_def: GraphDef, targets: list[str], paths: Collection[str], where: str) -> None:
    """Refuse to run `targets` where they read a file whose name is not surely one of the tensors `paths`.

    Raises:
        UnsafeGraph: they do.
    """
    graph = Graph(graph_def)
    reached = list(graph.placed(targets, swapped_in=True))
    origins = _Origins(graph, reached, paths)
    for at in reached:
        named = _NAMES_FILE.get(at.node.op)
        if named is None or origins.known(at, at.node.input[named] if len(at.node.input) > named else ""):
            continue
        fills = at.node.op in FILLS
        raise UnsafeGraph(
            f"{where}: {at.name} ({at.node.op}), which {', '.join(targets[:4])} would run",
            "tables that are filled when the model is loaded, from files that are its assets"
            if fills
            else "variables that are restored from the model's own checkpoint, whose path the loader gives",
            "one that reads a file of this machine, by a name that the graph makes up",
            f"export the model again {'with that file as an asset' if fills else 'with its own values'}; "
            "nothing of this graph was run.",
        )


class _Origins:
    """The origins of tensors, as far as they are only passed on."""

    def __init__(self, graph: Graph, reached: list[Placed], paths: Collection[str]) -> None:
        self._graph, self._reached, self._paths = graph, reached, paths
        library = graph.graph_def.library
        gradients = {entry.gradient_func for entry in library.gradient}
        implementing = {one.signature.name for one in library.function if "api_implements" in one.attr}
        self._swapped_in = gradients | implementing  # called by others than those that name them

    def known(self, at: Placed, tensor: str) -> bool:
        """Return True if the tensor that `at` reads is one of the known paths, for every caller of its function."""
        waiting, seen = [(at, tensor)], set()
        while waiting:
            at, tensor = waiting.pop()
            if (id(at.body), tensor) in seen:
                continue
            seen.add((id(at.body), tensor))
            if at.body is self._graph.body and full_name(tensor) in self._paths:
                continue
            sources = list(self._sources(at, tensor))
            if not sources:
                return False
            waiting += sources
        return True

    def _sources(self, at: Placed, tensor: str) -> Iterator[tuple[Placed, str]]:
        """Yield the tensors from which `at` takes a tensor unchanged; nothing if the tensor is computed there."""
        name = graphs.node_name(tensor)
        node = at.body.nodes.get(name)
        arguments = at.body.arguments
        if node is None and name in arguments:
            yield from self._callers(at.body, arguments.index(name))
        elif node is not None and name not in arguments:
            if node.op == "Identity":
                yield at, node.input[0]
            elif node.op == "ReadVariableOp" and at.body is self._graph.body:
                yield from ((at, path) for path in self._assigned(node.input[0]))

    def _callers(self, body: Body, position: int) -> Iterator[tuple[Placed, str]]:
        assert body.definition is not None
        lists = any(one.number_attr or one.type_list_attr for one in body.definition.signature.input_arg)
        if self._graph.functions.get(body.function) is not body:  # of a graph that a node carries
            return
        for at in self._reached:
            if body.function not in self._graph.named_functions(at.node):
                continue
            repeats = at.node.op in CALLS and CALLS[at.node.op].repeats
            first = None if repeats else dict(self._graph.calls(at.node)).get(body.function)
            given = [source for source in at.node.input if not source.startswith("^")]
            if first is None or lists or body.function in self._swapped_in or position + first >= len(given):
                yield at, ""  # the argument cannot be told
            else:
                yield at, given[position + first]

    def _assigned(self, handle: str) -> list[str]:
        """Return what is assigned to a variable that nothing else can reach: TF2 keeps paths of assets in such variables."""

        def shared(node: NodeDef) -> str:
            return graphs.attribute(node, "shared_name").s.decode(errors="replace") or str(node.name)

        name = graphs.node_name(handle)
        nodes = self._graph.body.every
        handles = {node.name: shared(node) for node in nodes if node.op == "VarHandleOp"}
        elsewhere = sum(node.op == "VarHandleOp" for node in self._graph.every_node()) - len(handles)
        if name not in handles or elsewhere or Counter(handles.values())[handles[name]] > 1:
            return []
        readers = [node for node in nodes if name in {graphs.node_name(one) for one in node.input}]
        paths = [node.input[1] for node in readers if node.op == "AssignVariableOp"]
        only = all(node.op in ("AssignVariableOp", "ReadVariableOp", "VarIsInitializedOp") for node in readers)
        return paths if only else []
