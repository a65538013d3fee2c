"""Detection of the model at a path by the structure of its files, not by their names. No TensorFlow; nothing is executed."""

from __future__ import annotations

import re
from pathlib import Path

from tasks.errors import DamagedError, EnvironmentFailure, UnsafeGraph, UsageError
from tasks.forms import checkpoint_files, checkpoint_table
from tasks.forms.checkpoint_table import is_table
from tasks.forms.file_signature import require_readable, sniff
from tasks.records.adoption import Found
from tasks.records.forms import FROZEN_GRAPH_FILE, FROZEN_NAMES_FILE, Form

__all__ = ["SAVED_MODEL", "detect", "prefixes", "sniff"]

SAVED_MODEL = ("saved_model.pb", "saved_model.pbtxt")
_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_SHARD = re.compile(r"(.+?)(\.data)?-(\d{5})-of-(\d{5})")
_HEAD = 2**20  # of a `checkpoint` file: here is the flow's own process, which no watchdog ends


def detect(path: Path, step: int | None = None) -> Found:
    """Find the model at `path`: a folder, a file, or a checkpoint prefix; `step` selects one of several checkpoints.

    Raises:
        UsageError: there is nothing, no file, or more than one model and none is selected.
        DamagedError: one of its files is missing, truncated, or was not written by TensorFlow.
        UnsafeGraph: a link in it leads out of its folder.
        EnvironmentFailure: it cannot be read.
    """
    try:
        found = _detect(path, step)
        for file in found.files:
            _require_plain(file)
            _require_inside(file, found.path if found.path.is_dir() else found.path.parent)
    except OSError as error:
        raise EnvironmentFailure.from_os(error, str(path)) from None
    return found


def _detect(path: Path, step: int | None) -> Found:
    _require_plain(path)
    if path.is_dir():
        return _folder(path, step)
    if path.name == "checkpoint" and path.is_file():
        return _among(path.parent, prefixes(path.parent), step)
    prefix = _prefix_of(path)
    if prefix is not None:
        return _checkpoint(prefix, f"{prefix.name}, as requested", ())
    if not path.exists():
        found = f"no folder {path.parent}"
        if path.parent.is_dir():
            near = sorted(entry.name for entry in path.parent.iterdir())[:8]
            found = f"nothing; {path.parent} holds {', '.join(near) or 'no files'}"
        raise UsageError(str(path), "a model's folder or file, or a checkpoint prefix", found, "give an existing path.")
    if path.name in SAVED_MODEL and sniff(path) is Form.SAVED_MODEL:
        return _saved_model(path.parent)
    form = sniff(path)
    if form is Form.SAVED_MODEL:
        remedy = "rename it to saved_model.pb, next to its `variables` folder, and give that folder."
        raise UsageError(str(path), "a SavedModel's folder", "a SavedModel's graph by itself", remedy)
    if form is None:
        raise _no_model(path)
    return Found(form=form, path=path, files=(path, *_beside(path.parent)))


def _beside(folder: Path) -> list[Path]:
    """Return the files that belong to a graph's file: signatures of a frozen graph, and assets that fill its tables."""
    names = (
        [folder / FROZEN_NAMES_FILE]
        if (folder / FROZEN_GRAPH_FILE).is_file() and (folder / FROZEN_NAMES_FILE).is_file()
        else []
    )
    return names + [path for path in sorted((folder / "assets").rglob("*")) if path.is_symlink() or not path.is_dir()]


def _folder(folder: Path, step: int | None) -> Found:
    graph = next((folder / name for name in SAVED_MODEL if (folder / name).is_file()), None)
    if graph is not None:
        form = sniff(graph)
        if form is Form.SAVED_MODEL:
            return _saved_model(folder)
        if form is None:
            raise _no_model(graph)
        return Found(
            form=form, path=graph, files=(graph, *_beside(folder)), notes=(f"{graph.name} holds a {form.value}",)
        )
    checkpoints = prefixes(folder)
    exports = [path.parent for path in sorted(folder.glob("*/saved_model.pb*"))]
    exports += [path.parent for path in sorted(folder.glob("*/*/saved_model.pb*"))]
    if checkpoints:
        found = _among(folder, checkpoints, step)
        beside = tuple(f"there is a SavedModel too: {export.relative_to(folder)}" for export in exports)
        return found.model_copy(update={"notes": (*found.notes, *beside)})
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name != "checkpoint"]
    models = [path for path in files if sniff(path) is not None]
    models += [*exports, *(path for path in sorted(folder.iterdir()) if path.is_dir() and prefixes(path))]
    if len(models) == 1:
        only = _detect(models[0], step)
        return only.model_copy(
            update={"notes": (f"{models[0].relative_to(folder)}, the only model there", *only.notes)}
        )
    if not models:
        _require_state(folder, [])
        held = ", ".join(path.name for path in sorted(folder.iterdir())[:8]) or "nothing"
        remedy = "give a SavedModel's folder, a checkpoint's folder or prefix, or a model's file."
        raise UsageError(str(folder), "something that TensorFlow saved", held, remedy)
    names = ", ".join(str(path.relative_to(folder)) for path in models)
    raise UsageError(str(folder), "one model", f"{len(models)}: {names}", "give the path of one of them.")


