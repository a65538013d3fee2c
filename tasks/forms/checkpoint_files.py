"""The files of a checkpoint by their names: those behind a prefix, the prefixes in a folder, the step in a name.

A prefix is a path stem, not a file: `…/model.ckpt-1200`. No TensorFlow; nothing is opened.
"""

from __future__ import annotations

import re
from pathlib import Path

META = ".meta"


def files(prefix: Path) -> list[Path]:
    """Return the files of the tensor bundle behind a prefix, without the `.meta`, for V1 and V2, sharded or not.

    (tensorflow/core/util/tensor_bundle/naming.h; V1: tensorflow/core/util/tensor_slice_writer.cc.)
    """
    pattern = re.compile(re.escape(prefix.name) + r"(\.index|\.data-\d{5}-of-\d{5}|-\d{5}-of-\d{5})?")
    folder = prefix.parent
    return sorted(path for path in folder.iterdir() if pattern.fullmatch(path.name)) if folder.is_dir() else []


def prefixes(folder: Path) -> list[Path]:
    """Return every checkpoint prefix in a folder, found by its files and not by the `checkpoint` file, lowest step first."""
    pattern = re.compile(r"(.+?)(\.index|-\d{5}-of-\d{5})?")
    found = set()
    for path in folder.iterdir():
        match = pattern.fullmatch(path.name)
        bundle = path.name.endswith(".index") or re.search(r"-\d+$", path.name)
        if match and bundle and not re.search(r"\.data-\d{5}-of-\d{5}$", path.name):
            found.add(folder / match[1])
    return sorted(found, key=lambda prefix: (step_of(prefix) or 0, prefix.name))


def spelled(prefix: Path) -> str:
    """Return the prefix as TensorFlow's readers take it: for a sharded V1 checkpoint, a pattern over its shards."""
    shards = [path.name for path in files(prefix) if re.search(r"-\d{5}-of-\d{5}$", path.name)]
    whole = prefix.exists() or prefix.with_name(f"{prefix.name}.index").exists()
    if whole or not shards or ".data-" in shards[0]:
        return str(prefix)
    return f"{prefix}-?????-of-{shards[0][-5:]}"


def state_file(prefix_name: str) -> str:
    """Return the content of a `checkpoint` file that names one prefix relatively, so that the folder can be moved.

    (tensorflow/python/training/checkpoint_state.proto, text format.)
    """
    return f'model_checkpoint_path: "{prefix_name}"\nall_model_checkpoint_paths: "{prefix_name}"\n'


def step_of(prefix: Path) -> int | None:
    """Return the global step in a prefix's name, `model.ckpt-1200` -> 1200."""
    match = re.search(r"-(\d+)$", prefix.name)
    return int(match[1]) if match else None


def meta_file(prefix: Path) -> Path:
    """Return the path of a checkpoint's `.meta` file."""
    return prefix.with_name(prefix.name + META)
