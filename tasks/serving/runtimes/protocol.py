"""The protocol between the smoke test and a runtime of TensorFlow Serving: one server, started and stopped once.

Three modules implement it: `docker/runtime.py`, `binary.py`, `embedded.py`. `tests/serving/runtimes` runs one suite
over all of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from tasks.records.serving import Endpoint, Exit, RuntimeIdentity


class ServingRuntime(Protocol):
    """One model server.

    `start` may be called once; `stop` any number of times, also before `start` and after a failed one, and leaves no
    process, container or port behind. `logs` and `exited` answer until and after `stop`.
    """

    @property
    def identity(self) -> RuntimeIdentity:
        """The server's identity, part of the smoke test's key. Resolved without starting anything."""
        ...

    @property
    def cpus(self) -> int | None:
        """The number of CPUs that the server sees, on which its number of threads depends, or None if it is not known."""
        ...

    def start(self, name: str, base_path: Path, *, deadline: float) -> Endpoint:
        """Start serving the versions under `base_path` as `name`; return the addresses of its ports.

        Returns as soon as the addresses are known, not when the model is AVAILABLE: the caller watches the status,
        `exited` and its own clock. `deadline` is in seconds.
        The server runs with `--max_num_load_retries=0`, so that a bad version ends at once.

        Raises:
            EnvironmentFailure: no engine, no image, no binary, no free port, no permission.
        """
        ...

    def logs(self) -> str:
        """Return the server's output so far, stdout and stderr, at most the last 256 KiB."""
        ...

    def exited(self) -> Exit | None:
        """Return how the server ended, or None while it runs."""
        ...

    def memory(self) -> int | None:
        """Return the resident bytes now, or None if they cannot be read."""
        ...

    def stop(self) -> None:
        """End the server within a few seconds, even if it ignores signals, and remove what was made for it."""
        ...
