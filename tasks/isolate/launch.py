"""The fork servers of this process, started on first use and ended with it."""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import EnvironmentFailure
from tasks.isolate.server import IMPORT

_ROOT = Path(__file__).resolve().parents[2]
_LOG_TAIL = 4000
_AT_ONCE = 100  # names in a message


@dataclass(frozen=True)
class Settings:
    """What a fork server is started with: another value means another server.

    `environment` is what TensorFlow reads when it is imported. `modules` are imported after TensorFlow, so that no child
    has to; None: the modules of `tasks` that the caller has imported.
    """

    environment: tuple[tuple[str, str], ...] = ()
    modules: tuple[str, ...] | None = None


class Server:
    """One fork server process and the socket that leads to it."""

    def __init__(self, settings: Settings) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        life_read, self.life = os.pipe()
        # TF_CONFIG is for the training child alone, which gets it as an argument: two servers cannot share its port.
        inherited = {name: value for name, value in os.environ.items() if name != "TF_CONFIG"}
        environment = inherited | {
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            "TF_CPP_MIN_LOG_LEVEL": "1",
            "CUDA_MODULE_LOADING": "LAZY",
            **dict(settings.environment),
        }
        self.modules: set[str] | None = None if settings.modules is not None else set()
        self.scratch = f"{tempfile.gettempdir()}/tfship-{os.getpid()}-{secrets.token_hex(6)}"
        # Not `-m`: that would put the user's folder first on the path, and it may hold a `tasks` of its own.
        program = (
            f"import sys; sys.path.insert(0, {str(_ROOT)!r}); from tasks.isolate.server import main; "
            f"main({theirs.fileno()}, {life_read}, {self.scratch!r}, {settings.modules or ()})"
        )
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - open for as long as the server runs
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

    def news(self) -> list[bytes]:
        """Return the messages with the modules of `tasks` that this process has imported since it was last asked.

        The server imports them too, so that no child has to.
        """
        if self.modules is None:
            return []
        new = sorted(name for name in list(sys.modules) if name.startswith("tasks.") and name not in self.modules)
        self.modules.update(new)
        return [" ".join([IMPORT, *new[at : at + _AT_ONCE]]).encode() for at in range(0, len(new), _AT_ONCE)]

    def alive(self) -> bool:
        """Tell whether the server is still running."""
        return self.process.poll() is None

    def failure(self) -> EnvironmentFailure:
        """Return the reason for the server's end, for a caller whose call it never accepted."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        size = os.fstat(self.log.fileno()).st_size
        output = os.pread(self.log.fileno(), _LOG_TAIL, max(0, size - _LOG_TAIL)).decode(errors="replace").strip()
        return EnvironmentFailure(
            "the TensorFlow process",
            "it to start",
            f"it ended with {describe(self.process.returncode)}" + (f": {output}" if output else ""),
            "run again with --verbose, and check that `python -c 'import tensorflow'` works in this environment.",
        )

    def close(self) -> None:
        """End the server and its children. Returns when it is gone."""
        self.forget()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:  # stopped in a debugger, or blocked in the kernel
            self.process.kill()
            self.process.wait(10)
        shutil.rmtree(self.scratch, ignore_errors=True)  # a server that was killed could not remove it

    def forget(self) -> None:
        """Close this process's ends of the pipes; the server ends when no process holds them."""
        self.control.close()
        os.close(self.life)


_servers: dict[Settings, Server] = {}
_lock = threading.Lock()


def server_for(settings: Settings) -> Server:
    """Return a running fork server with these settings, starting one if needed."""
    with _lock:
        server = _servers.get(settings)
        if server is not None and not server.alive():
            server.close()
            server = None
        if server is None:
            server = _servers[settings] = Server(settings)
        return server


def warm(settings: Settings) -> None:
    """Start the fork server of these settings, so that a later call need not wait for TensorFlow's import."""
    server_for(settings)


def shutdown(settings: Settings | None = None) -> None:
    """End every fork server of this process, or the one of these settings; the next call starts a new one."""
    with _lock:
        for ending in list(_servers) if settings is None else {settings} & _servers.keys():
            _servers.pop(ending).close()


def _forget_in_fork() -> None:
    """Forget the servers in a fork of this process: each must end with its own client, not with a copy of it."""
    global _lock
    _lock = threading.Lock()
    while _servers:
        server = _servers.popitem()[1]
        server.forget()
        server.process.returncode = 0  # not this process's child


atexit.register(shutdown)
os.register_at_fork(after_in_child=_forget_in_fork)


def describe(code: int | None) -> str:
    """Describe an exit status, with signals by name."""
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"
