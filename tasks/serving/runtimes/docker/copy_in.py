"""Copy files into a container that is created and not yet started, through the engine's archive API.

The root file system of such a container is read-only, and the API refuses to write there; so each target is an
anonymous volume, removed with the container. The copies belong to root and are readable by all users, writable by none.
"""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any


def place(target: str) -> Any:
    """Return a mount for files at `target`, for the container's creation."""
    from docker.types import Mount

    return Mount(target, None, type="volume", no_copy=True)


def bring_folder(container: Any, target: str, folder: Path) -> None:
    """Copy `folder` to `target`.

    Raises:
        OSError: the folder cannot be read.
    """
    with tempfile.TemporaryFile() as stream:
        with tarfile.open(mode="w", fileobj=stream) as archive:
            archive.add(folder, ".", filter=_readable)
        _put(container, target, stream)


def bring_texts(container: Any, target: str, texts: Mapping[str, str]) -> None:
    """Write each text to a file of its name in `target`."""
    stream = io.BytesIO()
    with tarfile.open(mode="w", fileobj=stream) as archive:
        for name, text in texts.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text.encode()), 0o444
            archive.addfile(entry, io.BytesIO(text.encode()))
    _put(container, target, stream)


def _put(container: Any, target: str, stream: IO[bytes]) -> None:
    stream.seek(0)
    container.put_archive(target, stream)


def _readable(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Give every user the owner's permissions without writing: the server may run as any."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    owner = entry.mode >> 6 & 0o5
    entry.mode = owner << 6 | owner << 3 | owner
    return entry
