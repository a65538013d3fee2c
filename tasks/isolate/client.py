"""The caller's side of the fork server."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import select
import signal
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from tasks.errors import ChildFailed, PipelineError
from tasks.isolate.launch import Server, Settings, describe, server_for, shutdown, warm
from tasks.records.cost import Cost

__all__ = [
    "Child",
    "Limits",
    "Progress",
    "Settings",
    "call",
    "call_with",
    "costs",
    "limits",
    "shutdown",
    "start",
    "warm",
]

P = ParamSpec("P")
T = TypeVar("T")
Progress = Callable[[Mapping[str, Any]], None]

_WATCH_SECONDS = 0.2
_LOG_TAIL = 4000


@dataclass(frozen=True)
class Limits:
    """Limits of one call: wall-clock seconds, and resident bytes of the child (None: no limit)."""

    seconds: float = 3600.0
    memory: int | None = None


_costs: ContextVar[list[Cost] | None] = ContextVar("costs", default=None)
_limits: ContextVar[Limits] = ContextVar("limits", default=Limits())  # noqa: B039 - it is frozen


def current_limits() -> Limits:
    """Return the limits that apply to a call here."""
    return _limits.get()


@contextlib.contextmanager
def limits(bounds: Limits) -> Iterator[None]:
    """Apply limits to every call inside the block."""
    token = _limits.set(bounds)
    try:
        yield
    finally:
        _limits.reset(token)


@contextlib.contextmanager
def costs() -> Iterator[list[Cost]]:
    """Collect what every child that starts in the block, and ends, has cost."""
    found: list[Cost] = []
    token = _costs.set(found)
    try:
        yield found
    finally:
        _costs.reset(token)


@dataclass
class Child:
    """A call in progress. The holder must `stop` it or wait for its end."""

    name: str
    reply: socket.socket
    log: Any
    server: Server
    pid: int | None = None
    exit: int | None = None
    frames: list[dict[str, Any]] = field(default_factory=list)
    costs: list[Cost] | None = None
    _buffer: bytearray = field(default_factory=bytearray)

    def poll(self, seconds: float = 0.0) -> list[dict[str, Any]]:
        """Return the frames that arrived since the last poll, waiting at most `seconds` for the first one."""
        if self.exit is None and self._readable(seconds):
            try:
                chunk = self.reply.recv(1 << 20)
            except ConnectionResetError:
                chunk = b""
            if not chunk:
                self.exit = -signal.SIGKILL  # the fork server has ended, and its children with it
            self._buffer += chunk
            if b"\n" in chunk:
                *lines, rest = bytes(self._buffer).split(b"\n")
                self._buffer = bytearray(rest)
                self.frames += [frame for line in lines if (frame := _frame(line))]
        elif self.exit is None and not self.server.alive():
            self.exit = -signal.SIGKILL  # a subprocess of the child may still hold its end of the socket
        for frame in self.frames:
            self.pid = frame.get("pid", self.pid)
            if "exit" in frame and self.exit is None:
                self.exit = frame["exit"]
                if self.costs is not None:
                    self.costs.append(Cost(process=self.name, **{key: frame[key] for key in frame if key != "exit"}))
        arrived, self.frames = self.frames, []
        return arrived

    def _readable(self, seconds: float) -> bool:
        poll = select.poll()  # select() refuses descriptors above 1023
        poll.register(self.reply, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def memory(self) -> int | None:
        """Return the resident bytes now, or None when the child has ended."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except (OSError, IndexError):
            return None
        return pages * os.sysconf("SC_PAGE_SIZE")

    def output(self) -> str:
        """Return the last 256 KiB of the child's output."""
        size = os.fstat(self.log.fileno()).st_size
        start = max(0, size - 256 * 1024)
        return os.pread(self.log.fileno(), size - start, start).decode(errors="replace")

    def stop(self, grace: float = 0.0) -> None:
        """End the child and its subprocesses: SIGTERM, `grace` seconds, SIGKILL. Returns when they are gone."""
        if self.reply.fileno() < 0:
            return
        self.wait(0.0)
        if self.exit is None and self.pid is None:
            # The server is still importing. From here on the child cannot send its pid, and ends instead of starting.
            with contextlib.suppress(OSError):
                self.reply.shutdown(socket.SHUT_RD)
            self.wait(0.0)
            self._signal(signal.SIGKILL)  # in case it has sent its pid meanwhile
        elif self.exit is None and grace:
            self._signal(signal.SIGTERM)
            self.wait(grace)
        if self.exit is None:
            self._signal(signal.SIGKILL)
            self.wait(10.0)
        if not self.server.alive():  # which would have ended the child's subprocesses
            self._signal(signal.SIGKILL)
        self.reply.close()

    def wait(self, seconds: float) -> None:
        """Return when it has ended, or `seconds` later; the frames that arrived meanwhile are kept for `poll`."""
        deadline = time.monotonic() + seconds
        arrived = self.poll()
        while self.exit is None and time.monotonic() < deadline:
            arrived += self.poll(0.1)
        self.frames = arrived + self.frames

    def _signal(self, number: signal.Signals) -> None:
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)


