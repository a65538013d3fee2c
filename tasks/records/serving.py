"""Model servers, and the results of a smoke test."""

from __future__ import annotations

from enum import StrEnum

from tasks.records.base import Record
from tasks.records.parity import ParityReport


class Endpoint(Record):
    """The addresses of a server: `grpc` as host:port, `rest` as http://host:port."""

    grpc: str
    rest: str


class Exit(Record):
    """The end of a server: its exit code, or minus the signal that killed it."""

    code: int
    oom_killed: bool = False


class RuntimeIdentity(Record):
    """The identity of a server. `stand_in` is True for the embedded server, whose pass is never called just `passed`."""

    runtime: str
    version: str
    stand_in: bool
    image: str | None = None
    image_digest: str | None = None

    @property
    def called(self) -> str:
        """Return its name for a message."""
        return self.image or f"{self.runtime} server"

    @property
    def exactly(self) -> str:
        """Return its name for a record: the image with its digest, or the runtime with its version."""
        return f"{self.image}@{self.image_digest}" if self.image_digest else f"{self.runtime} {self.version}"


class Latency(Record):
    """Latency in milliseconds of `requests` requests of `batch` rows to `signature` (empty: to all in turn),
    `concurrency` of them at a time; `throughput` is in rows per second.

    `turned_away` counts attempts that a full server turned away and that were sent again; the times include them.
    """

    protocol: str
    signature: str = ""
    batch: int
    requests: int
    concurrency: int = 1
    p50: float
    p90: float
    p99: float
    throughput: float
    turned_away: int = 0


class Cause(StrEnum):
    """The cause for which a smoke test did not pass."""

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
    STRUCTURE_DIFFERS = "structure differs"
    UNSAFE = "does more than compute"
    DAMAGED = "damaged"
    NOT_REFUSED = "answered what it must refuse"
    TOO_SLOW = "too slow"
    TOO_LARGE = "too large"
    FULL = "full"
    DIED = "died during the test"


class Check(Record):
    """A check other than the comparison of outputs, with the server's answer; `cause` applies if it failed."""

    protocol: str
    case: str
    expected: str
    answered: str
    passed: bool
    cause: Cause


class Round(Record):
    """One server that was started and tested: `setup` describes its configuration.

    `load_seconds` is the time from the start of the server to AVAILABLE, `peak_memory` is in resident bytes.
    """

    setup: str
    load_seconds: float
    peak_memory: int | None
    checks: tuple[Check, ...]
    latency: tuple[Latency, ...]
    warmup: str


class ServerVerdict(Record):
    """The verdict of one server on the model, with the reason of a refusal."""

    server: str
    verdict: str
    reason: str = ""


class SmokeReport(Record):
    """The results of a smoke test in every set-up of the server."""

    identity: RuntimeIdentity
    version: int
    rounds: tuple[Round, ...]
    parity: ParityReport
    notes: tuple[str, ...] = ()
    passed: bool

    @property
    def checks(self) -> tuple[Check, ...]:
        """Return the checks of all rounds."""
        return tuple(check for one in self.rounds for check in one.checks)

    @property
    def verdict(self) -> str:
        """Return `passed`, `passed (stand-in)` or `refused`."""
        if not self.passed:
            return "refused"
        return "passed (stand-in)" if self.identity.stand_in else "passed"
