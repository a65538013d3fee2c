"""A pinned checkpoint, and the report of restoring it."""

from __future__ import annotations

from typing import Any

from tasks.records.base import Record
from tasks.records.baseline import TensorFact
from tasks.records.coverage import Coverage
from tasks.records.evaluation import Evaluation, ProbeWorth
from tasks.records.parity import Noise, ParityReport


class PinnedCheckpoint(Record):
    """A checkpoint in an artifact of its own. `prefix` is the stem of its files in that artifact."""

    step: int
    prefix: str
    chosen: str
    available: tuple[int, ...]
    metrics: dict[str, float]
    tensors: tuple[TensorFact, ...]


class RestoreReport(Record):
    """The result of a restore in a fresh process, from a moved copy.

    `hidden` is True if the original was out of the process's reach; `one_more_step` is `passed`, or says why one more
    training step was not tried. `noise` says of each float output how far it may always be rounded, or what was measured. `worth` is the sensitivity
    of the probe, None where the outputs differ; `evaluation` is the quality on labelled data, if there are any.
    """

    step: int
    coverage: Coverage
    parity: ParityReport
    hidden: bool
    hyperparameters: dict[str, Any]
    global_step: int | None
    train_op: str | None
    one_more_step: str
    noise: tuple[Noise, ...] = ()
    worth: ProbeWorth | None = None
    evaluation: Evaluation | None = None
