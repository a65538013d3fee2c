"""The embedded server as a serving runtime, forked from the process that has imported TensorFlow.

For hosts that have neither a Docker engine nor the real server.
"""

from __future__ import annotations

import importlib.metadata
import os
import time
from collections.abc import Mapping
from pathlib import Path

from tasks import isolate
from tasks.isolate import Child
from tasks.isolate.ports import free_ports
from tasks.records.serving import Endpoint, Exit, RuntimeIdentity
from tasks.serving.runtimes.flag_files import WrittenFiles

_TERM_SECONDS = 2.0


def serve(arguments: list[str]) -> int:
    """Run the server in a child until a signal ends it."""
    from tasks.serving.embedded.server import serve as run

    code = run(arguments, ready=None)
    os._exit(code)


class EmbeddedRuntime:
    """A `ServingRuntime` that is one forked embedded server.

    `flag_files` maps flags to the texts of the files that they name; see `flag_files.py`.
    """

    def __init__(self, flags: tuple[str, ...] = (), flag_files: Mapping[str, str] | None = None) -> None:
        self.flags = flags
        self.flag_files = dict(flag_files or {})
        self._files = WrittenFiles()
        self._child: Child | None = None

    @property
    def identity(self) -> RuntimeIdentity:
        """This version of tfship on the installed TensorFlow."""
        version = f"{importlib.metadata.version('tfship')} on TensorFlow {importlib.metadata.version('tensorflow')}"
        return RuntimeIdentity(runtime="embedded", version=version, stand_in=True)

    @property
    def cpus(self) -> int:
        """See `ServingRuntime`."""
        return len(os.sched_getaffinity(0))

    def start(self, name: str, base_path: Path, *, deadline: float) -> Endpoint:
        """Fork the server on two free ports."""
        grpc, rest = free_ports(2)
        files = self._files.write(self.flag_files, base_path.resolve())
        arguments = [f"--port={grpc}", f"--rest_api_port={rest}", f"--model_name={name}"]
        arguments += [f"--model_base_path={base_path}", "--max_num_load_retries=0", *files, *self.flags]
        self._child = isolate.start(serve, arguments)
        until = time.monotonic() + deadline
        while self._child.pid is None and self._child.exit is None and time.monotonic() < until:
            self._child.poll(0.1)
        return Endpoint(grpc=f"127.0.0.1:{grpc}", rest=f"http://127.0.0.1:{rest}")

    def logs(self) -> str:
        """Return the server's output."""
        return self._child.output() if self._child else ""

    def exited(self) -> Exit | None:
        """Return how the server ended, or None."""
        if self._child is None:
            return None
        self._child.poll()
        return None if self._child.exit is None else Exit(code=self._child.exit)

    def memory(self) -> int | None:
        """Return the resident bytes, or None."""
        return self._child.memory() if self._child else None

    @property
    def pid(self) -> int | None:
        """The server's process, None before it runs."""
        return self._child.pid if self._child else None

    def stop(self) -> None:
        """End the server by SIGTERM, then SIGKILL."""
        if self._child is not None:
            self._child.stop(_TERM_SECONDS)
        self._files.remove()
