"""The rollback flow: serves an earlier version again, and holds the later ones."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from tasks.records.release import JournalLine
from tasks.releases.publish import Releases


@flow(name="rollback", flow_run_name="{name}")
def rollback(
    name: str, reason: str, to: int | None = None, serving_root: Path = Path(".tfship/serving")
) -> JournalLine:
    """Roll `name` back to version `to`, or to the one before the served one; `reason` goes into the journal."""
    with Releases(serving_root, name).open() as releases:
        return releases.roll_back(to, reason)
