"""Starting the embedded server as its users start it: `python -m tasks.serving.embedded`, in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

REPOSITORY = Path(__file__).resolve().parents[3]
START_SECONDS = 240.0
"""TensorFlow's import alone takes 5 to 10 s on a busy machine."""


@dataclass(frozen=True)
class RunningServer:
    """A server process, its two ports and its log so far."""

    process: subprocess.Popen[bytes]
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
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TF_CPP_MIN_LOG_LEVEL": "2"}
    command = [sys.executable, "-m", "tasks.serving.embedded", "--port=0", "--rest_api_port=0", *arguments]
    with log_file.open("wb") as log:
        process = subprocess.Popen(command, stderr=log, env=environment, cwd=directory)
    try:
        yield RunningServer(process, log_file)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


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
