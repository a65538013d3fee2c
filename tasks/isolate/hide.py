"""Hide folders from a child, to prove that it does not need the source model."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

# linux/sched.h, linux/mount.h
_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_MS_REC, _MS_PRIVATE, _MS_RDONLY = 0x4000, 0x40000, 0x1


def hide(folders: Iterable[Path]) -> bool:
    """Mount an empty file system over `folders` for this process alone; False if the system does not allow it.

    Call it in a child that has a single thread. Without privilege it creates a user namespace.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    flags = _CLONE_NEWNS if os.geteuid() == 0 else _CLONE_NEWNS | _CLONE_NEWUSER
    if libc.unshare(flags) != 0 or libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None) != 0:
        return False
    return all(libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", _MS_RDONLY, b"size=4k") == 0 for folder in folders)