def _saved_model(folder: Path) -> Found:
    files = tuple(path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir())
    wanted = {*SAVED_MODEL, "variables", "assets", "assets.extra", "fingerprint.pb"}
    ours = tuple(path for path in files if path.relative_to(folder).parts[0] in wanted)
    prefix = folder / "variables" / "variables"
    _require_shards(prefix)
    if (index := prefix.with_name(f"{prefix.name}.index")).is_file():
        checkpoint_table.keys(index)
    return Found(form=Form.SAVED_MODEL, path=folder, files=ours)


def prefixes(folder: Path) -> list[Path]:
    """Return every checkpoint prefix in a folder, of either version, with or without a step in its name, by step."""
    tables = {path for path in folder.iterdir() if path.is_file() and "." not in path.suffix[1:] and is_table(path)}
    found = {path.with_suffix("") for path in folder.glob("*.index")}
    for path in folder.iterdir():
        shard = _SHARD.fullmatch(path.name)
        if shard:
            found.add(folder / shard[1])
        elif path in tables and path.suffix != ".index" and not checkpoint_table.is_index(path):
            found.add(path)
    return sorted(found, key=lambda prefix: (checkpoint_files.step_of(prefix) or 0, prefix.name))


def _prefix_of(path: Path) -> Path | None:
    """Return the checkpoint prefix that `path` is, or to which the file belongs."""
    shard = _SHARD.fullmatch(path.name)
    if shard and path.is_file():
        return path.with_name(shard[1])
    if path.suffix == ".index" and path.is_file():
        return path.with_suffix("")
    if path.suffix == checkpoint_files.META and path.is_file() and checkpoint_files.files(path.with_suffix("")):
        return path.with_suffix("")
    if not path.parent.is_dir() or not checkpoint_files.files(path):
        return None
    return path if not path.is_file() or is_table(path) or len(checkpoint_files.files(path)) > 1 else None


def _among(folder: Path, found: list[Path], step: int | None) -> Found:
    """Select one of several checkpoints: the requested one, the only one, or the newest if that is unambiguous."""
    steps = {prefix: checkpoint_files.step_of(prefix) for prefix in found}
    listed = ", ".join(prefix.name for prefix in found)
    named, notes = _require_state(folder, found)
    if step is not None:
        chosen = next((prefix for prefix in found if steps[prefix] == step), None)
        if chosen is None:
            raise UsageError(str(folder), f"a checkpoint of step {step}", listed, "choose one of these.")
        why = f"step {step}, as requested"
    elif len(found) == 1:
        chosen, why = found[0], f"{found[0].name}, the only checkpoint there"
    elif None not in steps.values() and len(set(steps.values())) == len(found) and named in (None, found[-1]):
        chosen, why = found[-1], f"{found[-1].name}, the newest of {len(found)}"
    else:
        hint = f"; the file `checkpoint` names {named.name}" if named else ""
        options = " or ".join(str(prefix) for prefix in found[:4])
        raise UsageError(str(folder), "one checkpoint", f"{len(found)}: {listed}{hint}", f"say which: {options}.")
    return _checkpoint(chosen, why, tuple(prefix.name for prefix in found), notes)


def _require_state(folder: Path, found: list[Path]) -> tuple[Path | None, tuple[str, ...]]:
    """Use the `checkpoint` file as a hint only: it is often from another machine, or names a deleted step."""
    state = folder / "checkpoint"
    if not state.is_file():
        return None, ()
    match = re.search(rb'^model_checkpoint_path:\s*"((?:[^"\\]|\\.)*)"', _head(state), re.MULTILINE)
    if match is None:
        return None, ("the file `checkpoint` names no checkpoint",)
    written = match[1].decode(errors="replace").replace("\\\\", "\\")
    name = re.split(r"[/\\]", written)[-1]
    here = next((prefix for prefix in found if prefix.name == name), None)
    if here is not None:
        foreign = written not in (name, f"./{name}", str(here), str(here.absolute()))
        return here, (f"the file `checkpoint` names {written}; {name} here was meant",) if foreign else ()
    if not found:
        remedy = "copy the checkpoint's own files (.index, .data-…, .meta) into the same folder."
        raise DamagedError(str(state), f"the checkpoint that it names, {written}", "no checkpoint there", remedy)
    return None, (f"the file `checkpoint` names {written}, which is not there",)


