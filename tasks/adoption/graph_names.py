"""The names by which later steps find a brought model in its graph, and what these names must not lead to."""

from __future__ import annotations

import re
from typing import Any

from tasks.errors import UnsupportedGraph, UsageError
from tasks.graphs import graph as graphs
from tasks.graphs import variables as graph_variables
from tasks.records.signature import Asset, GraphNames, Signature

_WRITING = re.compile(r"Assign|Scatter|Apply|CountUpTo")  # in the names of ops that write variables


def of(
    meta: Any, asked: tuple[Signature, ...], assets: tuple[Asset, ...], table_init: str | None, needed: set[str]
) -> GraphNames:
    """What later steps look for, with the train op, loss and global step that the graph's collections name."""
    nodes = graphs.Graph(meta.graph_def).nodes
    variables = graph_variables.variable_facts(meta.graph_def)

    def listed(collection: str) -> list[str]:
        held = meta.collection_def.get(collection)
        names = [graphs.node_name(name) for name in held.node_list.value] if held is not None else []
        return [name for name in names if name in nodes]

    losses = listed("losses")
    step = next((name for name in (*_stepping(meta), "global_step") if name in variables), None)
    integral = step is not None and variables[step] in (("int64", ()), ("int32", ()))
    return GraphNames(
        signatures=asked,
        assets=assets,
        needed=tuple(sorted(needed)),
        table_init=table_init,
        train_op=next(iter(listed("train_op")), None),
        loss=f"{losses[0]}:0" if len(losses) == 1 else None,
        global_step=f"{step}:0" if integral else None,
    )


def _stepping(meta: Any) -> list[str]:
    from tensorflow.core.framework import variable_pb2

    if "global_step" not in meta.collection_def:
        return []
    held = meta.collection_def["global_step"].bytes_list.value
    return [graphs.node_name(variable_pb2.VariableDef.FromString(encoded).variable_name) for encoded in held]


def require_keys(asked: tuple[Signature, ...], where: str) -> None:
    """Raise UsageError where a signature's key cannot stand before a name, as in `signature/output`, or where two of its
    inputs are one tensor, which TensorFlow loads as no function."""
    for one in asked:
        tensors = [spec.tensor for spec in one.inputs.values()]
        if twice := sorted(alias for alias, spec in one.inputs.items() if tensors.count(spec.tensor) > 1):
            remedy = "name each tensor once: --input … --output …; tf.saved_model.load refuses this signature as it is."
            found = f"{' and '.join(twice)} that are both {one.inputs[twice[0]].tensor}"
            raise UsageError(f"{where}, signature {one.key}", "inputs that are a tensor each", found, remedy)
        if not one.key or "/" in one.key:
            remedy = "choose another (--signature), or name its tensors: --input … --output …"
            raise UsageError(
                f"{where}, its signatures", "keys that are not empty and hold no slash", repr(one.key), remedy
            )


def require_unwritten(graph_def: Any, names: GraphNames, where: str) -> None:
    """Raise UnsupportedGraph where what runs at each load writes variables that the outputs read.

    A form's values would depend on how often it was loaded before it was written.
    """
    if names.table_init is None:
        return
    touched = sorted(graphs.Graph(graph_def).variables([names.table_init]) & set(names.needed))
    nodes = graphs.Graph(graph_def).reached_nodes([names.table_init])
    writing = sorted(f"{name} ({node.op})" for name, node in nodes.items() if _WRITING.search(node.op))
    if touched and writing:
        raise UnsupportedGraph(
            f"{where}: {names.table_init}, which runs when the model is loaded",
            "what fills lookup tables only",
            f"{writing[0]}, with {', '.join(touched[:5])}, which the outputs read",
            "export the model again with a main op that initialises tables only.",
        )
