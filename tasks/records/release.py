"""One line of a model's release history."""

from __future__ import annotations

from enum import StrEnum

from tasks.records.base import Record
from tasks.records.signature import Impurity


class Event(StrEnum):
    """The kinds of events."""

    PROMOTING = "promoting"
    PROMOTED = "promoted"
    ABANDONED = "abandoned"
    WITHDRAWING = "withdrawing"
    WITHDRAWN = "withdrawn"
    ROLLING_BACK = "rolling back"
    ROLLED_BACK = "rolled back"
    LABELLED = "labelled"
    APPROVED = "approved"
    PINNED = "pinned"
    UNPINNED = "unpinned"
    DELETING = "deleting"
    DELETED = "deleted"

    @property
    def is_intent(self) -> bool:
        """True for what is written before a change, which the next line closes."""
        return self in (Event.PROMOTING, Event.WITHDRAWING, Event.ROLLING_BACK, Event.DELETING)


class Rule(StrEnum):
    """The rules of a promotion, by the names under which they are refused and waived (README.md, "Policy")."""

    REAL_SERVER = "real_server"
    IMAGES = "images"
    SIGNATURES = "signatures"
    METRIC = "metric"
    OPS = "ops"
    BUDGETS = "budgets"
    SIGNED = "signed"
    APPROVAL = "approval"


class JournalLine(Record):
    """A line of `journal.jsonl`.

    `digest` is that of all files of a version, `model` that of the files that decide what it computes.
    `version` is the subject of the event (for a rollback, the version served again), `retired` maps the versions that a
    rollback removed to their digests, `retired_models` to what they computed; `previous` was served before. `server` is the server that gave the blessing: the
    image with its digest, or the runtime with its version. `impure` is what the outputs depend on besides the inputs.
    `labels` are those of all versions after the event, None where it changed none. `waived` maps the rules that were waived to
    what they found. `evidence` is the digest of the promoted version's evidence, empty where there is none.
    """

    time: str
    event: Event
    version: int
    digest: str
    model: str = ""
    previous: int | None = None
    retired: dict[int, str] = {}
    retired_models: dict[int, str] = {}
    run_id: str = ""
    blessing: str = ""
    evidence: str = ""
    verdict: str = ""
    server: str = ""
    impure: tuple[Impurity, ...] = ()
    labels: dict[str, int] | None = None
    waived: dict[Rule, str] = {}
    reason: str = ""
    by: str = ""
