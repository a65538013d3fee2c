"""train: run a model's own training and leave a training run: checkpoints, graph, probe, and the live model's baseline.

The first step of the pipeline. Layout: see `tasks/baseline/training_run.py`. If interrupted, it resumes from its last
checkpoint. Where TF_CONFIG names several workers, the chief's training is the step; a non-chief worker keeps nothing.
"""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path

from tasks import isolate
from tasks.adoption.digests import digests
from tasks.errors import ChildFailed
from tasks.forms.detect import detect
from tasks.records.adoption import ModelOptions, ProbeSource
from tasks.records.run import StepState
from tasks.records.settings import Training
from tasks.step import Facts, action, current, progress, step
from tasks.training import cluster as clusters
from tasks.training import train as trainings
from tasks.user_code import source as sources
from tasks.user_code.source import ModelSource

VERSION = 3
_NOTHING, _DRAWN = ModelOptions(), ProbeSource()


def _facts(
    source: ModelSource | None, training: Training, given: ModelOptions = _NOTHING, probe: ProbeSource = _DRAWN
) -> Facts:
    values: dict[str, object] = {}
    complete = True
    if source is not None:
        values["source"], complete = sources.digests(source, training.data)
    if training.start is not None:
        options = (training.batches, given.graph, given.var_map, probe.file)
        values["start"] = digests(detect(training.start, training.start_step), options, current().store.hashes)
    if (cluster := current().cluster).several:
        values["workers"] = len(cluster.workers)  # sums over their rows are rounded differently
    return Facts(values, digestible=complete)


@step(version=VERSION, resumes=True, facts=_facts)
def train(
    source: ModelSource | None,
    training: Training,
    given: ModelOptions = _NOTHING,
    probe: ProbeSource = _DRAWN,
    *,
    out: Path,
) -> None:
    """Train `source` to its final global step; without a source, continue the checkpoint `training.start`.

    `given` and `probe` apply to that checkpoint as to a source model that is adopted.
    """
    _in_child(source, training, given, probe, out)


def assist(source: ModelSource | None, training: Training, given: ModelOptions, probe: ProbeSource) -> None:
    """Train as a non-chief worker: without the store's lock, and without an artifact.

    Its files are deleted. It is shown as the step in which it takes part.
    """

    @action
    def train() -> tuple[None, StepState]:
        staging = current().store.staging("train", "")  # where `tfship gc` finds it if this is killed
        staging.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=staging, prefix=f"worker-{current().cluster.index}-") as scratch:
            try:
                _in_child(source, training, given, probe, Path(scratch))
            except ChildFailed as error:
                error.where = f"train, {current().cluster}"  # a child names its function, which means nothing to a user
                raise
        return None, StepState.ASSISTED

    train()


def _in_child(
    source: ModelSource | None, training: Training, given: ModelOptions, probe: ProbeSource, out: Path
) -> None:
    cluster = current().cluster
    try:
        with isolate.limits(current().training):
            isolate.call_with(trainings.train, (source, training, given, probe, cluster, out), on_progress=progress)
    except ChildFailed as error:
        if cluster.several and error.exit == -signal.SIGALRM:
            raise clusters.missing(cluster) from error
        raise
