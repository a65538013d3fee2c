"""Leftovers of a store: unfinished builds of killed runs and artifacts set aside. Removed only on request.

Committed artifacts, and builds whose key a live process holds, are never leftovers.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from tasks.artifacts.staging import remove_tree
from tasks.artifacts.store import Store
from tasks.records.base import Record


class Leftover(Record):
    """A folder or file that no run needs.

    `kind` is `unfinished` for an interrupted build, `set aside` for a damaged or replaced artifact, `scratch` for a
    temporary file of the store. `size` is the number of bytes that removing it frees, `age` is in seconds.
    """

    kind: Literal["unfinished", "set aside", "scratch"]
    path: Path
    size: int
    age: float


def leftovers(root: Path, older_than: float, now: float) -> Iterator[Leftover]:
    """Yield the leftovers of the store at `root` that were last modified more than `older_than` seconds before `now`.

    `now` is in seconds since the epoch. Files that disappear during the search are skipped.
    """
    for kind, path, touched in _candidates(root):
        age = now - touched
        if age > older_than:
            yield Leftover(kind=kind, path=path, size=_size(path), age=age)


def _candidates(root: Path) -> Iterator[tuple[Literal["unfinished", "set aside", "scratch"], Path, float]]:
    for path in sorted((root / ".staging").glob("*/*")):
        yield "unfinished", path, _touched(path)
    for path in sorted((root / ".aside").glob("*")):
        # A rename changes no modification time below the folder; its name holds the time.
        named = re.search(r"-(\d{18,20})$", path.name)
        yield "set aside", path, int(named[1]) / 1e9 if named else _touched(path)
    for path in sorted([*(root / ".verified").glob("*.*-*"), *(root / ".locks").glob(".writable-*")]):
        if path.suffix != ".json":
            yield "scratch", path, _touched(path)


def remove(store: Store, leftover: Leftover) -> bool:
    """Remove a leftover unless a live process holds its key. Return True if it was removed."""
    step, key = leftover.path.parent.name, leftover.path.name
    if leftover.kind != "unfinished" or not (store.root / ".locks" / f"{step}-{key}").exists():
        _remove(leftover.path)
        return True

    def held() -> None:
        raise _InUseError

    try:
        with store.lock(step, key, waiting=held):
            _remove(leftover.path)
    except _InUseError:
        return False
    return True


class _InUseError(Exception):
    """The key is held by a live process."""


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        remove_tree(path)
    else:
        path.unlink(missing_ok=True)


def _below(path: Path) -> Iterator[os.stat_result]:
    """Yield the `lstat` of a path and of everything below it."""
    paths = [path]
    for folder, folders, names in os.walk(path):
        paths += [Path(folder, name) for name in (*folders, *names)]
    for one in paths:
        try:
            yield one.lstat()
        except FileNotFoundError:
            continue


def _touched(path: Path) -> float:
    return max((found.st_mtime for found in _below(path)), default=float("inf"))


def _size(path: Path) -> int:
    """Return the bytes that removal frees: a file with other hard links is not freed."""
    return sum(found.st_size for found in _below(path) if found.st_nlink == 1)
