"""The caller's side of the fork server."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import pickle
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, get_type_hints

from pydantic import TypeAdapter

from tasks.errors import ChildFailed, EnvironmentFailure, PipelineError

P = ParamSpec("P")
T = TypeVar("T")
Progress = Callable[[Mapping[str, Any]], None]

_ROOT = Path(__file__).resolve().parents[2]
_WATCH_SECONDS = 0.2
_LOG_TAIL = 4000


@dataclass(frozen=True)
class Settings:
    """What TensorFlow reads when it is imported: another value means another fork server."""

    environment: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Limits:
    """What one call may take: wall seconds, and resident bytes of the child (None: as much as there is)."""

    seconds: float = 3600.0
    memory: int | None = None


_limits: ContextVar[Limits] = ContextVar("limits", default=Limits())


@contextlib.contextmanager
def limits(bounds: Limits) -> Iterator[None]:
    """Hold every call inside the block to these limits."""
    token = _limits.set(bounds)
    try:
        yield
    finally:
        _limits.reset(token)


@dataclass
class Child:
    """A call under way. Whoever holds it must `stop` it or wait for its end."""

    name: str
    reply: socket.socket
    log: Any
    pid: int | None = None
    exit: int | None = None
    frames: list[dict[str, Any]] = field(default_factory=list)
    _buffer: bytes = b""

    def poll(self, seconds: float = 0.0) -> list[dict[str, Any]]:
        """The frames that have arrived since the last poll, waiting at most `seconds` for the first one."""
        if self.exit is None and select.select([self.reply], [], [], seconds)[0]:
            try:
                chunk = self.reply.recv(1 << 20)
            except ConnectionResetError:
                chunk = b""
            if not chunk:
                self.exit = -signal.SIGKILL  # the fork server itself is gone, and its children with it
            *lines, self._buffer = (self._buffer + chunk).split(b"\n")
            for line in lines:
                frame = json.loads(line)
                self.pid = frame.get("pid", self.pid)
                self.exit = frame.get("exit", self.exit)
                self.frames.append(frame)
        arrived, self.frames = self.frames, []
        return arrived

    def memory(self) -> int | None:
        """Resident bytes now, None when it has ended."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except (OSError, IndexError):
            return None
        return pages * os.sysconf("SC_PAGE_SIZE")

    def output(self) -> str:
        """The last 256 KiB of what it printed."""
        size = os.fstat(self.log.fileno()).st_size
        start = max(0, size - 256 * 1024)
        return os.pread(self.log.fileno(), size - start, start).decode(errors="replace")

    def stop(self, grace: float = 0.0) -> None:
        """End it and what it started: SIGTERM, `grace` seconds, SIGKILL. Returns when it is gone."""
        if self.exit is None and grace:
            self._signal(signal.SIGTERM)
            self._wait(grace)
        if self.exit is None:
            self._signal(signal.SIGKILL)
            self._wait(10.0)
        self.reply.close()

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self.exit is None and time.monotonic() < deadline:
            self.frames += self.poll(0.1)

    def _signal(self, number: signal.Signals) -> None:
        if self.pid is None:
            self._wait(1.0)
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)


class _Server:
    """One fork server process and the socket that leads to it."""

    def __init__(self, settings: Settings) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        life_read, self.life = os.pipe()
        environment = os.environ | {
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            "TF_CPP_MIN_LOG_LEVEL": "1",
            "CUDA_MODULE_LOADING": "LAZY",
            **dict(settings.environment),
        }
        # Not `-m`: that would put the user's folder first on the path, and it may hold a `tasks` of its own.
        program = (
            f"import sys; sys.path.insert(0, {str(_ROOT)!r}); "
            f"from tasks.isolate.server import main; main({theirs.fileno()}, {life_read})"
        )
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", program],
            env=environment,
            pass_fds=(theirs.fileno(), life_read),
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,  # Ctrl-C is for the flow, which ends its children itself
        )
        theirs.close()
        os.close(life_read)

    def alive(self) -> bool:
        return self.process.poll() is None

    def close(self) -> None:
        self.control.close()
        os.close(self.life)
        self.process.wait(10)


_servers: dict[Settings, _Server] = {}
_lock = threading.Lock()


def _server(settings: Settings) -> _Server:
    with _lock:
        server = _servers.get(settings)
        if server is None or not server.alive():
            server = _servers[settings] = _Server(settings)
        return server


def shutdown() -> None:
    """End every fork server of this process; the next call starts a new one."""
    with _lock:
        while _servers:
            _servers.popitem()[1].close()


atexit.register(shutdown)


def start(
    function: Callable[P, Any], *args: P.args, **kwargs: P.kwargs
) -> Child:
    """Run `function(*args, **kwargs)` in a fresh child and return at once."""
    return _start(Settings(), function, args, kwargs)


def _start(settings: Settings, function: Callable[..., Any], args: Any, kwargs: Any) -> Child:
    request = pickle.dumps((function.__module__, function.__qualname__, args, kwargs))
    ours, theirs = socket.socketpair()
    log = tempfile.TemporaryFile()
    server = _server(settings)
    try:
        socket.send_fds(server.control, [b"call"], [theirs.fileno(), log.fileno()])
    except OSError:
        server.process.wait(10)
        server.log.seek(0)
        raise EnvironmentFailure(
            "the TensorFlow process",
            "it to start",
            server.log.read().decode(errors="replace")[-_LOG_TAIL:].strip() or f"exit {server.process.returncode}",
            "run `tfship run --verbose`, and check that `python -c 'import tensorflow'` works in this environment.",
        ) from None
    finally:
        theirs.close()
    child = Child(f"{function.__module__}.{function.__qualname__}", ours, log)
    ours.sendall(struct.pack("<Q", len(request)) + request)
    return child


def call(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `function(*args, **kwargs)` in a fresh child and return its value.

    Raises:
        PipelineError: the one that the child raised, of its own class.
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
    """`call`, with its progress handed on and, where they matter, other import-time settings."""
    bounds = _limits.get()
    child = _start(settings or Settings(), function, args, dict(kwargs or {}))
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
    if answer is None:
        how = f"it ended with {_describe(child.exit)}"
        raise _failed(child, "an answer", how, "see its last output above; free memory if the system killed it")
    if "error" in answer:
        raise PipelineError.decode(answer["error"])
    if "unexpected" in answer:
        what = f"{answer['unexpected']['type']}: {answer['unexpected']['message']}"
        raise _failed(child, "no error", what, "run with --verbose for the child's output")
    returns: TypeAdapter[T] = TypeAdapter(get_type_hints(function).get("return", Any))
    return returns.validate_python(answer["result"])


def _failed(child: Child, expected: str, found: str, remedy: str) -> ChildFailed:
    output = child.output()
    return ChildFailed(child.name, expected, found, f"{remedy}.", facts={"output": output[-_LOG_TAIL:]})


def _describe(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"
