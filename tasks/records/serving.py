"""What is known of a model server, and what a smoke test found."""

from __future__ import annotations

from enum import StrEnum

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

    @property
    def called(self) -> str:
        """Its name in a message."""
        return self.image or f"{self.runtime} server"

    @property
    def exactly(self) -> str:
        """Its name in a record: the image with its digest, or the runtime with its version."""
        return f"{self.image}@{self.image_digest}" if self.image_digest else f"{self.runtime} {self.version}"


class Latency(Record):
    """Milliseconds over `requests` requests of `batch` rows to `signature` (empty: to all in turn), `concurrency` of
    them at a time; `throughput` is rows a second over all of them."""

    protocol: str
    signature: str = ""
    batch: int
    requests: int
    concurrency: int = 1
    p50: float
    p90: float
    p99: float
    throughput: float


class Cause(StrEnum):
    """Why a server's test ended without a pass."""

    DID_NOT_START = "did not start"
    CRASHED = "crashed"
    NEVER_AVAILABLE = "never AVAILABLE"
    LOAD_ERROR = "load error"
    UNKNOWN_OP = "unknown op"
    WARMUP_REFUSED = "warmup refused"
    SIGNATURE_DIFFERS = "signature differs"
    VERSION_DIFFERS = "version differs"
    ANSWER_DIFFERS = "answer differs"
    VALUE_DIFFERS = "value differs"
    UNSAFE = "does more than compute"
    DAMAGED = "damaged"
    NOT_REFUSED = "answered what it must refuse"
    TOO_SLOW = "too slow"
    TOO_LARGE = "too large"
    DIED = "died during the test"


class Check(Record):
    """One question beside the comparison of outputs, and how it was answered; `cause` is what its failure means."""

    protocol: str
    case: str
    expected: str
    answered: str
    passed: bool
    cause: Cause


class Round(Record):
    """One server that was started and asked: `setup` says how it was configured.

    `load_seconds` runs from the start of the server to AVAILABLE, `peak_memory` is resident bytes.
    """

    setup: str
    load_seconds: float
    peak_memory: int | None
    checks: tuple[Check, ...]
    latency: tuple[Latency, ...]
    warmup: str


class ServerVerdict(Record):
    """Whether one server took the model, and why not."""

    server: str
    verdict: str
    reason: str = ""


class SmokeReport(Record):
    """What a server made of the model, in every set-up it was tried in."""

    identity: RuntimeIdentity
    version: int
    rounds: tuple[Round, ...]
    parity: ParityReport
    notes: tuple[str, ...] = ()
    passed: bool

    @property
    def checks(self) -> tuple[Check, ...]:
        """The questions of every round."""
        return tuple(check for one in self.rounds for check in one.checks)

    @property
    def verdict(self) -> str:
        """`passed`, `passed (stand-in)` or `refused`."""
        if not self.passed:
            return "refused"
        return "passed (stand-in)" if self.identity.stand_in else "passed"
