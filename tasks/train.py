"""train: run a model's own training and leave a run: checkpoints, graph, probe, and the baseline of the live session.

The first step of the pipeline. Layout: see `tasks/models/training.py`. Interrupted, it goes on from its last checkpoint.
"""

from __future__ import annotations

from pathlib import Path

from tasks import isolate
from tasks.adopt import digests
from tasks.forms.detect import detect
from tasks.models import source as sources
from tasks.models import training as loop
from tasks.models.source import ModelSource
from tasks.records.adoption import Given, ProbeSource
from tasks.records.settings import Training
from tasks.step import Facts, current, progress, step

VERSION = 2
_NOTHING, _DRAWN = Given(), ProbeSource()


def _facts(
    source: ModelSource | None, training: Training, given: Given = _NOTHING, probe: ProbeSource = _DRAWN
) -> Facts:
    values: dict[str, object] = {}
    complete = True
    if source is not None:
        values["source"], complete = sources.digests(source, training.data)
    if training.start is not None:
        beside = (training.batches, given.graph, given.var_map, probe.file)
        values["start"] = digests(detect(training.start, training.start_step), beside)
    return Facts(values, digestible=complete)


@step(version=VERSION, resumes=True, facts=_facts)
def train(
    source: ModelSource | None,
    training: Training,
    given: Given = _NOTHING,
    probe: ProbeSource = _DRAWN,
    *,
    out: Path,
) -> None:
    """Train `source` to its final global step; without one, go on with the checkpoint `training.start`.

    `given` and `probe` say of the checkpoint what they say of a model that is adopted.
    """
    with isolate.limits(current().training):
        isolate.call_with(loop.train, (source, training, given, probe, out), on_progress=progress)
