"""Starting the embedded server in a process of its own, forked from one that has imported TensorFlow.

`python -m tasks.serving.embedded`, which is the same but for the import, has tests of its own in test_flags.py.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tasks import isolate

REPOSITORY = Path(__file__).resolve().parents[3]
START_SECONDS = 240.0
"""TensorFlow's import alone takes 5 to 10 s on a busy machine."""


def serve(arguments: list[str], log_file: Path) -> None:
    """In a child: do as `python -m tasks.serving.embedded`, in the folder of its log."""
    from tasks.serving.embedded import server

    with log_file.open("ab") as log:
        os.dup2(log.fileno(), 2)
    os.chdir(log_file.parent)
    code = server.serve(arguments, ready=None)
    sys.stderr.flush()
    os._exit(code)


@dataclass(frozen=True)
class Process:
    """A server's process, with what tests ask of one that was started."""

    child: isolate.Child

    @property
    def pid(self) -> int:
        wait_until(lambda: bool(self.child.poll(0.1)) or self.child.pid is not None, START_SECONDS, "a process")
        assert self.child.pid is not None
        return self.child.pid

    def poll(self) -> int | None:
        self.child.poll()
        return self.child.exit

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, seconds: float) -> int | None:
        self.child.wait(seconds)
        return self.child.exit


@dataclass(frozen=True)
class RunningServer:
    """A server process, its two ports and its log so far."""

    process: Process
    log_file: Path
    grpc_port: int = 0
    rest_port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.rest_port}"

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def wait_for_log(self, words: str, seconds: float = START_SECONDS) -> None:
        wait_until(lambda: words in self.log() or self.process.poll() is not None, seconds, f"{words!r} in the log")
        assert words in self.log(), f"the server ended with {self.process.poll()} first:\n{self.log()}"

    def states(self, model: str) -> dict[str, str]:
        answer = httpx.get(f"{self.url}/v1/models/{model}", timeout=60).json()
        return {entry["version"]: entry["state"] for entry in answer.get("model_version_status", ())}


def wait_until(holds: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.02)


@contextmanager
def launched(arguments: Sequence[str], directory: Path) -> Iterator[RunningServer]:
    """A server process that may not have opened its ports."""
    log_file = directory / "server.log"
    log_file.touch()
    process = Process(isolate.start(serve, ["--port=0", "--rest_api_port=0", *arguments], log_file))
    try:
        yield RunningServer(process, log_file)
    finally:
        process.child.stop()


@contextmanager
def serving(arguments: Sequence[str], directory: Path) -> Iterator[RunningServer]:
    """A server that answers on both ports."""
    with launched(arguments, directory) as server:
        server.wait_for_log("Exporting HTTP/REST API at:")
        grpc_port, rest_port = (
            int(re.findall(rf"{words}\S*?:(\d+) \.\.\.", server.log())[-1])
            for words in ("Running gRPC ModelServer at ", "Exporting HTTP/REST API at:")
        )
        yield RunningServer(server.process, server.log_file, grpc_port, rest_port)
