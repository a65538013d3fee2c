"""What clients would feel of a change of versions."""

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

    `traffic` says what was sent, `failures` are the first errors, `switch_seconds` runs from the rename of the new version
    to its being AVAILABLE and the old one gone (None: it did not come to that), `load_seconds` from its being noticed to
    its being AVAILABLE. `ended` is what the server said of it where its load failed.
    """

    previous: int
    version: int
    traffic: str
    phases: tuple[Phase, ...]
    failures: tuple[str, ...]
    switch_seconds: float | None
    load_seconds: float | None = None
    ended: str = ""


class Rehearsal(Record):
    """A rehearsed change of versions, or why there was none (`note`): then `passed` is None, and no pass."""

    identity: RuntimeIdentity
    switch: Switch | None = None
    peak_memory: int | None = None
    checks: tuple[Check, ...] = ()
    note: str = ""
    passed: bool | None = None
