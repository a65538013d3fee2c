"""Removal of trees: what it frees, where files have several names, and whether this user may do it."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tasks.errors import EnvironmentFailure


class Freed:
    """The bytes that removing trees frees, one tree after the other.

    The bytes of a file go with the last of its names. They are the sizes of files; clones share blocks unseen.
    """

    def __init__(self) -> None:
        self._gone: Counter[tuple[int, int]] = Counter()

    def by(self, path: Path) -> int:
        """Return the bytes that removing `path` frees, where all that was asked for before has been removed."""
        names: Counter[tuple[int, int]] = Counter()
        files: dict[tuple[int, int], os.stat_result] = {}
        for found in below(path):
            if not stat.S_ISDIR(found.st_mode):
                identity = found.st_dev, found.st_ino
                names[identity] += 1
                files[identity] = found
        self._gone += names
        return sum(found.st_size for one, found in files.items() if self._gone[one] >= found.st_nlink)


def below(path: Path) -> Iterator[os.stat_result]:
    """Yield the `lstat` of a path and of everything below it, not of what a link leads to. What disappears is left out."""
    paths = [path]
    for folder, folders, names in os.walk(path) if not path.is_symlink() else ():
        paths += [Path(folder, name) for name in (*folders, *names)]
    for one in paths:
        try:
            yield one.lstat()
        except FileNotFoundError:
            continue


def require_removable(folder: Path) -> None:
    """Check that this user may remove a folder with all below it, before anything of it is removed.

    Raises:
        EnvironmentFailure: a folder is not this user's, and not writable.
    """
    for one, _, _ in os.walk(folder) if not folder.is_symlink() else ():
        if not (os.access(one, os.W_OK | os.X_OK) or Path(one).lstat().st_uid == os.geteuid()):
            raise EnvironmentFailure.from_os(PermissionError(errno.EACCES, os.strerror(errno.EACCES), one), one)
