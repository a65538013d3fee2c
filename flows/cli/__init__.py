"""The console script `tfship`: signals are answered before anything heavy is imported."""

from __future__ import annotations

from typing import NoReturn

from flows.cli import termination


def main() -> NoReturn:
    """Run the command line and leave with its exit code."""
    termination.begin()
    from flows.cli.app import answer

    termination.leave(answer())
