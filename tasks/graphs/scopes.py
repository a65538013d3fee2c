"""Every node that a graph's outputs reach, function bodies included, with where it stands. Works on GraphDef protos."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from tasks.graphs import graph as graphs


class Placed(NamedTuple):
    """A node with where it stands: `within` are its neighbours by name, in the graph or in the body of `function`."""

    name: str
    node: Any
    within: dict[str, Any]
    gpu_only: bool = False
    function: Any = None


def placed(graph_def: Any, targets: list[str] | None, *, swapped_in: bool = False) -> Iterator[Placed]:
    """Every node that `targets` reach, or every node of the graph and its library where there are none.

    With `swapped_in` also those of the functions that TensorFlow may put in another's place: gradients, and those that
    implement the same interface (tensorflow/core/grappler/optimizers/implementation_selector.cc).

    Raises:
        PipelineError: a target is not in the graph.
    """
    within = {node.name: node for node in graph_def.node}
    names = within.keys() if targets is None else graphs.reached(graph_def, targets)
    yield from (Placed(node.name, node, within) for node in graph_def.node if node.name in names)
    functions = {function.signature.name: function for function in graph_def.library.function}
    bodies = set(functions)
    if targets is not None:
        bodies = graphs.called(functions, (node for node in graph_def.node if node.name in names))
        while swapped_in and (more := _in_place_of(graph_def, functions, bodies) - bodies):
            bodies |= more | graphs.called(functions, (node for name in more for node in functions[name].node_def))
    for function in graph_def.library.function:
        name = function.signature.name
        if name not in bodies:
            continue
        body = {node.name: node for node in function.node_def}
        gpu_only = graphs.attribute(function, "api_preferred_device").s == b"GPU"
        yield from (Placed(f"{name}/{node.name}", node, body, gpu_only, function) for node in function.node_def)


def _in_place_of(graph_def: Any, functions: dict[str, Any], bodies: set[str]) -> set[str]:
    def interface(name: str) -> bytes:
        return bytes(graphs.attribute(functions[name], "api_implements").s)

    gradients = {entry.gradient_func for entry in graph_def.library.gradient if entry.function_name in bodies}
    interfaces = {interface(name) for name in bodies} - {b""}
    return (gradients & functions.keys()) | {name for name in functions if interface(name) in interfaces}
