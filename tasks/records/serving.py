"""What is known of a model server, and what a smoke test found."""

from __future__ import annotations

from tasks.records.base import Record
from tasks.records.parity import ParityReport


class Endpoint(Record):
    """Where a server listens: `grpc` as host:port, `rest` as http://host:port."""

    grpc: str
    rest: str


class Exit(Record):
    """How a server ended: its exit code, or minus the signal that killed it."""

    code: int
    oom_killed: bool = False


class RuntimeIdentity(Record):
    """Which server answered. `stand_in` is True for our own server, whose pass is never called plainly passed."""

    runtime: str
    version: str
    stand_in: bool
    image: str | None = None
    image_digest: str | None = None


class Latency(Record):
    """Milliseconds over `requests` requests."""

    protocol: str
    batch: int
    requests: int
    p50: float
    p90: float
    p99: float


class RefusalCheck(Record):
    """A request that must be refused, and how it was answered."""

    protocol: str
    case: str
    expected: str
    answered: str
    passed: bool


class SmokeReport(Record):
    """What a server made of the model.

    `load_seconds` runs from the start of the server to AVAILABLE, `peak_memory` is resident bytes.
    """

    identity: RuntimeIdentity
    version: int
    load_seconds: float
    peak_memory: int | None
    parity: ParityReport
    signatures_match: bool
    refusals: tuple[RefusalCheck, ...]
    latency: tuple[Latency, ...]
    warmup: str
    passed: bool

    @property
    def verdict(self) -> str:
        """`passed`, `passed (stand-in)` or `refused`."""
        if not self.passed:
            return "refused"
        return "passed (stand-in)" if self.identity.stand_in else "passed"
