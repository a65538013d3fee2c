"""Leftovers of a store: unfinished builds of killed runs and artifacts set aside. Removed only on request.

Committed artifacts, and builds whose key a live process holds, are never leftovers. An artifact whose deletion was
interrupted is one, however old it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from tasks.artifacts.removal import Freed, below
from tasks.artifacts.staging import remove_tree
from tasks.artifacts.store import DELETED, InUseError, Store, give_up
from tasks.records.base import Record

Kind = Literal["unfinished", "set aside", "deleted", "scratch"]


class Leftover(Record):
    """A folder or file that no run needs.

    `kind` is `unfinished` for an interrupted build, `set aside` for a damaged or replaced artifact, `deleted` for one that is
    half deleted, `scratch` for a temporary file of the store. `size` is the number of bytes that removing it frees, `age` is
    in seconds.
    """

    kind: Kind
    path: Path
    size: int
    age: float


def leftovers(root: Path, older_than: float, now: float) -> Iterator[Leftover]:
    """Yield the leftovers of the store at `root` that were last modified more than `older_than` seconds before `now`.

    `now` is in seconds since the epoch. Files that disappear during the search are skipped.
    """
    for kind, path, touched in _candidates(root):
        age = now - touched
        if age > older_than or kind == "deleted":
            yield Leftover(kind=kind, path=path, size=Freed().by(path), age=age)


def _candidates(root: Path) -> Iterator[tuple[Kind, Path, float]]:
    for path in sorted((root / ".staging").glob("*/*")):
        yield "unfinished", path, _touched(path)
    for path in sorted((root / ".aside").glob("*")):
        # A rename changes no modification time below the folder; its name holds the time.
        named = re.search(rf"-(\d{{18,20}})({re.escape(DELETED)})?$", path.name)
        kind: Kind = "deleted" if named and named[2] else "set aside"
        yield kind, path, int(named[1]) / 1e9 if named else _touched(path)
    for path in sorted([*(root / ".verified").glob("*.*-*"), *(root / ".locks").glob(".writable-*")]):
        if path.suffix != ".json":
            yield "scratch", path, _touched(path)


def remove(store: Store, leftover: Leftover) -> bool:
    """Remove a leftover unless a live process holds its key. Return True if it was removed."""
    step, key = leftover.path.parent.name, leftover.path.name
    if leftover.kind != "unfinished" or not (store.root / ".locks" / f"{step}-{key}").exists():
        remove_tree(leftover.path)
        return True
    try:
        with store.lock(step, key, give_up):
            remove_tree(leftover.path)
    except InUseError:
        return False
    return True


def _touched(path: Path) -> float:
    return max((found.st_mtime for found in below(path)), default=float("inf"))
