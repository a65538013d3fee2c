"""Lookup tables: which operation fills those that the outputs read, and from which files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tasks.artifacts.hashes import hash_file
from tasks.errors import CoverageError, DamagedError, UsageError
from tasks.graphs import graph as graphs
from tasks.graphs import model_files
from tasks.graphs import variables as graph_variables
from tasks.graphs.graph import Graph, full_name
from tasks.graphs.protos import GraphDef, MetaGraphDef
from tasks.records.signature import Asset

_TABLES = "tfship_tables"
_INIT = "__saved_model_init_op"
_MAIN = ("saved_model_main_op", "legacy_init_op")
TABLES = frozenset({"HashTable", "HashTableV2"})
FILLING = model_files.FILLS | {"InitializeTable", "InitializeTableV2", "LookupTableImport", "LookupTableImportV2"}
LOADED = (*_MAIN, "saved_model_assets")  # the collections that a loader reads beside the variables'


def find(
    meta: MetaGraphDef, outputs: Iterable[str], folder: Path
) -> tuple[str | None, tuple[Asset, ...], dict[str, Path]]:
    """Find the operation that fills the lookup tables that `outputs` read, its assets, and the present paths of their files.

    The operation is added to the graph, in place, where only a collection names the initialisers; paths that TF2 keeps in
    variables become constants, as in TF1. An asset is named after its file, with a number if the name is taken.

    Raises:
        DamagedError: the file of an asset is missing.
        UsageError: one file would have to be two assets.
        CoverageError: nothing in the graph fills a table.
        UnsafeGraph: the outputs would fill a table from a file themselves.
    """
    outputs = list(outputs)
    model_files.require_own(meta.graph_def, outputs, (), str(folder))
    operation, written, declared = _main_op(meta), paths(meta), _declared(meta)
    _constant_paths(meta.graph_def, declared)
    if operation is None:
        needed = graphs.Graph(meta.graph_def).reach(outputs) - graph_variables.variable_facts(meta.graph_def).keys()
        filling = [node for node in _collected(meta) if node.input and graphs.node_name(node.input[0]) in needed]
        _require_filled(meta.graph_def, needed, {graphs.node_name(node.input[0]) for node in filling})
        if not filling:
            return None, (), {}
        operation = _TABLES
        while any(node.name == operation for node in meta.graph_def.node):  # a run of ours, brought again
            operation += "_"
        meta.graph_def.node.add(name=operation, op="NoOp", input=[f"^{node.name}" for node in filling])
    reached = graphs.Graph(meta.graph_def).reach([operation, *outputs])
    assets: list[Asset] = []
    places: dict[str, Path] = {}
    spelled: dict[Path, str] = {}
    for tensor, path in written.items():
        if graphs.node_name(tensor) not in reached:
            continue
        place = _place(folder, path, [path] if tensor in declared else _endings(path))
        if tensor not in declared and spelled.setdefault(place, path) != path:
            raise UsageError(
                str(folder),
                f"a file of its own for each of {spelled[place]} and {path}",
                f"{place.name} alone, and no telling whose it is",
                f"put both into {folder / 'assets'}, below folders as they were: "
                + " and ".join("/".join(_parts(one)[-2:]) for one in (spelled[place], path)),
            )
        name, number = place.name, 1
        while places.get(name, place) != place:
            number += 1
            name = f"{number}-{place.name}"
        assets.append(Asset(filename=name, tensor=tensor, sha256=hash_file(place)))
        places[name] = place
    return operation, tuple(assets), places


def paths(meta: MetaGraphDef) -> dict[str, str]:
    """Map the tensors that hold paths of the model's own files, which a loader feeds, to these paths."""
    declared = _declared(meta)
    if _main_op(meta) is not None:
        return declared
    nodes = Graph(meta.graph_def).nodes
    filled = [node.input[1] for node in _collected(meta) if node.op in model_files.FILLS and len(node.input) > 1]
    return {full_name(tensor): _path_in(nodes, tensor) for tensor in filled} | declared


def initialisers(meta: MetaGraphDef) -> list[str]:
    """Return every operation that may run after a model is restored, to fill its tables."""
    found = _added(meta)
    if _INIT in meta.signature_def:
        found += [info.name for info in meta.signature_def[_INIT].outputs.values()]
    for collection in (*_MAIN, "table_initializer"):
        if collection in meta.collection_def:
            found += meta.collection_def[collection].node_list.value
    return found


