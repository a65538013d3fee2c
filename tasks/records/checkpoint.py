"""Which checkpoint was pinned, and what restoring it showed."""

from __future__ import annotations

from typing import Any

from tasks.records.base import Record
from tasks.records.baseline import TensorFact
from tasks.records.coverage import Coverage
from tasks.records.evaluation import Evaluation, ProbeWorth
from tasks.records.parity import ParityReport


class PinnedCheckpoint(Record):
    """One checkpoint made an artifact. `prefix` is the stem of its files in that artifact."""

    step: int
    prefix: str
    chosen: str
    available: tuple[int, ...]
    metrics: dict[str, float]
    tensors: tuple[TensorFact, ...]


class RestoreReport(Record):
    """What a restore in a fresh process, from a moved copy, gave.

    `hidden` says whether the original was out of the process's reach; `one_more_step` is `passed`, or says why one
    more training step was not tried. `worth` is what the probe would not show, None where the outputs differ;
    `evaluation` the quality on labelled data, where there are any.
    """

    step: int
    coverage: Coverage
    parity: ParityReport
    hidden: bool
    hyperparameters: dict[str, Any]
    global_step: int | None
    train_op: str | None
    one_more_step: str
    worth: ProbeWorth | None = None
    evaluation: Evaluation | None = None