def _checkpoint(prefix: Path, why: str, available: tuple[str, ...], notes: tuple[str, ...] = ()) -> Found:
    files = checkpoint_files.files(prefix)
    index = prefix.with_name(f"{prefix.name}.index")
    old = [path for path in files if path == prefix or (_SHARD.fullmatch(path.name) and ".data-" not in path.name)]
    if index in files and old:
        remedy = f"they may hold different weights: keep one; move {old[0].name} or {index.name} away."
        raise UsageError(
            str(prefix), "a checkpoint of one version", f"V1 ({old[0].name}) and V2 ({index.name})", remedy
        )
    if index not in files and not old:
        raise DamagedError(str(prefix), f"an index, {index.name}", "data alone", "restore it from a backup.")
    tables = old or [index]
    for table in tables:
        if not is_table(table):
            found = f"{table.stat().st_size} bytes that do not end as such a file does"
            raise DamagedError(str(table), "a complete checkpoint file", found, "restore it from a backup.")
    _require_shards(prefix)
    for table in old:
        _require_v1(table)
    objects = index in files and _OBJECT_GRAPH in checkpoint_table.keys(index)
    form = Form.OBJECT_CHECKPOINT if objects else Form.SAVER_V2 if index in files else Form.SAVER_V1
    meta = checkpoint_files.meta_file(prefix)
    has_meta = meta.is_file()
    if has_meta:
        require_readable(meta)
    return Found(
        form=form,
        path=prefix,
        files=(*files, *([meta] if has_meta else []), *_beside(prefix.parent)),
        meta=meta if has_meta else None,
        chosen=why,
        available=available,
        notes=notes,
    )


def _require_v1(table: Path) -> None:
    if checkpoint_table.is_index(table):
        stem = re.split(r"\.index", table.name, flags=re.IGNORECASE)[0]
        remedy = f"rename it to {stem}.index, and its data files to {stem}.data-…, as they were written."
        raise UsageError(str(table), "the files of a checkpoint under their own names", "an index", remedy)
    checkpoint_table.require_v1(table)


def _head(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(_HEAD)


def _require_shards(prefix: Path) -> None:
    """Raise DamagedError where a shard is missing: an index lists fine without it."""
    names = {path.name for path in checkpoint_files.files(prefix)} if prefix.parent.is_dir() else set()
    if f"{prefix.name}.index" in names and not any(".data-" in name for name in names):
        remedy = "restore the shards from a backup."
        raise DamagedError(str(prefix), f"data files of {prefix.name}.index", "none", remedy)
    for name in sorted(names):
        shard = _SHARD.fullmatch(name)
        if not shard:
            continue
        dot = shard[2] or ""
        wanted = [f"{shard[1]}{dot}-{number:05d}-of-{shard[4]}" for number in range(min(int(shard[4]), 10_000))]
        missing = [one for one in wanted if one not in names]
        if missing:
            found = f"{missing[0]} is missing" + (f", and {len(missing) - 1} more" if len(missing) > 1 else "")
            raise DamagedError(str(prefix), f"{shard[4].lstrip('0')} shards", found, "restore it from a backup.")


def _no_model(path: Path) -> DamagedError:
    size = path.stat().st_size
    found = "an empty file" if size == 0 else f"{size} bytes of another kind, or a truncated file"
    expected = "a graph, a checkpoint, a SavedModel or a Keras model"
    return DamagedError(str(path), expected, found, "give a complete file that TensorFlow wrote.")


def _require_plain(file: Path) -> None:
    """Raise UsageError for a pipe, a socket or a device: who opens it may wait for ever."""
    if file.exists() and not file.is_file() and not file.is_dir():
        raise UsageError(str(file), "a file", "a pipe, a socket or a device", "give the model's own files.")


def _require_inside(file: Path, folder: Path) -> None:
    if file.is_symlink() and not file.resolve().is_relative_to(folder.resolve()):
        remedy = "copy the model with its links followed: cp -rL."
        raise UnsafeGraph(str(file), "files of the model's own folder", f"a link to {file.resolve()}", remedy)
