"""The graph of a source model, read from its file, and the options that apply to a model of its form.

The graph stays as it was saved, beyond what importing an old one takes. Reading and importing it runs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tasks.errors import DamagedError, EnvironmentFailure, UsageError
from tasks.forms import checkpoint_files, detect, file_signature, frozen_graph, saved_model
from tasks.graphs import constant_folding, rewrite
from tasks.graphs.protos import MetaGraphDef
from tasks.records.adoption import Found, ModelOptions
from tasks.records.forms import Form
from tasks.records.signature import GraphNames

_FILES = (Form.META_GRAPH, Form.GRAPH_DEF)
WITH_GRAPH = (Form.SAVER_V2, Form.SAVER_V1, *_FILES, Form.SAVED_MODEL)


def require_applicable(found: Found, options: ModelOptions, *, coded: bool) -> None:
    """Refuse options that do not apply to a model of this form: an option that is ignored looks as if it was obeyed.

    `coded` says that there is Python code (`--model`).

    Raises:
        UsageError: an option does not apply.
        Others: as `graph_of`.
    """
    form = found.form
    if options.graph is not None and (coded or not form.of_saver):
        other = "--model, which builds the graph" if form.of_saver else form.value
        raise _inapplicable(f"--graph {options.graph}", "a Saver checkpoint without --model", other)
    if options.var_map is not None and not form.of_saver:
        raise _inapplicable(f"--var-map {options.var_map}", "a Saver checkpoint", form.value)
    if coded and not (form.of_saver or form.of_objects):
        raise _inapplicable("--model", "a checkpoint or a Keras file", form.value)
    if options.tags is not None and Form.SAVED_MODEL not in (form, graph_of(found, options).form):
        raise _inapplicable(f"--tags {','.join(options.tags)}", "a SavedModel", form.value)


def _inapplicable(option: str, expected: str, found: str) -> UsageError:
    return UsageError(option, expected, found, f"leave {option.partition(' ')[0]} out: it does not apply here.")


def graph_of(found: Found, options: ModelOptions) -> Found:
    """Return the holder of a model's graph: the model itself, or for a checkpoint the file of `--graph`.

    Raises:
        EnvironmentFailure: that file cannot be read.
        Others: as `detect`.
    """
    if not found.form.of_saver or options.graph is None:
        return found
    try:
        form = detect.sniff(options.graph) if options.graph.is_file() else None
    except OSError as error:
        raise EnvironmentFailure.from_os(error, f"--graph {options.graph}") from None
    if form in _FILES:  # a `.meta` beside data files is a graph all the same
        return Found(form=form, path=options.graph, files=(options.graph,))
    return detect.detect(options.graph)


def graph(found: Found, options: ModelOptions) -> Any:
    """Read a source model's MetaGraphDef, changed only so that it can be imported; a GraphDef is wrapped in one.

    Raises:
        UsageError: the form holds no graph and `--graph` is missing, or it holds several and none is selected.
        DamagedError: the file is truncated or no such message.
    """
    if found.form is Form.SAVED_MODEL:
        return _importable(_of_saved_model(found.path, options))
    if found.form in _FILES:
        return _importable(_of_file(found.path, found.form))
    if options.graph is not None:
        holder = graph_of(found, options)
        if holder.form not in (*_FILES, Form.SAVED_MODEL):
            raise UsageError("--graph", "a GraphDef or a MetaGraphDef", holder.form.value, "give the graph's file.")
        return graph(holder, options)
    if found.meta is not None:
        return _importable(_of_file(found.meta, Form.META_GRAPH))
    if found.form is Form.OBJECT_CHECKPOINT:
        expected = f"Python code for the values ({found.form.value})"
        raise UsageError(str(found.path), expected, "none", "give the model's code: --model module:Model.")
    raise _without_meta(found)


def _without_meta(found: Found) -> UsageError:
    """Return the error for a Saver checkpoint without its graph, with what became of it as far as the folder shows."""
    where, expected = str(found.path), f"a graph for the values ({found.form.value})"
    others = sorted(found.path.parent.glob(f"*{checkpoint_files.META}"))
    if others:
        what = f"no {found.path.name}{checkpoint_files.META}, but {', '.join(other.name for other in others[:5])}"
        remedy = f"give one that the same program wrote, whatever its step: --graph {others[-1]}."
        return UsageError(where, expected, what, remedy)
    told = 0
    if (state := found.path.parent / "checkpoint").is_file():
        with state.open("rb") as stream:
            told = stream.read(2**20).count(b"all_model_checkpoint_paths")
    what = "none"
    if max(told, len(found.available)) > 1:
        what = (
            "none: Saver wrote it for its first checkpoint alone (write_meta_graph=False) and deleted it with that one"
            " (max_to_keep)"
        )
    remedy = (
        "give the model's code: --model module:Model, or its graph: --graph FILE, which the program that built it writes"
        " anew without training: `tf.compat.v1.train.export_meta_graph('model.meta')`."
    )
    return UsageError(where, expected, what, remedy)


def tag_notes(folder: Path, taken: Any) -> tuple[str, ...]:
    """Return notes on the tags of the MetaGraph that was taken of a SavedModel, and on other MetaGraphs in it."""
    tags = frozenset(taken.meta_info_def.tags)
    others = "; ".join(_tags(other) for other in _by_tags(folder)[1] if other != tags)
    notes = []
    if tags != {saved_model.SERVE}:
        notes.append(f"its MetaGraph has the tags {_tags(tags)}, where a server looks for {saved_model.SERVE}")
    if others:
        notes.append(f"MetaGraphs of other tags are left out: {others}")
    return tuple(notes)


def _of_saved_model(folder: Path, options: ModelOptions) -> Any:
    saved_model.require_fingerprint(folder)
    path, metas = _by_tags(folder)
    wanted = frozenset(options.tags or ([saved_model.SERVE] if len(metas) > 1 else next(iter(metas))))
    if wanted not in metas:
        expected, remedy = f"tags {_tags(wanted)}", "choose one of these sets: --tags A,B."
        found = "; ".join(map(_tags, metas))
        raise UsageError(str(path), expected, found, remedy, tags=sorted(sorted(tags) for tags in metas))
    return metas[wanted]


def _tags(tags: Iterable[str]) -> str:
    return ",".join(sorted(tags)) or "(none)"


def _by_tags(folder: Path) -> tuple[Path, dict[frozenset[str], Any]]:
    """Return a SavedModel's file, and its MetaGraphDefs by their tags."""
    from tensorflow.core.protobuf import saved_model_pb2

    path = next(folder / name for name in detect.SAVED_MODEL if (folder / name).is_file())
    found = _parsed(path, saved_model_pb2.SavedModel, text=path.suffix == ".pbtxt").meta_graphs  # as a loader does
    remedy = "export the model again."
    if not found:
        raise DamagedError(str(path), "a SavedModel with a MetaGraphDef", "0 MetaGraphDefs", remedy)
    metas: dict[frozenset[str], Any] = {}
    for meta in found:  # a loader takes the first of a set (tensorflow/python/saved_model/loader_impl.py)
        if metas.setdefault(frozenset(meta.meta_info_def.tags), meta) is not meta:
            two = f"two of {_tags(set(meta.meta_info_def.tags))}"
            raise DamagedError(str(path), "one MetaGraphDef of each set of tags", two, remedy)
    return path, metas


