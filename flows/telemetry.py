"""Progress of a run: a live table on a terminal, plain lines elsewhere, Prefect's log in a worker."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from flows.config import STEPS
from tasks.presentation.terminal import cell, printable, say
from tasks.records.run import StepOutcome, StepState
from tasks.step import Observer

_MARKS = {
    StepState.BUILT: ("✓", "green"),
    StepState.CACHED: ("✓", "cyan"),
    StepState.UNCHANGED: ("=", "cyan"),
    StepState.SKIPPED: ("-", "yellow"),
    StepState.FAILED: ("✗", "red"),
    StepState.HELD: ("✗", "yellow"),
    StepState.ASSISTED: ("✓", "green"),
}


class Silent:
    """Observer that shows nothing: `--json` without a terminal, and tests."""

    def started(self, name: str) -> None:
        """Show nothing."""

    def progress(self, name: str, facts: Mapping[str, Any]) -> None:
        """Show nothing."""

    def ended(self, outcome: StepOutcome) -> None:
        """Show nothing."""


class Plain(Silent):
    """Observer that writes a line for each finished step, and one every few seconds while training, to stderr."""

    every_seconds = 5.0

    def __init__(self) -> None:
        self.last_line = time.monotonic()

    def write(self, line: str) -> None:
        """Write a line to stderr."""
        say(line, file=sys.stderr)

    def progress(self, name: str, facts: Mapping[str, Any]) -> None:
        """Write a line, if the last one is some seconds old."""
        if said := facts.get("waiting") or facts.get("started"):
            self.write(f"{name}: {said}")
        elif time.monotonic() - self.last_line >= self.every_seconds:
            self.last_line = time.monotonic()
            self.write(f"{name}: {described(facts)}")

    def ended(self, outcome: StepOutcome) -> None:
        """Write the line of a finished step."""
        tail = f"  {outcome.message}" if outcome.message else ""
        self.write(f"{outcome.name:<15} {outcome.state:<9} {outcome.seconds:6.2f} s{tail}")


class Logged(Plain):
    """Observer that writes the same lines to the log of a Prefect flow run."""

    def write(self, line: str) -> None:
        """Write a line to Prefect's log of this run."""
        from prefect import get_run_logger
        from prefect.exceptions import MissingContextError

        try:
            get_run_logger().info(printable(line))
        except MissingContextError:
            logging.getLogger("tfship").info(line)


class Terminal(Silent):
    """Live table of all steps on a terminal, with a bar for each step that reports progress."""

    def __init__(self, live: Live) -> None:
        self.live = live
        self.outcomes: dict[str, StepOutcome] = {}
        self.running: dict[str, float] = {}
        self.notes: dict[str, str] = {}
        self.bar = Progress(TextColumn("{task.fields[of_step]}"), BarColumn(40), TextColumn("{task.description}"))
        self.bars: dict[str, TaskID] = {}

    def started(self, name: str) -> None:
        """Show the step as running."""
        self.running[name] = time.monotonic()
        self.live.update(self.render(), refresh=True)

    def progress(self, name: str, facts: Mapping[str, Any]) -> None:
        """Move the bar."""
        self.notes[name] = str(facts.get("waiting", ""))
        if "of" in facts:
            if name not in self.bars:
                self.bars[name] = self.bar.add_task("", of_step=name)
            self.bar.update(
                self.bars[name],
                total=facts["of"],
                completed=facts["step"],
                description=described(facts),
            )
        self.live.update(self.render(), refresh=True)

    def ended(self, outcome: StepOutcome) -> None:
        """Show the step's state."""
        self.outcomes[outcome.name] = outcome
        self.running.pop(outcome.name, None)
        if outcome.name in self.bars:
            self.bar.remove_task(self.bars.pop(outcome.name))
        self.live.update(self.render(), refresh=True)

    def render(self) -> Group:
        """Return the current table."""
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("step")
        table.add_column("state")
        table.add_column("seconds", justify="right")
        table.add_column("", overflow="ellipsis", no_wrap=True)
        for name in STEPS:
            if name in self.outcomes:
                outcome = self.outcomes[name]
                mark, color = _MARKS[outcome.state]
                state = f"[{color}]{mark} {outcome.state}[/]"
                table.add_row(name, state, f"{outcome.seconds:.2f}", cell(outcome.message))
            elif name in self.running:
                table.add_row(name, "… running", "", cell(self.notes.get(name, "")))
            else:
                table.add_row(f"[dim]{name}[/]", "", "", "")
        return Group(table, self.bar)


def described(facts: Mapping[str, Any]) -> str:
    """Return progress in words: `step 120 of 400, loss 0.08`."""
    parts = [f"{facts.get('unit', 'step')} {facts['step']} of {facts['of']}"] if "of" in facts else []
    parts += [f"{name} {value:.4g}" for name, value in facts.items() if isinstance(value, float)]
    return ", ".join(parts)


_observer: ContextVar[Observer | None] = ContextVar("observer", default=None)
_before_step: ContextVar[Callable[[], None]] = ContextVar("before_step", default=lambda: None)


def observer() -> Observer:
    """Return the observer of this run; outside the command line, Prefect's log."""
    return _observer.get() or Logged()


def warn(message: str) -> None:
    """Show a warning once, wherever the run is shown."""
    watcher = observer()
    if isinstance(watcher, Plain):
        watcher.write(f"warning: {message}")
    elif isinstance(watcher, Terminal):
        watcher.live.console.print(f"[yellow]warning:[/] {cell(message)}")
    else:
        say(f"warning: {message}", file=sys.stderr)


def before_step() -> Callable[[], None]:
    """Return what is to be called before each step of this run."""
    return _before_step.get()


@contextlib.contextmanager
def shown(*, quiet: bool = False, before_step: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Show runs inside the block on this terminal, and call `before_step` before each of their steps."""
    console = Console(stderr=True)
    with contextlib.ExitStack() as stack:
        watcher: Observer
        if quiet:
            watcher = Silent()
        elif console.is_terminal and os.environ.get("TERM") != "dumb":
            live = stack.enter_context(Live(console=console, auto_refresh=False, transient=False))
            watcher = Terminal(live)
        else:
            watcher = Plain()
        token = _observer.set(watcher)
        stack.callback(_observer.reset, token)
        stack.callback(_before_step.reset, _before_step.set(before_step))
        yield
