"""Processes that end, or disks that fail, at one chosen disk operation.

An operation is anything that changes what is on disk: opening for writing, each half of a write, fsync, rename,
mkdir, chmod, unlink, rmdir. The process can be killed before and after each. Reading changes nothing, so a kill
around it is the kill around its neighbour.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tasks.artifacts import manifest as manifests
from tasks.artifacts.manifest import Manifest
from tasks.errors import PipelineError

Work = Callable[[], Any]

_AUDITED = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.truncate", "os.link", "os.symlink"}
_WRAPPED = ("rename", "replace", "mkdir", "remove", "unlink", "rmdir", "chmod", "truncate", "link", "symlink")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def fork(work: Work) -> int:
    """Do `work` in a forked process; its exit code is 0, or the error's."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except PipelineError as error:
            code = int(error.exit_code)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return pid


def exit_of(pid: int) -> int:
    """How it ended: exit code, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed_at(moment: int, work: Work) -> bool:
    """Do `work` in a process that is killed at that moment; False if it ended before."""

    def doomed() -> None:
        _instrument(moment, lambda: os.kill(os.getpid(), signal.SIGKILL))
        work()

    code = exit_of(fork(doomed))
    assert code in (0, -signal.SIGKILL), f"exit {code} at moment {moment}"
    return code != 0


def failed_at(moment: int, work: Work) -> int | None:
    """Do `work` in a process whose disk refuses that one operation; its exit code, or None if it ended before."""
    reading, writing = os.pipe()

    def unlucky() -> None:
        def refuse() -> None:
            os.write(writing, b"!")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        _instrument(moment, refuse, after=False)
        work()

    code = exit_of(fork(unlucky))
    os.close(writing)
    reached = os.read(reading, 1)
    os.close(reading)
    return code if reached else None


def _instrument(moment: int, act: Work, *, after: bool = True) -> None:
    """Have `act` called at the moment-th chance, counted from 0, in this process for good.

    There is a chance before every operation, and one `after` it.
    """
    passed = -1

    def tick(before: bool) -> None:
        nonlocal passed
        passed += before or after
        if passed == moment and (before or after):
            act()

    def audit(event: str, args: tuple[Any, ...]) -> None:
        if event in _AUDITED or (event == "open" and isinstance(args[2], int) and args[2] & _WRITING):
            tick(True)

    def ticking(function: Any, before: bool = False) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if before:
                tick(True)
            value = function(*args, **kwargs)
            tick(False)
            return value

        return call

    def opening(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        stream: Any = plain_open(path, mode, *args, **kwargs)
        if "r" not in mode or "+" in mode:
            tick(False)
            write = stream.write

            def torn(content: Any) -> int:
                for half in (content[: len(content) // 2], content[len(content) // 2 :]):
                    tick(True)
                    write(half)
                    stream.flush()
                tick(False)
                return len(content)

            stream.write = torn
        return stream

    plain_open = io.open
    for name in _WRAPPED:
        setattr(os, name, ticking(getattr(os, name)))
    for module, name, instrumented in ((os, "fsync", ticking(os.fsync, before=True)), (io, "open", opening)):
        setattr(module, name, instrumented)
    sys.addaudithook(audit)


def writing(files: dict[str, bytes]) -> Callable[[Path], None]:
    """A builder that leaves these files."""

    def builder(out: Path) -> None:
        for name, content in files.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_bytes(content)

    return builder


def tree(directory: Path) -> dict[str, bytes | str]:
    """Everything below a folder: contents of files, targets of links."""
    found: dict[str, bytes | str] = {}
    for path in directory.rglob("*"):
        name = path.relative_to(directory).as_posix()
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


def whole(directory: Path) -> bool:
    """Tell whether every byte of a committed directory is as its manifest says, wherever the directory lies."""
    return Manifest.read(directory).files == manifests.entries(directory)


@contextlib.contextmanager
def writable(path: Path) -> Iterator[Path]:
    """Let the owner write to a committed file inside the block; its mode is as it was afterwards, if it is still there."""
    mode = path.stat().st_mode
    path.chmod(mode | 0o200)
    try:
        yield path
    finally:
        if path.exists():
            path.chmod(mode)


def separate(path: Path) -> Path:
    """Give a published file contents of its own: it may be a hard link of the store's, which others still read."""
    mode, content = path.stat().st_mode, path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    path.chmod(mode)
    return path
