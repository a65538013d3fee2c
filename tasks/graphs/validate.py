"""Whether a GraphDef is one: judged on the proto, before TensorFlow sees it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from tasks.errors import DamagedError
from tasks.graphs import graph as graphs

_SHOWN = 5


def require_well_formed(graph_def: Any, where: str) -> None:
    """Raise DamagedError for what is no graph: nothing in it, two nodes of one name, an input that is not there, a cycle.

    (tensorflow/core/common_runtime/graph_constructor.cc refuses the same, but after it began to build.)
    """
    remedy = "take the file from whoever wrote the model again; if a tool edited the graph, repair that step."

    def damaged(expected: str, found: str) -> DamagedError:
        return DamagedError(where, expected, found, remedy)

    if not graph_def.node:
        raise damaged("a graph with nodes", "none")
    names = Counter(node.name for node in graph_def.node)
    if twice := sorted(name for name, count in names.items() if count > 1):
        raise damaged("one node of each name", f"{names[twice[0]]} nodes named {twice[0]!r}{and_more(twice, twice[0])}")
    for node in graph_def.node:
        if not node.name or not node.op:
            raise damaged("nodes with a name and an op", f"{node.name!r} with the op {node.op!r}")
        for source in node.input:
            if graphs.node_name(source) not in names:
                raise damaged(f"every input of {node.name!r} in the graph", f"no node for its input {source!r}")
    if at := _on_a_cycle(graph_def):
        raise damaged("a graph without cycles, loops apart", f"one through {at!r}")
    bodies: dict[str, bytes] = {}
    for function in graph_def.library.function:
        body = function.SerializeToString(deterministic=True)
        if bodies.setdefault(function.signature.name, body) != body:
            raise damaged("one function of each name", f"two different ones named {function.signature.name!r}")
        here = {argument.name for argument in function.signature.input_arg} | {node.name for node in function.node_def}
        for node in function.node_def:
            for source in node.input:
                if graphs.node_name(source) not in here:
                    raise damaged(
                        f"every input of {function.signature.name}/{node.name} in its function", f"no {source!r} there"
                    )


def _on_a_cycle(graph_def: Any) -> str | None:
    """A node on a cycle that no NextIteration closes, or None."""
    back = {node.name for node in graph_def.node if node.op in ("NextIteration", "RefNextIteration")}
    waits = {node.name: 0 for node in graph_def.node}
    readers: dict[str, list[str]] = {}
    for node in graph_def.node:
        for source in node.input:
            name = graphs.node_name(source)
            if name not in back:
                waits[node.name] += 1
                readers.setdefault(name, []).append(node.name)
    ready = [name for name, count in waits.items() if not count]
    done = 0
    while ready:
        done += 1
        for reader in readers.get(ready.pop(), ()):
            waits[reader] -= 1
            if not waits[reader]:
                ready.append(reader)
    return None if done == len(waits) else next(name for name, count in waits.items() if count)


def and_more(every: Iterable[str], first: str) -> str:
    """What else there is beside the first, for a message."""
    others = [other for other in every if other != first]
    shown = ", ".join(others[:_SHOWN]) + (", …" if len(others) > _SHOWN else "")
    return f" (and {len(others)} more: {shown})" if others else ""
