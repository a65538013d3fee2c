"""The names by which later steps find a source model in its graph, and checks on them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tasks.errors import UnsupportedGraph, UsageError
from tasks.graphs import graph as graphs
from tasks.graphs import variables as graph_variables
from tasks.graphs.protos import GraphDef, MetaGraphDef
from tasks.records.signature import ESCAPED_SLASH, Asset, GraphNames, Signature

_WRITING = re.compile(r"Assign|Scatter|Apply|CountUpTo")  # in the names of ops that write variables


def of(
    meta: MetaGraphDef,
    signatures: tuple[Signature, ...],
    assets: tuple[Asset, ...],
    table_init: str | None,
    needed: set[str],
) -> GraphNames:
    """Return the names for later steps, with the train op, loss and global step that the graph's collections name."""
    nodes = graphs.Graph(meta.graph_def).nodes
    variables = graph_variables.variable_facts(meta.graph_def)

    def listed(collection: str) -> list[str]:
        held = meta.collection_def.get(collection)
        names = [graphs.node_name(name) for name in held.node_list.value] if held is not None else []
        return [name for name in names if name in nodes]

    losses = listed("losses")
    counters = [graphs.node_name(one.variable_name) for one in graph_variables.declared_variables(meta, "global_step")]
    step = next((name for name in (*counters, "global_step") if name in variables), None)
    integral = step is not None and variables[step] in (("int64", ()), ("int32", ()))
    return GraphNames(
        signatures=signatures,
        assets=assets,
        needed=tuple(sorted(needed)),
        table_init=table_init,
        train_op=next(iter(listed("train_op")), None),
        loss=f"{losses[0]}:0" if len(losses) == 1 else None,
        global_step=f"{step}:0" if integral else None,
    )


def require_keys(signatures: tuple[Signature, ...], where: str) -> None:
    """Check the keys of signatures, and that no two inputs of one are the same tensor.

    Raises:
        UsageError: a key is empty or has `%2F`, and so cannot stand in `signature/output`; or TensorFlow cannot load a
            signature as a function, because two of its inputs are one tensor.
    """
    for one in signatures:
        tensors = [spec.tensor for spec in one.inputs.values()]
        if twice := sorted(alias for alias, spec in one.inputs.items() if tensors.count(spec.tensor) > 1):
            remedy = "name each tensor once: --input … --output …; tf.saved_model.load refuses this signature."
            found = f"{' and '.join(twice)}, which are both {one.inputs[twice[0]].tensor}"
            raise UsageError(f"{where}, signature {one.key}", "a tensor of its own for every input", found, remedy)
        if not one.key or ESCAPED_SLASH in one.key:
            remedy = "choose another (--signature), or name its tensors: --input … --output …"
            raise UsageError(
                f"{where}, signatures", f"keys that are not empty and have no {ESCAPED_SLASH}", repr(one.key), remedy
            )


def writing_nodes(graph_def: GraphDef, targets: Iterable[str]) -> list[str]:
    """Return the nodes that write variables on the way to some tensors or operations, each with its op."""
    nodes = graphs.Graph(graph_def).reached_nodes(targets)
    return sorted(f"{name} ({node.op})" for name, node in nodes.items() if _WRITING.search(node.op))


def require_unwritten(graph_def: GraphDef, names: GraphNames, where: str) -> None:
    """Check that loading the model does not write variables that the outputs read.

    Otherwise the values of a form would depend on how often it was loaded before it was written.

    Raises:
        UnsupportedGraph: it does.
    """
    if names.table_init is None:
        return
    touched = sorted(graphs.Graph(graph_def).variables([names.table_init]) & set(names.needed))
    writing = writing_nodes(graph_def, [names.table_init])
    if touched and writing:
        raise UnsupportedGraph(
            f"{where}: {names.table_init}, which runs when the model is loaded",
            "initialisation of lookup tables only",
            f"{writing[0]}, with {', '.join(touched[:5])}, which the outputs read",
            "export the model again with a main op that initialises only tables.",
        )
