"""A program that is exec'd and ends with this process, even if this process is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

LOG_BYTES = 256 * 1024
TERM_SECONDS = 3
# Runs as a program of its own, because in a process with threads nothing but exec is safe between fork and exec.
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
prctl = getattr(ctypes.CDLL(None), "prctl", None)
if prctl is not None:
    prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG, prctl(2)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the process that started this server has ended")
os.execv(sys.argv[2], sys.argv[2:])
"""


class BoundProcess:
    """A child in a session of its own, with its output in a file, that dies with this process."""

    def __init__(self, command: list[str], log_dir: Path, environment: Mapping[str, str] | None = None) -> None:
        log_dir.mkdir(parents=True, exist_ok=True)
        program = Path(command[0]).name
        # The file has no name, so that nothing is left of it; it stays open, to be read after the end.
        self._log_file = tempfile.TemporaryFile(dir=log_dir)  # noqa: SIM115
        self._child: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self.pid = 0
        self._failure: OSError | None = None
        started = threading.Event()
        self._thread = threading.Thread(
            target=self._live, args=(command, started, environment), name=f"{program} wait", daemon=True
        )
        self._thread.start()
        started.wait()
        if self._child is None:
            raise self._failure or OSError("the child could not be started")
        self.pid = self._child.pid

    def _live(
        self,
        command: list[str],
        started: threading.Event,
        environment: Mapping[str, str] | None,
    ) -> None:
        """Start the child and wait for it: the kernel kills the child when this thread ends, so the thread outlives it."""
        guard = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid())]
        try:
            self._child = subprocess.Popen(
                [*guard, *command],
                stdin=subprocess.DEVNULL,
                stdout=self._log_file,
                stderr=self._log_file,
                env=None if environment is None else {**os.environ, **environment},
                start_new_session=True,
            )
        except OSError as error:
            self._failure = error
        finally:
            started.set()
        if self._child is not None:
            self._child.wait()

    def returncode(self) -> int | None:
        """Return the exit code, minus the signal number if a signal killed it, or None while it runs."""
        assert self._child is not None
        return self._child.returncode

    def log(self) -> str:
        """Return the last `LOG_BYTES` of its output."""
        descriptor = self._log_file.fileno()
        size = os.fstat(descriptor).st_size
        start = max(0, size - LOG_BYTES)
        return os.pread(descriptor, size - start, start).decode("utf-8", errors="replace")

    def stop(self) -> None:
        """End it and its children; its log stays readable."""
        if self._stopped:
            return
        for sent, patience in ((signal.SIGTERM, TERM_SECONDS), (signal.SIGKILL, TERM_SECONDS)):
            if self.returncode() is None:
                self._signal(sent)
                self._thread.join(patience)
        self._signal(signal.SIGKILL)  # for children that outlived it
        self._stopped = True

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)
