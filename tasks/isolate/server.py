"""The fork server: imports TensorFlow, then forks a child for every call.

Only importing happens here. No graph, session, eager tensor or channel is made before a fork, and BLAS has one
thread, so a child starts with nothing but loaded code. The server ends when its client does, even half-way through
the import, and its children end with it.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import selectors
import signal
import socket
import sys

PRELOADED = (
    "tensorflow",
    "grpc",
    "httpx",
    "tensorflow_serving.apis.prediction_log_pb2",
    "tensorflow_serving.apis.prediction_service_pb2_grpc",
    "tensorflow_serving.apis.model_service_pb2_grpc",
)


def main(control_fd: int, life_fd: int) -> None:
    """Serve calls that arrive on `control_fd`; `life_fd` is a pipe whose other end only the client holds."""
    die_with(life_fd)
    for module in PRELOADED:
        __import__(module)
    control = socket.socket(fileno=control_fd)
    wake_read, wake_write = os.pipe()
    for fd in (wake_read, wake_write):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda signum, frame: None)
    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ)
    selector.register(wake_read, selectors.EVENT_READ)
    calls: dict[int, socket.socket] = {}
    while True:
        ready = [key.fileobj for key, _ in selector.select()]
        if wake_read in ready:
            os.read(wake_read, 4096)
            reap(calls)
        if control in ready:
            message, fds, _, _ = socket.recv_fds(control, 16, 2)
            if not message:
                return
            reply, log_fd = socket.socket(fileno=fds[0]), fds[1]
            pid = os.fork()
            if pid == 0:
                for other in (control, *calls.values()):
                    other.close()
                for fd in (life_fd, wake_read, wake_write):
                    os.close(fd)
                run_child(reply, log_fd)
            os.close(log_fd)
            calls[pid] = reply


def die_with(life_fd: int) -> None:
    """Have the kernel end this process when the pipe's other end closes: SIGIO, whose default action is to end it."""
    fcntl.fcntl(life_fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(life_fd, fcntl.F_SETFL, fcntl.fcntl(life_fd, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(life_fd, select.POLLHUP)
    if poll.poll(0):  # it closed before the signal was asked for
        sys.exit(0)


def reap(calls: dict[int, socket.socket]) -> None:
    """Tell each ended child's caller how it ended, after everything the child itself said."""
    while calls:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        reply = calls.pop(pid)
        try:
            reply.sendall(json.dumps({"exit": os.waitstatus_to_exitcode(status)}).encode() + b"\n")
        except OSError:
            pass  # the caller gave up on this child and killed it
        reply.close()


def run_child(reply: socket.socket, log_fd: int) -> None:
    """In the child: run the call and leave without the interpreter's shutdown, which TensorFlow's threads can hang."""
    try:
        from tasks.isolate import child

        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        child.run(reply, log_fd)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
