"""Lookup tables: which operation fills those that the outputs read, and from which files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tasks.artifacts.manifest import hash_file
from tasks.errors import DamagedError
from tasks.forms import graph as graphs
from tasks.records.signature import Asset

_TABLES = "tfship_tables"


def find(meta: Any, outputs: Iterable[str], folder: Path) -> tuple[str | None, tuple[Asset, ...], dict[str, Path]]:
    """What fills the lookup tables that `outputs` read: the operation, its assets, and where their files are now.

    The operation is added to the graph, in place, where only a collection names the initialisers; paths that TF2 keeps
    in variables become constants, as TF1 has them.

    Raises:
        DamagedError: an asset's file is not here.
    """
    files = {entry.tensor_info.name: entry.filename for entry in _declared(meta)}
    _constant_paths(meta.graph_def, files)
    operation = _main_op(meta)
    if operation is None:
        needed = graphs.reached(meta.graph_def, outputs)
        initialisers = _table_initialisers(meta, needed)
        if not initialisers:
            return None, (), {}
        meta.graph_def.node.add(name=_TABLES, op="NoOp", input=[f"^{name}" for name in initialisers])
        operation = _TABLES
        nodes = {node.name: node for node in meta.graph_def.node}
        for name in initialisers:
            if nodes[name].op.startswith("InitializeTableFromTextFile"):
                tensor = nodes[name].input[1]
                files[tensor if ":" in tensor else f"{tensor}:0"] = _path_in(nodes, tensor)
    reached = graphs.reached(meta.graph_def, [operation, *outputs])
    assets, places = [], {}
    for tensor, written in files.items():
        if graphs.node_name(tensor) not in reached:
            continue
        name = re.split(r"[/\\]", written)[-1]
        # Never from where the graph says: a graph could name any file of this machine, and have it shipped.
        place = folder / "assets" / name
        if not place.is_file() or not place.resolve().is_relative_to(folder.resolve()):
            remedy = f"put {name} into {folder / 'assets'}."
            raise DamagedError(
                str(folder), f"the file that fills a table, {written}", f"no such file in {folder / 'assets'}", remedy
            )
        assets.append(Asset(filename=name, tensor=tensor, sha256=hash_file(place)))
        places[name] = place
    return operation, tuple(assets), places


def _declared(meta: Any) -> list[Any]:
    """The AssetFileDefs of a SavedModel, which older ones keep in a collection (tensorflow/cc/saved_model/loader.cc)."""
    from tensorflow.core.protobuf import meta_graph_pb2

    if meta.asset_file_def or "saved_model_assets" not in meta.collection_def:
        return list(meta.asset_file_def)
    held = meta.collection_def["saved_model_assets"].any_list.value
    return [meta_graph_pb2.AssetFileDef.FromString(packed.value) for packed in held]


def _constant_paths(graph_def: Any, assets: Iterable[str]) -> None:
    """Let everything read an asset's path from its own tensor, and not from a variable that is assigned it at load."""
    import tensorflow as tf

    nodes = {node.name: node for node in graph_def.node}
    for tensor in assets:
        path = nodes[graphs.node_name(tensor)]
        if path.op in ("Placeholder", "PlaceholderV2"):
            path.Clear()
            path.name, path.op = graphs.node_name(tensor), "Const"
            path.attr["dtype"].type = tf.string.as_datatype_enum
            path.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(b""))
    paths = {graphs.node_name(tensor) for tensor in assets}
    assigned = {
        graphs.node_name(node.input[0]): node
        for node in graph_def.node
        if node.op == "AssignVariableOp" and graphs.node_name(node.input[1]) in paths
    }
    for node in graph_def.node:
        if node.op == "ReadVariableOp" and graphs.node_name(node.input[0]) in assigned:
            path_name = graphs.node_name(assigned[graphs.node_name(node.input[0])].input[1])
            name = node.name
            node.Clear()
            node.name, node.op = name, "Identity"
            node.input.append(path_name)
            node.attr["T"].type = tf.string.as_datatype_enum
    for node in assigned.values():
        name = node.name
        node.Clear()
        node.name, node.op = name, "NoOp"


def _main_op(meta: Any) -> str | None:
    """What a loader runs once (tensorflow/cc/saved_model/loader.cc: init op, main op, legacy init op, in this order)."""
    if "__saved_model_init_op" in meta.signature_def:
        name: str = meta.signature_def["__saved_model_init_op"].outputs["__saved_model_init_op"].name
        return graphs.node_name(name)
    for collection in ("saved_model_main_op", "legacy_init_op"):
        if collection in meta.collection_def and meta.collection_def[collection].node_list.value:
            return graphs.node_name(meta.collection_def[collection].node_list.value[0])
    return None


def _table_initialisers(meta: Any, needed: set[str]) -> list[str]:
    if "table_initializer" not in meta.collection_def:
        return []
    nodes = {node.name: node for node in meta.graph_def.node}
    held = meta.collection_def["table_initializer"].node_list.value
    names = [graphs.node_name(name) for name in held if graphs.node_name(name) in nodes]
    return [name for name in names if nodes[name].input and graphs.node_name(nodes[name].input[0]) in needed]


def _path_in(nodes: Mapping[str, Any], tensor: str) -> str:
    import tensorflow as tf

    node = nodes[graphs.node_name(tensor)]
    while node.op in ("Identity", "PlaceholderWithDefault"):
        node = nodes[graphs.node_name(node.input[0])]
    if node.op != "Const":
        return ""
    return bytes(tf.make_ndarray(graphs.attribute(node, "value").tensor).item()).decode(errors="replace")
