"""A GraphDef walked from what is fed to the outputs: the order in which its nodes compute, and what depends on what."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

from tasks.graphs import graph as graphs

_CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall", "SymbolicGradient", "RemoteCall"})
_CALLS |= {"If", "StatelessIf", "While", "StatelessWhile", "Case", "StatelessCase", "For"}
_ENTER, _EXIT = frozenset({"Enter", "RefEnter"}), frozenset({"Exit", "RefExit"})
_READS = frozenset({"Identity", "RefIdentity", "ReadVariableOp"})


class Walk:
    """The nodes that `outputs` depend on, no further back than the tensors in `fed`."""

    def __init__(self, graph_def: Any, outputs: Iterable[str], fed: Collection[str]) -> None:
        every = {node.name: node for node in graph_def.node}
        self._functions = {function.signature.name for function in graph_def.library.function}
        self._fed = {graphs.node_name(tensor) for tensor in fed}
        self.order = list(_in_order(every, outputs, self._fed))
        self.nodes = {name: every[name] for name in self.order}
        self._loops: dict[str, int] = {}  # how many loops a node is in
        for name in self.order:
            depth = max((self._loops.get(source, 0) for source in self._sources(name)), default=0)
            op = self.nodes[name].op
            self._loops[name] = depth + (1 if op in _ENTER else -1 if op in _EXIT else 0)

    def fed(self, name: str) -> bool:
        """Whether the node's value is given."""
        return name in self._fed

    def fetchable(self, name: str) -> bool:
        """Whether it has one value: what is inside a loop has one in each turn."""
        return self._loops[name] <= 0

    def calls(self, name: str) -> bool:
        """Whether it calls a function."""
        op = self.nodes[name].op
        return op in _CALLS or op in self._functions

    def reads(self, name: str) -> bool:
        """Whether it only hands on what a constant or a variable holds."""
        return self.nodes[name].op in _READS and self.stored(name)

    def stored(self, name: str) -> bool:
        """Whether its value is a constant's or a variable's."""
        while True:
            node = self.nodes.get(name)
            if node is None or self.fed(name):
                return False
            if node.op == "Const" or node.op in graphs.VARIABLE_OPS:
                return True
            if node.op not in _READS:
                return False
            name = graphs.node_name(node.input[0])

    def after(self, names: Collection[str]) -> set[str]:
        """The nodes that depend on any of these, themselves left out unless they depend on another."""
        found: set[str] = set()
        for name in self.order:
            if any(source in names or source in found for source in self._sources(name)):
                found.add(name)
        return found

    def _sources(self, name: str) -> list[str]:
        return [] if self.fed(name) else [graphs.node_name(source) for source in self.nodes[name].input]


def _in_order(nodes: dict[str, Any], outputs: Iterable[str], fed: Collection[str]) -> Iterator[str]:
    """Sources before what reads them; the way back in a loop is not followed to its end."""
    seen: set[str] = set()
    for output in outputs:
        waiting: list[tuple[str, Iterator[str]]] = []
        coming = [graphs.node_name(output)]
        while coming or waiting:
            if coming:
                name = coming.pop()
                if name not in seen:
                    seen.add(name)
                    sources = [] if name in fed else [graphs.node_name(source) for source in nodes[name].input]
                    waiting.append((name, iter(sources)))
                continue
            name, sources_left = waiting[-1]
            following = next(sources_left, None)
            if following is None:
                waiting.pop()
                yield name
            else:
                coming.append(following)
