"""What killed builds leave in a store, as old as a test needs it."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tasks.artifacts.store import Store

DAY = 86400.0


def aged(path: Path, days: float) -> Path:
    """`path` and everything below it as if nobody had touched them for days."""
    then = time.time() - days * DAY
    for one in [*sorted(path.rglob("*"), reverse=True), path]:
        os.utime(one, (then, then))
    return path


def unfinished(store: Store, key: str, days: float) -> Path:
    """What a killed build leaves: read-only files of 1000 bytes, and the lock's file."""
    staging = store.staging("train", key)
    (staging / "checkpoints").mkdir(parents=True)
    (staging / "checkpoints" / "bundle").write_bytes(b"x" * 1000)
    (staging / "checkpoints" / "bundle").chmod(0o444)
    (staging / "checkpoints").chmod(0o555)
    with store.lock("train", key):
        pass
    return aged(staging, days)
