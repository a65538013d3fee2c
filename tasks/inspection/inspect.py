"""Looking at what TensorFlow saved, in any form, without running, building or restoring anything. Runs in a child.

Damage does not stop it: what can still be listed is listed, and what is wrong is said beside it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tasks.adoption import source_graph
from tasks.errors import DamagedError, UnsafeGraph, UnsupportedGraph, UsageError
from tasks.forms import detect, saved_model
from tasks.forms.keras import archive_check
from tasks.graphs import graph as graphs
from tasks.graphs import scan
from tasks.graphs import variables as graph_variables
from tasks.graphs.validate import require_valid_meta_graph
from tasks.inspection import collections, stored_tensors
from tasks.inspection.files import found_at, of_keras, said
from tasks.inspection.stored_tensors import Listing
from tasks.records.adoption import Found, ModelOptions
from tasks.records.forms import Form
from tasks.records.inspection import Inspection
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
    found = found_at(path, step, damage)
    if found is None:
        return Inspection(path=str(path), form=None, whole=False, damage=tuple(damage))
    looked: dict[str, Any] = {
        "path": str(found.path),
        "form": found.form,
        "chosen": found.chosen,
        "available": found.available,
        "files": found.files,
        "notes": found.notes,
    }
    if found.form.of_keras:
        looked |= of_keras(found, damage)
        if "keras" in looked:
            looked["notes"] = (*found.notes, *_refused_keras(found.path))
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


def _refused_keras(path: Path) -> Iterator[str]:
    try:
        archive_check.require_safe(path)
    except (UnsafeGraph, UnsupportedGraph) as error:
        yield f"will be refused: {error.where}: {error.found}"


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
