"""TensorFlow Serving as a process: a `tensorflow_model_server` of this host, for hosts without Docker.

The server takes no port 0 (`tensorflow_serving/model_servers/main.cc`), so two free ports are chosen for it, below the
kernel's ephemeral range, and chosen again when the server finds one in use.

The server ends with this process, even if this process is killed: the kernel kills it with the thread that started it,
and that thread does nothing but wait for it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from tasks.errors import EnvironmentFailure
from tasks.isolate.ports import free_ports, listening
from tasks.isolate.process import BoundProcess
from tasks.records.serving import Endpoint, Exit, RuntimeIdentity
from tasks.serving.runtimes.flag_files import WrittenFiles

PROGRAM = "tensorflow_model_server"
VERSION_SECONDS = 30
ATTEMPTS = 5
COLLISION_SECONDS = 0.5  # REST is bound at once, gRPC when the first load has ended
_IN_USE = re.compile(r"address already in use|failed to (bind|start http server)|error adding port", re.IGNORECASE)


class BinaryRuntime:
    """A `ServingRuntime` that is one process of the server at `path`.

    `log_dir` holds its log while it runs. `flag_files` maps flags to the texts of the files that they name; see
    `flag_files.py`.
    """

    def __init__(
        self,
        path: Path,
        log_dir: Path,
        flags: tuple[str, ...] = (),
        flag_files: Mapping[str, str] | None = None,
    ) -> None:
        self.path = path
        self.log_dir = log_dir
        self.flags = flags
        self.flag_files = dict(flag_files or {})
        self._files = WrittenFiles()
        self._identity: RuntimeIdentity | None = None
        self._server: BoundProcess | None = None
        self._begun = False

    @property
    def identity(self) -> RuntimeIdentity:
        """The server by its answer to `--version`."""
        if self._identity is None:
            answer = self._version_output()
            number = re.search(r"ModelServer:\s*(\S+)", answer)
            if number is None:
                raise self._unusable(f"{self.path} --version answered {answer[:200]!r}")
            self._identity = RuntimeIdentity(runtime="binary", version=number[1], stand_in="stand-in" in answer)
        return self._identity

    @property
    def cpus(self) -> int:
        """See `ServingRuntime`."""
        return len(os.sched_getaffinity(0))

    def start(self, name: str, base_path: Path, *, deadline: float) -> Endpoint:
        """Start the server on two free ports, and on others if it ends at once because one was taken meanwhile."""
        if self._begun:
            raise RuntimeError("a runtime starts once")
        self._begun = True
        self.identity  # raises if the program cannot be used
        until = time.monotonic() + deadline
        try:
            files = self._files.write(self.flag_files, base_path.resolve())
            return self._start(name, base_path.resolve(), files, until)
        except BaseException:
            self.stop()
            raise

    def _start(self, name: str, base_path: Path, files: list[str], until: float) -> Endpoint:
        for _ in range(ATTEMPTS):
            grpc, rest = free_ports(2)
            arguments = [f"--port={grpc}", f"--rest_api_port={rest}", f"--model_name={name}"]
            arguments += [f"--model_base_path={base_path}", "--max_num_load_retries=0", *files, *self.flags]
            if self._server is not None:
                self._server.stop()
            try:
                self._server = BoundProcess([str(self.path), *arguments], self.log_dir)
            except OSError as error:
                raise self._unusable(str(error)) from error
            if not self._collided((grpc, rest), min(until, time.monotonic() + COLLISION_SECONDS)):
                return Endpoint(grpc=f"127.0.0.1:{grpc}", rest=f"http://127.0.0.1:{rest}")
        log = self.logs()[-2000:]
        raise EnvironmentFailure(
            f"starting {self.path}",
            "two free ports on this host",
            f"one in use, {ATTEMPTS} times; its last lines:\n{log}",
            "end the programs that hold the ports (`ss -ltnp` lists them), then run again.",
        )

    def logs(self) -> str:
        """Return the server's output."""
        return self._server.log() if self._server is not None else ""

    def exited(self) -> Exit | None:
        """Return how the server ended, or None. An end by the kernel's OOM killer looks like any other SIGKILL."""
        code = self._server.returncode() if self._server is not None else None
        return None if code is None else Exit(code=code)

    def memory(self) -> int | None:
        """Return the resident bytes by `/proc/<pid>/statm` (proc(5)), or None."""
        if self._server is None or self._server.returncode() is not None:
            return None
        try:
            pages = Path(f"/proc/{self._server.pid}/statm").read_text().split()[1]
        except (OSError, IndexError):
            return None
        return int(pages) * os.sysconf("SC_PAGE_SIZE") or None

    def stop(self) -> None:
        """End the server and its subprocesses by SIGTERM, then SIGKILL; its log stays readable."""
        if self._server is not None:
            self._server.stop()
        self._files.remove()

    def _collided(self, ports: tuple[int, int], until: float) -> bool:
        """Wait until the server listens on both ports, ends, or `until`; tell whether it ended over a port in use."""
        assert self._server is not None
        while time.monotonic() < until and self._server.returncode() is None:
            if all(map(listening, ports)):
                return False
            time.sleep(0.02)
        return self._server.returncode() is not None and _IN_USE.search(self.logs()) is not None

    def _version_output(self) -> str:
        try:
            completed = subprocess.run(
                [str(self.path), "--version"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=VERSION_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise self._unusable(str(error)) from error
        return completed.stdout + completed.stderr

    def _unusable(self, found: str) -> EnvironmentFailure:
        return EnvironmentFailure(
            f"model server {self.path}",
            f"a {PROGRAM} that runs on this host",
            found,
            f"install TensorFlow Serving's {PROGRAM}, or choose --runtime docker or --runtime embedded.",
        )


def find(search_path: str | None = None) -> Path | None:
    """Return the server on `search_path` (by default PATH), or None."""
    found = shutil.which(PROGRAM, path=search_path)
    return Path(found) if found else None
