"""Progress of a run: a live table on a terminal, plain lines elsewhere, and Prefect's log on request."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path

from tests.flows.cli.process import STEPS, TFSHIP, Shell, clean
from tests.flows.prefect_api import PrefectApi

HIDDEN, SHOWN = b"\x1b[?25l", b"\x1b[?25h"


class Screen:
    """A run on a terminal of its own, and all that it wrote there."""

    def __init__(self, *arguments: str, cwd: Path) -> None:
        self.ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 110, 0, 0))
        environment = clean({"TERM": "xterm-256color"})
        streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
        self.process = subprocess.Popen(
            [TFSHIP, *arguments], cwd=cwd, env=environment, start_new_session=True, **streams
        )
        os.close(theirs)
        self.written = b""

    def read(self, until: bytes = b"", seconds: float = 400.0) -> None:
        """To the end, or until it wrote that."""
        deadline = time.monotonic() + seconds
        while not until or until not in self.written:
            assert time.monotonic() < deadline, self.text
            if select.select([self.ours], [], [], 1.0)[0]:
                try:
                    self.written += os.read(self.ours, 65536)
                except OSError:  # the terminal has no writer left
                    return

    @property
    def text(self) -> str:
        """Without colours and movements, every frame after the other."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.written.decode()).replace("\r", "")

    def close(self) -> None:
        """Hang up."""
        os.close(self.ours)
        self.process.kill()
        self.process.wait()


def test_on_a_terminal_there_is_a_table_and_a_bar_and_it_ends_clean(folder: Path) -> None:
    options = ["--no-server", "--runtime", "embedded", "--steps", "60"]
    (folder / "c.yaml").write_text("training: {saver: {every_steps: 20}}")
    with contextlib.closing(Screen("run", "sundaynet", *options, "--config", "c.yaml", cwd=folder)) as screen:
        screen.read()
        assert screen.process.wait(60.0) == 0, screen.text
    assert "… running" in screen.text
    assert "step 20 of 60, loss" in screen.text and "━" in screen.text
    assert screen.written.count(HIDDEN) == screen.written.count(SHOWN) == 1
    last = screen.text[screen.text.rindex("step            state") :]
    for name in STEPS:
        assert re.search(rf"^{name} +✓ built +\d+\.\d\d *$", last, re.M), last
    table, _, after = last.partition("sundaynet: every form")
    assert "━" not in table, "the bar is gone with the training"
    assert "next    tfship releases sundaynet" in after


def test_ctrl_c_on_a_terminal_gives_the_cursor_back(folder: Path) -> None:
    options = ["--no-server", "--runtime", "embedded"]
    with contextlib.closing(Screen("run", "half_plus_two", *options, cwd=folder)) as screen:
        screen.read(until="… running".encode())
        screen.process.send_signal(signal.SIGINT)
        screen.read()
        assert screen.process.wait(60.0) == 130
    assert screen.written.rstrip().endswith(b"tfship: interrupted; run again to go on from here.")
    assert screen.written.index(SHOWN) > screen.written.rindex(HIDDEN)
    assert "train           ✗ failed" in screen.text and "Traceback" not in screen.text


def test_elsewhere_there_are_plain_lines_and_prefects_log_only_with_verbose(
    copied: Path, shell: Callable[..., Shell], prefect_api: PrefectApi
) -> None:
    command = ("run", "half_plus_two", "--runtime", "embedded")
    plain = shell(*command, environment=prefect_api.environment)
    verbose = shell(*command, "--verbose", environment=prefect_api.environment)
    answer = plain.answer()
    assert answer.code == 0
    assert len(answer.err.splitlines()) == len(STEPS) and "\x1b" not in answer.err + answer.out
    assert {line.split()[0] for line in answer.err.splitlines()} == set(STEPS)
    answer = verbose.answer()
    assert answer.code == 0
    assert len(answer.err.splitlines()) > len(STEPS) and "Flow run 'half_plus_two'" in answer.err
