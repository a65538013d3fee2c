"""The fork server: imports TensorFlow, then forks a child for every call.

The server does nothing but import. No graph, session, eager tensor or channel is made before a fork, and BLAS has one
thread, so a child starts with nothing but loaded code. The server ends when its client does, even in the middle of
the import, and its children and their subprocesses end with it.

Every child has a temporary folder of its own, removed when the child has ended, however it did: TensorFlow's autograph
leaves a file there for each function it converts, and a child that ends by `os._exit` removes none of them.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import os
import select
import selectors
import shutil
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

PRELOADED = (
    "tensorflow",
    "grpc",
    "httpx",
    "tensorflow_serving.apis.prediction_log_pb2",
    "tensorflow_serving.apis.prediction_service_pb2_grpc",
    "tensorflow_serving.apis.model_service_pb2_grpc",
)
IMPORT = "import"
"""The first word of a message with modules to import, before the next call."""
_MESSAGE_BYTES = 1 << 16
UNUSED = ("sklearn", "matplotlib")
"""What Keras imports where it is installed, for wrappers and pictures that no model needs: a third of TensorFlow's import."""


def main(control_fd: int, life_fd: int, scratch: str, modules: Sequence[str]) -> NoReturn:
    """Import TensorFlow and `modules`, then serve calls that arrive on `control_fd`.

    `life_fd` is a pipe whose other end only the client holds; `scratch` is the folder to make for the children's
    temporary folders, each named by its child's pid.
    """
    die_with(life_fd)
    sys.modules |= dict.fromkeys(UNUSED)  # type: ignore[arg-type]  # an import of one fails
    for module in (*PRELOADED, *modules):
        __import__(module)
    for module in UNUSED:
        del sys.modules[module]
    gc.freeze()  # a child's collector would write to, and so copy, every page that holds a loaded object
    control = socket.socket(fileno=control_fd)
    wake_read, wake_write = os.pipe()
    for fd in (wake_read, wake_write):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda signum, frame: None)
    selector = selectors.DefaultSelector()
    for source in (control, wake_read, life_fd):
        selector.register(source, selectors.EVENT_READ)
    # From here on the loop notices the client's end, and ends the children's subprocesses too.
    fcntl.fcntl(life_fd, fcntl.F_SETFL, fcntl.fcntl(life_fd, fcntl.F_GETFL) & ~os.O_ASYNC)
    Path(scratch).mkdir(0o700)
    calls: dict[int, socket.socket] = {}
    while True:
        for key, _ in selector.select():
            if key.fileobj == life_fd:
                leave(calls, scratch)
            elif key.fileobj == wake_read:
                os.read(wake_read, 4096)
                for reply, frame in reap(calls, scratch):
                    # Written when the caller reads: a caller that does not must not delay the others.
                    selector.register(reply, selectors.EVENT_WRITE, frame)
            elif isinstance(key.data, bytes):
                assert isinstance(key.fileobj, socket.socket)
                selector.unregister(key.fileobj)
                with contextlib.suppress(OSError), key.fileobj as reply:  # the caller may have given up on it
                    reply.sendall(key.data)
            else:
                message, fds, _, _ = socket.recv_fds(control, _MESSAGE_BYTES, 2)
                if not message:
                    leave(calls, scratch)
                word, *named = message.decode().split(" ")
                if word == IMPORT:
                    for module in named:
                        with contextlib.suppress(ImportError):  # a child that needs it will say so
                            importlib.import_module(module)
                    gc.freeze()
                    continue
                reply, log_fd = socket.socket(fileno=fds[0]), fds[1]
                server = os.getpid()
                if (pid := os.fork()) == 0:
                    selector.close()
                    for other in (control, *calls.values()):
                        other.close()
                    for fd in (life_fd, wake_read, wake_write):
                        os.close(fd)
                    run_child(reply, log_fd, server, f"{scratch}/{os.getpid()}")
                os.close(log_fd)
                calls[pid] = reply


def die_with(life_fd: int) -> None:
    """Have the kernel end this process by SIGIO, whose default action is to terminate, when the pipe's other end closes."""
    fcntl.fcntl(life_fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(life_fd, fcntl.F_SETFL, fcntl.fcntl(life_fd, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(life_fd, select.POLLHUP)
    if poll.poll(0):  # it closed before the signal was set up
        sys.exit(0)


def reap(calls: dict[int, socket.socket], scratch: str) -> list[tuple[socket.socket, bytes]]:
    """Reap each ended child with its subprocesses and temporary folder; return the last frame for each caller."""
    endings = []
    while calls and (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)):
        pid = ended.si_pid
        end_group(pid)  # before waitpid frees the number
        # What a child transferred counts as its parent's once it is waited for (proc_pid_io(5)). Its own file of the same name
        # is closed by then to all but root.
        before = transferred("/proc/self")
        _, status, usage = os.wait4(pid, 0)
        read, written = (now - then for now, then in zip(transferred("/proc/self"), before, strict=True))
        if pid in calls:
            shutil.rmtree(f"{scratch}/{pid}", ignore_errors=True)
            ending = {
                "exit": os.waitstatus_to_exitcode(status),
                "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 3),
                "peak": usage.ru_maxrss * 1024,
                "read": read,
                "written": written,
            }
            # A newline first: the child may have been killed in the middle of a frame.
            frame = b"\n" + json.dumps(ending).encode() + b"\n"
            endings.append((calls.pop(pid), frame))
    return endings


def transferred(process: str) -> tuple[int, int]:
    """Return the bytes that a process, by its folder in /proc, has read and written; zeros where that cannot be read.

    Those of its children count when it has waited for them (proc_pid_io(5)).
    """
    try:
        facts = dict(line.split(": ") for line in Path(process, "io").read_text().splitlines())
    except OSError:
        return 0, 0
    return int(facts["rchar"]), int(facts["wchar"])


def end_group(pid: int) -> None:
    """Kill a child's process group, if any process is left in it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def leave(calls: dict[int, socket.socket], scratch: str) -> NoReturn:
    """End every child, then this process, without the interpreter's shutdown, in which TensorFlow's threads can hang."""
    for pid in calls:
        end_group(pid)
        os.kill(pid, signal.SIGKILL)  # it may not have a group of its own yet
    for pid in calls:
        os.waitpid(pid, 0)  # it may still be writing
    shutil.rmtree(scratch, ignore_errors=True)
    os._exit(0)


def run_child(reply: socket.socket, log_fd: int, server: int, scratch: str) -> NoReturn:
    """Run the call in the child, and leave as the server does."""
    try:
        from tasks.isolate import child

        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        child.run(reply, log_fd, server, scratch)
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(0)
