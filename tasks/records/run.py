"""What a run did: one outcome a step, and the document that `tfship run --json` prints."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from tasks.records.base import Record
from tasks.records.serving import ServerVerdict


class StepState(StrEnum):
    """How a step ended; `assisted` is training that another worker, the chief, keeps."""

    BUILT = "built"
    CACHED = "cached"
    FAILED = "failed"
    SKIPPED = "skipped"
    UNCHANGED = "unchanged"
    HELD = "held"
    ASSISTED = "assisted"


class StepOutcome(Record):
    """One step of a run. `message` is the error's first line, or why it was skipped."""

    name: str
    state: StepState
    seconds: float
    artifact: str | None = None
    digest: str | None = None
    message: str = ""


class Promotion(Record):
    """What `promote` did. `outcome` is promoted, unchanged, held or skipped."""

    name: str
    version: int | None = None
    path: str | None = None
    previous: int | None = None
    outcome: str
    digest: str | None = None
    confirmed_by: str = ""


class RunSummary(Record):
    """The JSON document of a run (DESIGN.md, "What a user types")."""

    run_id: str
    name: str
    steps: tuple[dict[str, Any], ...]
    parity: tuple[dict[str, Any], ...]
    smoke: dict[str, Any] | None
    promotion: dict[str, Any] | None
    report: str | None
    adopted: dict[str, Any] | None = None
    quality: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()
    servers: tuple[ServerVerdict, ...] = ()
    rehearsal: dict[str, Any] | None = None
