"""The console script `tfship`. Signal handlers are set before anything slow is imported."""

from __future__ import annotations

from typing import NoReturn

from flows.cli import termination


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    termination.begin()
    from flows.cli.app import answer

    termination.leave(answer())
