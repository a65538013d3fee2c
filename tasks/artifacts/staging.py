"""Folders under construction: reopened for a builder that resumes, removed whatever it left in them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path


def own_folders(directory: Path) -> None:
    """Let the owner list and write every folder at and below `directory`: a copied folder keeps a read-only mode."""
    _allow(directory, 0o700)
    for folder, folders, _ in os.walk(directory):
        for name in folders:
            _allow(Path(folder, name), 0o700)


def reopen(directory: Path, without: Iterable[str]) -> None:
    """Give an interrupted build back to its builder: writable, `without` what an interrupted commit added.

    A file with several links stays as it is: it is some artifact's too.
    """
    own_folders(directory)
    for folder, _, names in os.walk(directory):
        for path in (Path(folder, name) for name in names):
            if path.lstat().st_nlink == 1:
                _allow(path, 0o200)
    for name in without:
        (directory / name).unlink(missing_ok=True)


def remove_tree(directory: Path) -> None:
    """Delete a folder of ours, read-only files and folders and all. Nothing happens when it is not there."""
    if directory.exists():
        own_folders(directory)
        shutil.rmtree(directory)


def _allow(path: Path, bits: int) -> None:
    if path.is_symlink() or not path.exists():
        return
    mode = path.stat().st_mode
    if mode & bits != bits:
        path.chmod(mode | bits)
