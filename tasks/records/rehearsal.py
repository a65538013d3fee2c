"""A rehearsed change of versions, as clients would see it."""

from __future__ import annotations

from tasks.records.base import Record
from tasks.records.serving import Check, RuntimeIdentity


class Phase(Record):
    """Steady traffic before, during or after the change: `requests` sent, `failed` of them, p50 and p99 in ms."""

    name: str
    seconds: float
    requests: int
    failed: int
    p50: float | None
    p99: float | None


class Switch(Record):
    """A change from version `previous` to `version` under traffic, as clients saw it.

    `traffic` describes the requests, `failures` are the first errors, `switch_seconds` is the time from the rename of the
    new version until it is AVAILABLE and the old one unloaded (None if that did not happen), `load_seconds` the time from
    its detection until it is AVAILABLE. `ended` is the error that the server reported if the load failed. `turned_away`
    counts attempts that a full server turned away and that were sent again.
    """

    previous: int
    version: int
    traffic: str
    phases: tuple[Phase, ...]
    failures: tuple[str, ...]
    switch_seconds: float | None
    load_seconds: float | None = None
    ended: str = ""
    turned_away: int = 0


class RehearsalSummary(Record):
    """A rehearsed change of versions, or the reason why there was none (`note`); then `passed` is None."""

    switch: Switch | None = None
    peak_memory: int | None = None
    checks: tuple[Check, ...] = ()
    note: str = ""
    passed: bool | None = None


class Rehearsal(RehearsalSummary):
    """A rehearsed change of versions, with the server in which it was rehearsed."""

    identity: RuntimeIdentity