def start(function: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> Child:
    """Run `function(*args, **kwargs)` in a fresh child and return at once."""
    return start_with(function, args, kwargs)


def start_with(
    function: Callable[..., Any],
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    settings: Settings | None = None,
) -> Child:
    """`start`, in a child of a server of other settings."""
    request = pickle.dumps((function.__module__, function.__qualname__, args, dict(kwargs or {}), Path.cwd()))
    ours, theirs = socket.socketpair()
    log = tempfile.TemporaryFile()  # noqa: SIM115 - open for as long as the child is held
    with theirs:
        server = _ask(settings or Settings(), theirs, log)
    child = Child(f"{function.__module__}.{function.__qualname__}", ours, log, server, costs=_costs.get())
    try:
        ours.sendall(struct.pack("<Q", len(request)) + request)
    except OSError:
        raise server.failure() from None
    return child


def _ask(settings: Settings, reply: socket.socket, log: Any) -> Server:
    """Pass the child's descriptors to the fork server of these settings, or to a new one if that has just died."""
    fds = [reply.fileno(), log.fileno()]
    server = server_for(settings)
    try:
        _send(server, fds)
    except (BrokenPipeError, ConnectionResetError):
        failure = server.failure()
        server = server_for(settings)
        try:
            _send(server, fds)
        except OSError:
            raise failure from None
    return server


def _send(server: Server, fds: list[int]) -> None:
    for message in server.news():
        server.control.send(message)
    socket.send_fds(server.control, [b"call"], fds)


def call(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `function(*args, **kwargs)` in a fresh child and return its value.

    Raises:
        PipelineError: the child's own error, in its own class.
        ChildFailed: it crashed, missed the deadline or outgrew the memory limit of `limits`.
    """
    return call_with(function, args, kwargs)


def call_with(
    function: Callable[..., T],
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    on_progress: Progress | None = None,
    settings: Settings | None = None,
) -> T:
    """Do as `call`, reporting progress to `on_progress`, in a child of a fork server with these settings."""
    bounds = _limits.get()
    child = start_with(function, args, kwargs, settings=settings)
    deadline = time.monotonic() + bounds.seconds
    answer: dict[str, Any] | None = None
    try:
        while child.exit is None:
            for frame in child.poll(_WATCH_SECONDS):
                if "progress" in frame and on_progress:
                    on_progress(frame["progress"])
                elif frame.keys() & {"result", "error", "unexpected"}:
                    answer = frame
            if child.exit is None and time.monotonic() > deadline:
                raise _failed(child, f"an answer within {bounds.seconds:g} s", "none", "raise `limits.seconds`")
            used = child.memory() or 0
            if bounds.memory and used > bounds.memory:
                found = f"{used / 2**20:.0f} MiB"
                raise _failed(child, f"at most {bounds.memory / 2**20:.0f} MiB", found, "raise `limits.memory`")
    finally:
        child.stop()
    if answer is None and child.pid is None:
        raise child.server.failure()
    if answer is None:
        how = f"it ended with {describe(child.exit)}"
        raise _failed(child, "an answer", how, "see its last output above; free memory if the system killed it")
    return value_of(answer, function, partial(_failed, child))


def value_of(
    answer: Mapping[str, Any], function: Callable[..., T], failed: Callable[[str, str, str], ChildFailed]
) -> T:
    """Return the value in the frame that answers a call of `function`.

    Raises:
        PipelineError: the function's own error, in its own class.
        ChildFailed: another error, as `failed(expected, found, remedy)` makes one.
    """
    if "error" in answer:
        raise PipelineError.decode(answer["error"])
    if "unexpected" in answer:
        what = f"{answer['unexpected']['type']}: {answer['unexpected']['message']}"
        if at := answer["unexpected"].get("at"):
            what += f" ({at})"
        raise failed("no error", what, "run with --verbose for the child's output")
    returns: Any = get_type_hints(function).get("return", Any)
    adapter: TypeAdapter[T] = TypeAdapter(returns)
    try:
        (value,) = answer["result"]
        return adapter.validate_python(value)
    except ValidationError as error:
        raise failed(f"a {returns}", f"{error.error_count()} errors in its answer", f"{error}") from None


def _failed(child: Child, expected: str, found: str, remedy: str) -> ChildFailed:
    output = child.output()
    output = output[-_LOG_TAIL:]
    return ChildFailed(child.name, expected, found, f"{remedy}.", function=child.name, output=output, exit=child.exit)


def _frame(line: bytes) -> dict[str, Any] | None:
    """Parse one frame; None for a line that is not a frame, as a killed child may leave."""
    try:
        frame = json.loads(line)
    except ValueError:
        return None
    return frame if isinstance(frame, dict) else None
