"""The console script `tfship`."""

from flows.cli.main import main

__all__ = ["main"]
