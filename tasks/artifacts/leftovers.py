"""What killed runs left in a store, and what was set aside there: found, aged, and removed on request only.

Committed artifacts are none of it, nor is anything whose key a live process holds.
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
    """One folder or file that no run needs. `size` is the bytes that its removal frees, `age` in seconds.

    `unfinished` was being built, `set aside` was damaged or replaced, `scratch` is a file of the store's own.
    """

    kind: Literal["unfinished", "set aside", "scratch"]
    path: Path
    size: int
    age: float


def leftovers(root: Path, older_than: float, now: float) -> Iterator[Leftover]:
    """Everything in the store at `root` that is left over and was last touched more than `older_than` seconds ago.

    `now` is in seconds since the epoch. What disappears meanwhile is passed over.
    """
    for kind, path, touched in _candidates(root):
        age = now - touched
        if age > older_than:
            yield Leftover(kind=kind, path=path, size=_size(path), age=age)


def _candidates(root: Path) -> Iterator[tuple[Literal["unfinished", "set aside", "scratch"], Path, float]]:
    for path in sorted((root / ".staging").glob("*/*")):
        yield "unfinished", path, _touched(path)
    for path in sorted((root / ".aside").glob("*")):
        # A rename leaves every time within as it was; the name says when it was.
        named = re.search(r"-(\d{18,20})$", path.name)
        yield "set aside", path, int(named[1]) / 1e9 if named else _touched(path)
    for path in sorted([*(root / ".verified").glob("*.*-*"), *(root / ".locks").glob(".writable-*")]):
        if path.suffix != ".json":
            yield "scratch", path, _touched(path)


def remove(store: Store, leftover: Leftover) -> bool:
    """Remove it, unless a live process holds its key; whether it was removed."""
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
    """Somebody builds there."""


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        remove_tree(path)
    else:
        path.unlink(missing_ok=True)


def _below(path: Path) -> Iterator[os.stat_result]:
    """The `lstat` of a path and of everything below it."""
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
    """A file that has other names is not freed with this one."""
    return sum(found.st_size for found in _below(path) if found.st_nlink == 1)
