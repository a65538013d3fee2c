"""Guards against constant folding at import: TensorFlow runs ops to learn shapes, in called functions too.

It folds any op without state whose inputs are constants (tensorflow/core/common_runtime/eval_const_tensor.cc), and
`ReadFile` is one. A placeholder with a default is not a constant to it, and has the same value when the graph is run.
"""

from __future__ import annotations

from tasks.graphs import graph as graphs
from tasks.graphs import op_registry, scan
from tasks.graphs.graph import CARRIES, Graph, Placed
from tasks.graphs.protos import GraphDef, NodeDef

_GUARD = "tfship_unfolded/"


def guard(graph_def: GraphDef) -> None:
    """Keep, in place, what must not run from being folded; the graph computes what it did."""
    graph = Graph(graph_def)
    own = {id(body) for body in (graph.body, *graph.functions.values())}
    every = list(graph.placed(None))
    unsafe = [at.name for at in every if scan.does(at)]
    for at in every:
        carries = at.node.op in CARRIES and any(name.startswith(f"{at.name}/") for name in unsafe)
        if id(at.body) not in own or not (carries or _would_fold(at)):
            continue
        name = f"{_GUARD}{at.node.name}"
        while name in at.body.nodes:
            name += "_"
        guarding = (graph_def.node if at.body.definition is None else at.body.definition.node_def).add()
        guarding.name, guarding.op = name, "PlaceholderWithDefault"
        guarding.input.append(at.node.input[0])
        guarding.attr["dtype"].type = _first_type(at.node)
        guarding.attr["shape"].shape.unknown_rank = True
        at.node.input[0] = name if at.body.definition is None else f"{name}:output:0"


def guarded(graph_def: GraphDef) -> bool:
    """Return True if `guard` has changed the graph."""
    return any(node.name.startswith(_GUARD) for node in graphs.Graph(graph_def).every_node())


def _would_fold(at: Placed) -> bool:
    fed = [source for source in at.node.input if not source.startswith("^")]
    return bool(scan.does(at)) and bool(fed) and _constant(at) and bool(op_registry.definition(at.node.op).input_arg)


def _constant(at: Placed) -> bool:
    """Return True if nothing that a node depends on is stateful or fed. A caller may pass constants to a function."""
    waiting, seen = [at.node], {at.node.name}
    while waiting:
        node = waiting.pop()
        definition = op_registry.definition(node.op)
        if definition is None or definition.is_stateful or node.op.startswith("Placeholder"):
            return False
        sources = {graphs.node_name(source) for source in node.input if not source.startswith("^")} - seen
        seen |= sources
        waiting += [at.body.nodes[name] for name in sources if name in at.body.nodes]
    return True


def _first_type(node: NodeDef) -> int:
    """Return the dtype of a node's first input, as an enum value."""
    first = op_registry.definition(node.op).input_arg[0]
    listed = graphs.attribute(node, first.type_list_attr).list.type
    return int(first.type or graphs.attribute(node, first.type_attr).type or (listed[0] if listed else 0))
