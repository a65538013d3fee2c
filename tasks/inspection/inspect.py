"""Looking at what TensorFlow saved, in any form, without running, building or restoring anything. Runs in a child.

Damage does not stop it: what can still be listed is listed, and what is wrong is said beside it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.adoption import source_graph
from tasks.errors import DamagedError, UnsafeGraph, UnsupportedGraph, UsageError
from tasks.forms import detect, saved_model, saver
from tasks.forms.keras import archive_check
from tasks.graphs import graph as graphs
from tasks.graphs import scan
from tasks.graphs import variables as graph_variables
from tasks.graphs.validate import require_valid_meta_graph
from tasks.inspection import collections, stored_tensors
from tasks.inspection.stored_tensors import Listing, said
from tasks.records.adoption import Found, ModelOptions
from tasks.records.forms import Form
from tasks.records.inspection import Inspection, KerasFound
from tasks.signatures import propose

_CHECKPOINTS = (Form.SAVER_V1, Form.SAVER_V2, Form.OBJECT_CHECKPOINT)


def inspect(path: Path, given: ModelOptions, step: int | None, *, read: bool, values: bool) -> Inspection:
    """Read everything that can be found at `path`. With `read`, every tensor of every shard is read; with `values`, ranges.

    Raises:
        UsageError: there is nothing, or there are several models and none is selected.
        UnsafeGraph: a link in it leads out of its folder.
        EnvironmentFailure: it cannot be read.
    """
    damage: list[str] = []
    try:
        found = detect.detect(path, step)
    except DamagedError as error:
        damage.append(said(error))
        found_anyway = _despite(path, step)
        if found_anyway is None:
            return Inspection(path=str(path), form=None, whole=False, damage=tuple(damage))
        found = found_anyway
    looked: dict[str, Any] = {
        "path": str(found.path),
        "form": found.form,
        "chosen": found.chosen,
        "available": found.available,
        "files": found.files,
        "notes": found.notes,
    }
    if found.form.of_keras:
        looked |= _of_keras(found, damage)
    else:
        looked |= _of_graph(found, given, damage)
    listing = _tensors(found, looked.pop("graph_rows", []), read, values)
    damage += [one for one in listing.damage if one not in damage]
    checked = listing.read or found.form in (Form.META_GRAPH, Form.GRAPH_DEF)
    return Inspection(
        **looked,
        variables=tuple(listing.rows),
        damage=tuple(damage),
        whole=False if damage else True if checked and read else None,
    )


def _tensors(found: Found, graph_rows: list[Any], read: bool, values: bool) -> Listing:
    if found.form in _CHECKPOINTS:
        return stored_tensors.of_checkpoint(found.path, read=read, values=values)
    if found.form is Form.SAVED_MODEL:
        prefix = found.path / "variables" / "variables"
        if prefix.with_name("variables.index").is_file():
            return stored_tensors.of_checkpoint(prefix, read=read, values=values)
        return Listing(graph_rows, [], True)
    if found.form.of_keras:
        return stored_tensors.of_keras(found.path, found.form, read=read, values=values)
    return Listing(graph_rows, [], True)


def _of_graph(found: Found, given: ModelOptions, damage: list[str]) -> dict[str, Any]:
    try:
        meta = source_graph.graph(found, given)
    except UsageError as error:
        if error.tags:  # several MetaGraphs, and none is the default
            likely = max(error.tags, key=lambda tags: saved_model.SERVE in tags)
            needs = f"{error.expected}, where there are {error.found}: {error.remedy}"
            return {"needs": needs, "options": (f"--tags {shlex.quote(','.join(likely))}",)}
        return {"needs": f"{error.expected}: {error.remedy}"}
    except DamagedError as error:
        damage.append(said(error))
        return {}
    notes = [*found.notes, *(source_graph.tag_notes(found.path, meta) if found.form is Form.SAVED_MODEL else ())]
    written = _as_written(found, meta.meta_info_def.tags)
    version = written.meta_info_def.tensorflow_version if written is not None else meta.meta_info_def.tensorflow_version
    told: dict[str, Any] = {
        "notes": tuple(notes),
        "written_by": version,
        "producer": meta.graph_def.versions.producer,
        "collections": {
            key: tuple(collections.entries(key, held)) for key, held in sorted(meta.collection_def.items())
        },
        "hyperparameters": collections.hyperparameters(meta.collection_def),
    }
    try:
        require_valid_meta_graph(meta, str(found.path))
        told["graph_rows"] = stored_tensors.of_graph(meta.graph_def)
        proposal = propose.propose(meta)
        options = propose.options_for(meta, proposal)
    except DamagedError as error:
        damage.append(said(error))
        return told | {"ops": _devices(scan.scan(meta.graph_def, None), written)}
    signatures = [spec.tensor for one in proposal.declared for spec in one.outputs.values()]
    reached = signatures or [one.tensor for one in proposal.outputs[:1]]
    told |= {"proposal": proposal, "options": () if proposal.declared else options, "reached_from": tuple(reached)}
    told["ops"] = _devices(scan.scan(meta.graph_def, reached or None), written)
    if found.form in (Form.GRAPH_DEF, Form.META_GRAPH) and graph_variables.variable_facts(meta.graph_def):
        told["needs"] = (
            "it has variables and no values: give the checkpoint's prefix as PATH, and this file as --graph."
        )
    try:
        scan.require_loadable(meta, str(found.path))
    except UnsafeGraph as error:
        told["notes"] = (*notes, f"unsafe to load: {error.where}: {error.found}")
    return told


def _devices(found: Any, written: Any) -> Any:
    if written is None:
        return found
    devices = tuple(sorted({node.device for node in graphs.Graph(written.graph_def).every_node() if node.device}))
    return found.model_copy(update={"devices": devices})


def _as_written(found: Found, tags: Iterable[str]) -> Any | None:
    """Return the MetaGraphDef before it was made importable, which drops devices and versions that cannot be parsed.

    None for a graph in text form.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.framework import graph_pb2
    from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

    try:
        if found.form is Form.SAVED_MODEL:
            held = saved_model_pb2.SavedModel.FromString((found.path / detect.SAVED_MODEL[0]).read_bytes()).meta_graphs
            return next((meta for meta in held if set(meta.meta_info_def.tags) == set(tags)), None)
        if found.form is Form.GRAPH_DEF:
            return meta_graph_pb2.MetaGraphDef(graph_def=graph_pb2.GraphDef.FromString(found.path.read_bytes()))
        file = found.path if found.form is Form.META_GRAPH else found.meta
        return meta_graph_pb2.MetaGraphDef.FromString(file.read_bytes()) if file is not None else None
    except (DecodeError, OSError):
        return None


