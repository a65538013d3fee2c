"""Staging folders: reopened for a builder that resumes, removed with whatever it left in them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path


def own_folders(directory: Path) -> None:
    """Make every folder at and below `directory` readable and writable for its owner.

    A copied folder keeps a read-only mode.
    """
    _allow(directory, 0o700)
    for folder, folders, _ in os.walk(directory):
        for name in folders:
            _allow(Path(folder, name), 0o700)


def reopen(directory: Path, without: Iterable[str]) -> None:
    """Make an interrupted build writable again, and delete the files named `without` that an interrupted commit added.

    A file with several hard links stays read-only: it also belongs to an artifact.
    """
    own_folders(directory)
    for folder, _, names in os.walk(directory):
        for path in (Path(folder, name) for name in names):
            if path.lstat().st_nlink == 1:
                _allow(path, 0o200)
    for name in without:
        (directory / name).unlink(missing_ok=True)


def remove_tree(directory: Path) -> None:
    """Delete a folder with its read-only files and folders, or a link or file in its place. Does nothing if there is none."""
    if directory.is_symlink() or directory.is_file():
        directory.unlink()
    elif directory.exists():
        own_folders(directory)
        shutil.rmtree(directory)


def _allow(path: Path, bits: int) -> None:
    if path.is_symlink() or not path.exists():
        return
    mode = path.stat().st_mode
    if mode & bits != bits:
        path.chmod(mode | bits)
