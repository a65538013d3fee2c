"""`tfship` as its users start it: a process with all that it starts, or the console script's own function."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from flows import cli

QUICK = ("half_plus_two", "--no-server", "--runtime", "embedded")
STEPS = ["train", "checkpoint", "restore_verify", "freeze", "export", "smoke_test", "promote", "report"]
BIN = Path(sys.executable).parent
TFSHIP = BIN / "tfship"
_MARK = "RUN_MARK"
_POLL_SECONDS = 0.005
_SETTINGS = ("PREFECT_", "TFSHIP_")


class Answer(NamedTuple):
    """The exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The JSON document on stdout."""
        found: dict[str, Any] = json.loads(self.out)
        return found

    @property
    def states(self) -> dict[str, str]:
        """The state of each step, of `--json`."""
        return {step["name"]: step["state"] for step in self.document["steps"]}


_DECLARED = {"TFSHIP_TOLERANCE": "{absolute: 1.0e-5, relative: 1.0e-5}"}
MEASURED = {"TFSHIP_TOLERANCE": ""}


def clean(environment: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without what configures us or Prefect, and with `environment`.

    A tolerance is declared, for most of these tests are about other things than noise; `MEASURED` takes that back.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}
    return own | {
        name: value for name, value in (_DECLARED | dict(environment)).items() if (name, value) not in MEASURED.items()
    }


def tfship(*arguments: str | Path, **environment: str) -> Answer:
    """Run the console script in this process, where TensorFlow is imported already."""
    out, err = io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with (
            mock.patch.dict(os.environ, clean(environment), clear=True),
            mock.patch.object(sys, "argv", ["tfship", *map(str, arguments)]),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            cli.main()
        raise AssertionError("main() leaves with an exit code")
    except SystemExit as end:
        return Answer(int(end.code or 0), out.getvalue(), err.getvalue())
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


class Shell:
    """A process in a session of its own; whatever it starts inherits a mark by which it is found."""

    def __init__(
        self, *arguments: str | Path, cwd: Path, environment: Mapping[str, str] | None = None, program: Path = TFSHIP
    ) -> None:
        self.mark = uuid.uuid4().hex
        self.out, self.err = cwd / f"{self.mark}.out", cwd / f"{self.mark}.err"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [program, *map(str, arguments)],
                cwd=cwd,
                env=clean(environment or {}) | {_MARK: self.mark},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def until(self, happens: Callable[[], object], seconds: float = 400.0) -> None:
        """Wait until `happens()` is true, while the process runs."""
        deadline = time.monotonic() + seconds
        while not happens():
            assert self.process.poll() is None, f"ended with {self.process.returncode} first: {self.said}"
            assert time.monotonic() < deadline, f"not within {seconds} s: {self.said}"
            time.sleep(_POLL_SECONDS)

    @property
    def said(self) -> str:
        """Its stderr until now."""
        return self.err.read_text()

    def catches(self, number: signal.Signals) -> bool:
        """Return True if the process has a handler for that signal."""
        facts = dict(line.split(":", 1) for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines())
        return bool(int(facts.get("SigCgt", "0"), 16) >> (number - 1) & 1)

    def send(self, number: signal.Signals) -> None:
        """To the process alone."""
        self.process.send_signal(number)

    def answer(self, seconds: float = 400.0) -> Answer:
        """Wait for its end."""
        code = self.process.wait(seconds)
        return Answer(code, self.out.read_text(), self.err.read_text())

    def left(self) -> dict[int, str]:
        """Return the running processes that carry its mark, by pid."""
        mark = f"{_MARK}={self.mark}".encode()
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (folder / "environ").read_bytes():
                    found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        return found

    def assert_nothing_left(self, seconds: float = 30.0) -> None:
        """Assert that every process that it started ends within that time."""
        deadline = time.monotonic() + seconds
        while found := self.left():
            assert time.monotonic() < deadline, f"still there: {found}"
            time.sleep(0.02)

    def end(self) -> None:
        """Whatever is left of it; for the end of a test that failed."""
        for pid in self.left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
