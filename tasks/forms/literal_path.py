"""Paths that TensorFlow takes as they stand. Runs in a child, whose temporary folder goes with it.

TensorFlow's readers of checkpoints look for files by a pattern (`GetMatchingPaths` in
tensorflow/core/util/tensor_slice_reader.cc, checkpoint_reader.cc and kernels/restore_op.cc), and its Python takes paths
as UTF-8 alone.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

_PATTERN = re.compile(r"[][*?\\]")


def is_literal(path: Path) -> bool:
    """Return True if TensorFlow takes the path as it stands."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return not _PATTERN.search(str(path))


def literal(path: Path) -> Path:
    """Return the path, or where TensorFlow would not take it, that of a link to the same file or folder."""
    if is_literal(path.absolute()):
        return path
    link = Path(tempfile.mkdtemp(), "model")
    link.symlink_to(path.absolute())
    return link


def literal_prefix(prefix: Path, files: Iterable[Path]) -> Path:
    """Return a checkpoint's prefix, or where TensorFlow would not take it, one of links to `files`, which it names."""
    if is_literal(prefix.absolute()):
        return prefix
    folder = Path(tempfile.mkdtemp())
    for file in files:
        (folder / f"model.ckpt{file.name.removeprefix(prefix.name)}").symlink_to(file.absolute())
    return folder / "model.ckpt"
