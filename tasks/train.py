"""train: run a model's own training and leave a run: checkpoints, graph, probe, and the baseline of the live session.

The first step of the pipeline. Layout: see `tasks/models/training.py`. Interrupted, it goes on from its last checkpoint.
"""

from __future__ import annotations

from pathlib import Path

from tasks import isolate
from tasks.models import source as sources
from tasks.models import training as loop
from tasks.models.source import ModelSource
from tasks.records.settings import Training
from tasks.step import Facts, current, progress, step

VERSION = 1


def _facts(source: ModelSource, training: Training) -> Facts:
    found, complete = sources.digests(source, training.data)
    return Facts({"source": found}, digestible=complete)


@step(version=VERSION, resumes=True, facts=_facts)
def train(source: ModelSource, training: Training, out: Path) -> None:
    """Train `source` to its final global step."""
    with isolate.limits(current().training):
        isolate.call_with(loop.train, (source, training, out), on_progress=progress)