def _of_keras(found: Found, damage: list[str]) -> dict[str, Any]:
    try:
        config = archive_check.configuration(found.path)
    except DamagedError as error:
        damage.append(said(error))
        return {}
    except UsageError as error:
        return {"needs": f"{error.found}: {error.remedy}"}
    notes = list(found.notes)
    try:
        archive_check.require_safe(found.path)
    except (UnsafeGraph, UnsupportedGraph) as error:
        notes.append(f"will be refused: {error.where}: {error.found}")
    layers = tuple(_layers(config))
    return {
        "keras": KerasFound(
            model_class=str(config.get("class_name", "")),
            layers=layers,
            lambdas=tuple(name for name, kind in layers if kind == "Lambda"),
            version=str(config.get("keras_version", "")),
        ),
        "notes": tuple(notes),
    }


def _layers(config: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, str]]:
    """Name and class of every layer, those of nested models by their path."""
    waiting: list[tuple[str, Any]] = [(within, config)]
    while waiting:
        scope, model = waiting.pop(0)
        inner = model.get("config") if isinstance(model, dict) else None
        held = inner.get("layers") if isinstance(inner, dict) else inner
        for layer in held if isinstance(held, list) else ():
            if not isinstance(layer, dict):
                continue
            settings = layer.get("config")
            name = layer.get("name") or (settings.get("name") if isinstance(settings, dict) else "") or "?"
            yield f"{scope}{name}", str(layer.get("class_name", "?"))
            waiting.append((f"{scope}{name}/", layer))


def _despite(path: Path, step: int | None) -> Found | None:
    """Return what can still be listed of a damaged model: the index of a checkpoint lists its tensors without its shards."""
    near = path if path.is_dir() else path.parent
    prefixes = [path, path.with_suffix(""), *([path / "variables" / "variables"] if path.is_dir() else [])]
    if near.is_dir():
        named = [one for one in detect.prefixes(near) if step is None or saver.step_of(one) == step]
        prefixes += named[-1:] if path.is_dir() else []
    for prefix in prefixes:
        index, files = prefix.with_name(f"{prefix.name}.index"), saver.files(prefix)
        if index not in files or not all(file.is_file() for file in files):
            continue
        meta = saver.meta_file(prefix)
        in_model = prefix.parent.name == "variables" and (prefix.parent.parent / "saved_model.pb").is_file()
        return Found(
            form=Form.SAVED_MODEL if in_model else Form.SAVER_V2,
            path=prefix.parent.parent if in_model else prefix,
            files=tuple(files),
            meta=meta if meta.is_file() else None,
        )
    return None
