"""Known hashes: the sha256 of each file with the `stat` fields that it had just before it was read.

A file whose fields are unchanged is not read again. Files with several names, as hard links are, share what is known of
them. The side files are local and disposable.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_CHUNK = 1 << 20
_FICLONE = 0x40049409  # linux/fs.h: share the blocks of another file, each written to alone (btrfs, xfs)
READ_ONLY = 0o444
SETTLED = 2 * 10**9
"""Nanoseconds after which a change of a file shows in its times, whatever their granularity."""

Fields = tuple[int, ...]


def fields_of(path: Path) -> Fields:
    """Return the fields that are compared: size, mtime and ctime in nanoseconds, inode, device."""
    status = path.stat(follow_symlinks=False)
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)


def hash_file(path: Path) -> str:
    """Return the sha256 of a file in hex, reading it in chunks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True)
class Hashes:
    """The hashes that are known in a store; `folder` holds a side file for each inode. Without one, none is known."""

    folder: Path | None = None

    def of(self, path: Path) -> str:
        """Return the sha256 of a file of the store, read unless it is known."""
        return self.known(path) or self.read(path)

    def of_source(self, path: Path) -> str:
        """Return the sha256 of a file that others may write, read unless it is known and has been as it is for a while."""
        path = path.resolve()
        if known := self.known(path):
            return known
        fields, now = fields_of(path), time.time_ns()
        found = hash_file(path)
        if now - max(fields[1:3]) > SETTLED:
            self._keep(fields, found)
        return found

    def read(self, path: Path) -> str:
        """Read a file of the store, and keep its sha256."""
        fields = fields_of(path)  # before reading: a change meanwhile shows
        found = hash_file(path)
        self._keep(fields, found)
        return found

    def known(self, path: Path) -> str | None:
        """Return the sha256 of a file without reading it, None where it is not known."""
        return self._recall(fields_of(path))

    def keep(self, path: Path, sha256: str) -> None:
        """Keep the hash of a file that was written just now, and hashed while it was."""
        self._keep(fields_of(path), sha256)

    def sealed(self, path: Path) -> str:
        """Make a file read-only, sync it, and return its sha256."""
        before = fields_of(path)
        found = self._recall(before)
        if stat.S_IMODE(path.lstat().st_mode) != READ_ONLY:
            path.chmod(READ_ONLY)
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        after = fields_of(path)
        if found is None or not _same_but_ctime(before, after):
            return self.read(path)
        if after != before:
            self._keep(after, found)
        return found

    def bring(self, source: Path, target: Path) -> str | None:
        """Make `target` a file with the contents of `source`: a clone, or else a link to a read-only file, or else a copy.

        Returns the sha256 of a copy, which was read; None of a clone or a link, which were not. Its hash is known
        afterwards where it is a copy, or where that of `source` was known.

        Raises:
            OSError: it cannot be read or written.
        """
        source = source.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # of an interrupted build
        before = fields_of(source)
        if _cloned(source, target) or self._linked(source, before, target):
            known = self._recall(before)
            if known is not None and _same_but_ctime(before, fields_of(source)):
                self.keep(target, known)
            return None
        sha = hashlib.sha256()
        with source.open("rb") as reader, target.open("wb") as writer:
            while chunk := reader.read(_CHUNK):
                sha.update(chunk)
                writer.write(chunk)
        found = sha.hexdigest()
        self.keep(target, found)
        return found

    @contextlib.contextmanager
    def brought(self, files: Iterable[tuple[Path, Path]]) -> Iterator[None]:
        """Bring (source, target) pairs for the time of the block, and remove the targets."""
        pairs = list(files)
        for source, target in pairs:
            self.bring(source, target)
        during = [fields_of(source) for source, _ in pairs]
        try:
            yield
        finally:
            for (source, target), fields in zip(pairs, during, strict=True):
                self._remove(source, target, fields)

    def _remove(self, source: Path, target: Path, during: Fields) -> None:
        """Remove a target. A link's end moves the ctime of its file, whose hash stays known if nothing else did."""
        with contextlib.suppress(OSError):
            before = fields_of(source)
            known = self._recall(before) if before == during else None
            target.unlink(missing_ok=True)
            if known is not None and _same_but_ctime(before, after := fields_of(source)) and after != before:
                self._keep(after, known)

    def _linked(self, source: Path, before: Fields, target: Path) -> bool:
        """Link a file that nobody writes and everybody reads, as a server of another user must; that moves its ctime."""
        if stat.S_IMODE(source.stat().st_mode) != READ_ONLY:
            return False
        try:
            os.link(source, target)
        except OSError:  # another file system, one without links, or a file of somebody else
            return False
        return True

    def _recall(self, fields: Fields) -> str | None:
        if self.folder is None:
            return None
        try:
            known = json.loads((self.folder / _name(fields)).read_bytes())
            return str(known["sha256"]) if tuple(known["fields"]) == fields else None
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def _keep(self, fields: Fields, sha256: str) -> None:
        if self.folder is None:
            return
        side_file = self.folder / _name(fields)
        scratch = side_file.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        with contextlib.suppress(OSError):  # without a side file the next check reads again; nothing else is lost
            scratch.write_text(json.dumps({"fields": fields, "sha256": sha256}))
            scratch.replace(side_file)


def _name(fields: Fields) -> str:
    return f"{fields[4]:x}-{fields[3]}.json"


def _same_but_ctime(one: Fields, other: Fields) -> bool:
    return (*one[:2], *one[3:]) == (*other[:2], *other[3:])


def _cloned(source: Path, target: Path) -> bool:
    """Make `target` a clone of `source`; False where the file system makes none."""
    with source.open("rb") as reader, target.open("xb") as writer:
        try:
            fcntl.ioctl(writer.fileno(), _FICLONE, reader.fileno())
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                raise
        else:
            return True
    target.unlink()
    return False


NONE = Hashes()
