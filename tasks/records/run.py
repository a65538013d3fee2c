"""What a run did: the outcome of each step, and the document that `tfship run --json` prints."""

from __future__ import annotations

from enum import StrEnum

from tasks.records.adoption import Adopted
from tasks.records.base import Record
from tasks.records.cost import Cost
from tasks.records.evaluation import Evaluation, ProbeWorth
from tasks.records.parity import ParityRow, ParityTest
from tasks.records.rehearsal import RehearsalSummary
from tasks.records.release import Rule
from tasks.records.serving import ServerVerdict, SmokeReport


class StepState(StrEnum):
    """The end of a step; `assisted` is training whose model another worker, the chief, keeps."""

    BUILT = "built"
    CACHED = "cached"
    FAILED = "failed"
    SKIPPED = "skipped"
    UNCHANGED = "unchanged"
    HELD = "held"
    ASSISTED = "assisted"


class StepSummary(Record):
    """One step of a run, and what its processes took: the part of the flow's own that it needed, and each child."""

    name: str
    state: StepState
    seconds: float
    artifact: str | None = None
    digest: str | None = None
    costs: tuple[Cost, ...] = ()

    @property
    def peak(self) -> int:
        """The resident memory of its largest process, in bytes; 0 where that is not known."""
        return max((cost.peak or 0 for cost in self.costs), default=0)

    @property
    def read(self) -> int:
        """Bytes that all its processes read."""
        return sum(cost.read for cost in self.costs)

    @property
    def written(self) -> int:
        """Bytes that all its processes wrote."""
        return sum(cost.written for cost in self.costs)


class StepOutcome(StepSummary):
    """One step of a run, with the first line of its error or the reason why it was skipped."""

    message: str = ""


class PromotionSummary(Record):
    """The result of a promotion. `outcome` is promoted, labelled (a version that was there), unchanged, held or skipped.

    `labels` are all version labels afterwards, None where there are none, `waived` what rules found that were waived.
    """

    name: str
    version: int | None = None
    path: str | None = None
    previous: int | None = None
    outcome: str
    labels: dict[str, int] | None = None
    waived: dict[Rule, str] = {}


class Promotion(PromotionSummary):
    """The result of a promotion, with the digest of the model and the server that confirmed it."""

    digest: str | None = None
    confirmed_by: str = ""


class ParitySummary(Record):
    """One comparison, without the place of its worst difference."""

    candidate: str
    signature: str
    output: str
    test: ParityTest
    max_abs: float
    max_rel: float
    noise: float | None = None
    limit: float | None = None
    mismatched: int
    passed: bool | None

    @classmethod
    def of(cls, row: ParityRow) -> ParitySummary:
        """Return the summary of a row."""
        return cls(**{name: getattr(row, name) for name in cls.model_fields})


class LatencySummary(Record):
    """Latency of the first set-up, in milliseconds."""

    p50: float
    p99: float


class SmokeSummary(Record):
    """The result of a smoke test."""

    runtime: str
    image: str | None
    load_seconds: float
    latency_ms: LatencySummary | None
    passed: bool
    verdict: str

    @classmethod
    def of(cls, smoke: SmokeReport) -> SmokeSummary:
        """Return the summary of a report, with the times of its first set-up."""
        first = smoke.rounds[0]
        latency = first.latency[0] if first.latency else None
        return cls(
            runtime=smoke.identity.runtime,
            image=smoke.identity.image,
            load_seconds=first.load_seconds,
            latency_ms=LatencySummary(p50=latency.p50, p99=latency.p99) if latency else None,
            passed=smoke.passed,
            verdict=smoke.verdict,
        )


class QualitySummary(Record):
    """Quality on labelled rows, and the sensitivity of the probe."""

    evaluation: Evaluation | None
    probe: ProbeWorth | None


class RunSummary(Record):
    """The JSON document of a run. `reproduction` is the script that repeats its refusal."""

    run_id: str
    name: str
    steps: tuple[StepSummary, ...]
    parity: tuple[ParitySummary, ...]
    smoke: SmokeSummary | None
    promotion: PromotionSummary | None
    report: str | None
    adopted: Adopted | None = None
    quality: QualitySummary | None = None
    notes: tuple[str, ...] = ()
    servers: tuple[ServerVerdict, ...] = ()
    rehearsal: RehearsalSummary | None = None
    reproduction: str | None = None