def _require_filled(graph_def: GraphDef, needed: Iterable[str], filled: Iterable[str]) -> None:
    nodes = Graph(graph_def).nodes
    tables = {name for name in needed if name in nodes and nodes[name].op in TABLES}
    if empty := sorted(tables - set(filled)):
        remedy = (
            "keep the operation that fills it when the graph is frozen: name it among the outputs, "
            "`tf.compat.v1.tables_initializer().name`, or export a SavedModel."
        )
        raise CoverageError(
            f"the lookup table {empty[0]}, which the outputs read",
            "an operation in the graph that fills it",
            "none",
            remedy,
        )


def _place(folder: Path, written: str, candidates: Iterable[str]) -> Path:
    """Return the path of an asset's file below the model's folder, never the path that the graph names: that could be any file.

    Raises:
        DamagedError: the file is missing.
    """
    assets = folder / "assets"
    for candidate in candidates:
        place = assets / candidate
        inside = place.is_relative_to(assets) and ".." not in place.relative_to(assets).parts
        if inside and place.is_file() and place.resolve().is_relative_to(folder.resolve()):
            return place
    expected, remedy = f"the file that fills a table, {written}", f"put {_parts(written)[-1]} into {assets}."
    raise DamagedError(str(folder), expected, f"no such file in {assets}", remedy)


def _parts(written: str) -> list[str]:
    return [part for part in re.split(r"[/\\]", written) if part] or [written]


def _endings(written: str) -> list[str]:
    """Return a path of another machine with fewer and fewer of its folders."""
    parts = _parts(written)
    return ["/".join(parts[first:]) for first in range(len(parts))]


def _declared(meta: MetaGraphDef) -> dict[str, str]:
    """Map the tensors that take paths of a SavedModel's assets to the files in `assets`.

    Older SavedModels keep them in a collection (tensorflow/cc/saved_model/loader.cc).
    """
    from tensorflow.core.protobuf import meta_graph_pb2

    entries = list(meta.asset_file_def)
    if not entries and "saved_model_assets" in meta.collection_def:
        held = meta.collection_def["saved_model_assets"].any_list.value
        entries = [meta_graph_pb2.AssetFileDef.FromString(packed.value) for packed in held]
    return {entry.tensor_info.name: entry.filename for entry in entries}


def _constant_paths(graph_def: GraphDef, assets: Iterable[str]) -> None:
    """Let everything read an asset's path from its own tensor, and not from a variable that is assigned it at load."""
    import tensorflow as tf

    nodes = Graph(graph_def).nodes
    for tensor in assets:
        path = nodes.get(graphs.node_name(tensor))
        if path is not None and path.op in ("Placeholder", "PlaceholderV2"):
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


def _main_op(meta: MetaGraphDef) -> str | None:
    """Return the op that a loader runs once: init op, main op, or legacy init op (tensorflow/cc/saved_model/loader.cc)."""
    if _INIT in meta.signature_def:
        names = [info.name for key, info in meta.signature_def[_INIT].outputs.items() if key == _INIT]
        return graphs.node_name(names[0]) if names else ""
    for collection in _MAIN:
        if collection in meta.collection_def and meta.collection_def[collection].node_list.value:
            return graphs.node_name(meta.collection_def[collection].node_list.value[0])
    return None


def _collected(meta: MetaGraphDef) -> list[Any]:
    """Return the nodes that fill tables, from the collection of initialisers or the op that `find` added; groups are expanded.

    A GraphDef has no collections: there they are known by their ops.
    """
    nodes = Graph(meta.graph_def).nodes
    held: Iterable[str] = ()
    if "table_initializer" in meta.collection_def:
        held = meta.collection_def["table_initializer"].node_list.value
    elif not _added(meta):
        held = [name for name, node in nodes.items() if node.op in FILLING]
    waiting = [*_added(meta), *reversed(list(held))]
    found: dict[str, Any] = {}
    grouped: set[str] = set()
    while waiting:
        name = graphs.node_name(waiting.pop())
        node = nodes.get(name)
        if node is None or name in found or name in grouped:
            continue
        if node.op == "NoOp":
            grouped.add(name)
            waiting += reversed(node.input)
        else:
            found[name] = node
    return list(found.values())


def _added(meta: MetaGraphDef) -> list[str]:
    """Return the operations that `find` has added."""
    return [node.name for node in meta.graph_def.node if node.name.rstrip("_") == _TABLES]


def _path_in(nodes: Mapping[str, Any], tensor: str) -> str:
    import tensorflow as tf

    node = nodes[graphs.node_name(tensor)]
    while node.op in ("Identity", "PlaceholderWithDefault"):
        node = nodes[graphs.node_name(node.input[0])]
    value = tf.make_ndarray(graphs.attribute(node, "value").tensor).ravel() if node.op == "Const" else []
    return value[0].decode(errors="replace") if len(value) == 1 and isinstance(value[0], bytes) else ""
