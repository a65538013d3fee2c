"""One line of a model's release history."""

from __future__ import annotations

from enum import StrEnum

from tasks.records.base import Record


class Event(StrEnum):
    """What happened. The two that end in `ing` are intents: written before the act, closed by the line after it."""

    PROMOTING = "promoting"
    PROMOTED = "promoted"
    ABANDONED = "abandoned"
    WITHDRAWN = "withdrawn"
    ROLLING_BACK = "rolling back"
    ROLLED_BACK = "rolled back"


class JournalLine(Record):
    """A line of `journal.jsonl`.

    `version` is the one that the event is about (for a rollback, the one served again), `retired` the versions that a
    rollback took away, with their digests; `previous` was served before. `server` is what the blessing was given by:
    the image with its digest, or the runtime with its version.
    """

    time: str
    event: Event
    version: int
    digest: str
    previous: int | None = None
    retired: dict[int, str] = {}
    run_id: str = ""
    blessing: str = ""
    verdict: str = ""
    server: str = ""
    reason: str = ""
    by: str = ""
