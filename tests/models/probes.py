"""Calls that tests make in children."""

from __future__ import annotations

from pathlib import Path

from tasks.forms import saver


def tensor(prefix: Path, key: str) -> list[float]:
    """One tensor of a checkpoint."""
    values: list[float] = saver.read(saver.reader(prefix), key, prefix).tolist()
    return values
