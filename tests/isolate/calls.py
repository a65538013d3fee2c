"""Functions that the tests run in a child, and a look at processes."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn

from tasks.errors import CoverageError, PipelineError
from tasks.isolate import hide, progress
from tasks.records.base import Record


class Colour(StrEnum):
    RED = "red"


class Reading(Record):
    """A record with everything that is hard to carry."""

    name: str
    value: float
    grid: tuple[tuple[float, ...], ...]
    facts: dict[str, Any]
    path: Path
    colour: Colour
    inner: Reading | None = None


def a_reading(reading: Reading) -> Reading:
    return reading


def readings(reading: Reading) -> list[Reading]:
    return [reading, reading]


def perhaps(reading: Reading | None) -> Reading | None:
    return reading


def by_number(value: float) -> dict[int, float]:
    return {1: value}


def pair(value: float) -> tuple[float, str]:
    return value, "\N{SNOWMAN}\n\x00"


def anything(value: Any) -> Any:
    return value


def unannotated(value):  # type: ignore[no-untyped-def]  # that is the case
    return value


def nothing() -> None:
    return None


def a_path(path: Path) -> Path:
    return path


def text_for_a_number() -> int:
    return "text"  # type: ignore[return-value]  # that is the case


def no_json() -> Any:
    return object()


class Method:
    @staticmethod
    def nested() -> str:
        return "nested"


def refuse(missing: list[str], log: str) -> None:
    raise CoverageError("where", "expected", "found", "remedy", missing=missing, log=log)


def refuse_with_another_type() -> None:
    raise PipelineError("where", "expected", "found", "remedy", log=object())


def fail_loudly() -> None:
    print("printed by Python")
    os.write(1, b"written to descriptor 1\n")
    print("printed as an error", file=sys.stderr)
    raise RuntimeError("what went wrong")


def full_disk() -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "/a/file")


def full_disk_as_tensorflow_says_it() -> None:
    raise RuntimeError("/a/file.data-00000-of-00001; No space left on device")


def no_memory() -> None:
    raise MemoryError


def abort() -> None:
    print("about to abort", flush=True)
    os.abort()


def segfault() -> None:
    ctypes.string_at(0)


def leave(code: int) -> None:
    os._exit(code)


def exit_politely() -> None:
    sys.exit(3)


def hang(tell: Path | None = None) -> NoReturn:
    """Write down the pids of the server and of this process, and never end."""
    if tell is not None:
        write(tell, f"{os.getppid()} {os.getpid()}")
    while True:
        time.sleep(60)


def write(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.rename(path)


def hang_with_children(tell: Path) -> NoReturn:
    """Like `hang`, with a subprocess and a fork of its own, whose pids are written down too."""
    started = subprocess.Popen(["sleep", "600"])
    forked = os.fork()
    if forked == 0:
        while True:
            time.sleep(60)
    write(tell, f"{os.getppid()} {os.getpid()} {started.pid} {forked}")
    while True:
        time.sleep(60)


def leave_a_process_behind(how: str) -> int:
    pid = subprocess.Popen(["sleep", "600"]).pid
    if how == "abort":
        progress({"pid": pid})
        os.abort()
    return pid


def running(pid: int) -> bool:
    """Tell whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def leave_a_temporary_file(how: str) -> None:
    """Leave files where Python's `tempfile` and native code put theirs, tell their places, and end."""
    _, by_python = tempfile.mkstemp()
    by_environment = Path(os.environ["TMPDIR"], "folder", "file")
    by_environment.parent.mkdir()
    by_environment.touch()
    progress({"files": [by_python, str(by_environment)]})
    if how == "leave":
        os._exit(0)
    if how == "abort":
        os.abort()
    if how == "hang":
        hang()


def pids() -> tuple[int, int]:
    return os.getppid(), os.getpid()


def grow(mebibytes: int) -> None:
    held = []
    for _ in range(mebibytes // 16):
        held.append(bytearray(os.urandom(1) * (16 << 20)))
        progress({"held": len(held) * 16})
        time.sleep(0.02)
    time.sleep(60)


def count(to: int) -> int:
    for number in range(to):
        progress({"number": number})
    return to


def count_in_threads(threads: int, to: int) -> None:
    def work(thread: int) -> None:
        for number in range(to):
            progress({"thread": thread, "number": number, "padding": "x" * 300_000})  # more than one piece

    workers = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def count_then_ignore_sigterm(to: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    count(to)
    time.sleep(60)


def end_in_order(tell: Path) -> None:
    def tidy(*_: object) -> None:
        write(tell, "tidied")
        os._exit(0)

    signal.signal(signal.SIGTERM, tidy)
    progress({"ready": True})
    time.sleep(60)


def double(number: int, seconds: float = 0.2) -> int:
    time.sleep(seconds)
    return 2 * number


def meet(folder: Path, number: int, count: int) -> int:
    """Return once `count` calls have come here."""
    (folder / str(number)).touch()
    while len(list(folder.iterdir())) < count:
        time.sleep(0.02)
    return number


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def letters(count: int) -> str:
    return "x" * count


def touch(path: Path) -> None:
    path.touch()


def folder() -> Path:
    return Path.cwd()


def absolute(path: Path) -> Path:
    return path.absolute()


def variable(name: str) -> str | None:
    return os.environ.get(name)


def which_tasks() -> tuple[Path, list[str]]:
    import tasks

    assert tasks.__file__
    return Path(tasks.__file__), sys.path


def multiply(value: float) -> float:
    """A session, an eager tensor and NaN, all in TensorFlow."""
    import tensorflow as tf

    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        graph = float(session.run(tf.constant(value) * 2.0))
    return graph + float(tf.constant(value) * 0.0)


def operations() -> int:
    """How many operations the default graph has: those that this call adds, and no earlier ones."""
    import tensorflow as tf

    graph = tf.compat.v1.get_default_graph()
    with graph.as_default():
        tf.constant(1.0)
    return len(graph.get_operations())


def modules() -> list[str]:
    return sorted(sys.modules)


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def hidden(path: Path) -> tuple[bool, bool, bool]:
    """Tell whether `path` could be hidden, was readable before, and is after."""
    before = (path / "file").exists()
    could = hide.hide([path])
    return could, before, (path / "file").exists()


def nested_call() -> int:
    """A child is a caller like any other."""
    from tasks.isolate import shutdown
    from tasks.isolate.client import call_with
    from tasks.isolate.launch import Settings

    try:
        settings = Settings((("PYTHONPATH", os.environ["PYTHONPATH"]),), modules=())
        return call_with(double, (21,), settings=settings)
    finally:
        shutdown()