def _of_file(path: Path, form: Form) -> Any:
    from tensorflow.core.framework import graph_pb2
    from tensorflow.core.protobuf import meta_graph_pb2

    meta = meta_graph_pb2.MetaGraphDef()
    if form is Form.META_GRAPH:
        meta = _parsed(path, meta_graph_pb2.MetaGraphDef)
    else:
        meta.graph_def.CopyFrom(_parsed(path, graph_pb2.GraphDef))
        if path.name == frozen_graph.GRAPH and (names := path.with_name(frozen_graph.NAMES)).is_file():
            _declare(meta, _frozen_names(names))
    if not meta.graph_def.node:
        raise DamagedError(str(path), f"a {form.value} with nodes", "none", "give a complete file.")
    return meta


def _declare(meta: MetaGraphDef, names: GraphNames) -> None:
    """Add what the GraphDef that `freeze` wrote does not hold: its signatures, its table initialiser, its assets."""
    rewrite.declare(meta, names.signatures)
    if names.table_init:
        meta.collection_def["table_initializer"].node_list.value.append(names.table_init)
    for asset in names.assets:
        meta.asset_file_def.add(filename=asset.filename).tensor_info.name = asset.tensor


def _frozen_names(path: Path) -> GraphNames:
    """Read the names that `freeze` wrote beside a GraphDef."""
    try:
        return GraphNames.model_validate_json(path.read_bytes())
    except ValidationError as error:
        found = f"{error.error_count()} errors, the first {error.errors()[0]['msg']}"
        remedy = "freeze again, or take the graph from this folder and give --input and --output."
        raise DamagedError(str(path), "the signatures in the file next to it", found, remedy) from None


def _parsed(path: Path, message_class: Any, *, text: bool | None = None) -> Any:
    """Read a message in binary or text form; where `text` is None, its first bytes decide."""
    from google.protobuf import text_format
    from google.protobuf.message import DecodeError

    content = path.read_bytes()
    message = message_class()
    try:
        if any(pattern.match(content[:4096]) for pattern, _ in file_signature.TEXT) if text is None else text:
            return text_format.Parse(content.decode(), message)
        message.ParseFromString(content)
    except (DecodeError, text_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        found = str(error).split("\n")[0][:200]
        remedy = "restore the file from a backup: it is truncated or changed."
        raise DamagedError(str(path), f"a complete {message_class.__name__}", found, remedy) from None
    return message


def _importable(meta: MetaGraphDef) -> Any:
    """Change a MetaGraphDef, in place, as far as an old graph must be changed to be imported."""
    version = meta.meta_info_def.tensorflow_version
    if version and not re.fullmatch(r"\d+\.\d+\.\d+.*", version):
        meta.meta_info_def.tensorflow_version = ""  # `0.12.head` cannot be parsed, and stops an import
    rewrite.modernise(meta)
    constant_folding.guard(meta.graph_def)
    return meta
