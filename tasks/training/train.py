"""Training in a child: seeds, and the way that is asked for: a model's own code in its flavour, with or without a start,
or a brought checkpoint that goes on in its own graph.

Layout: see `tasks/baseline/training_run.py`.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

from tasks.errors import UsageError
from tasks.records.adoption import ModelOptions, ProbeSource
from tasks.records.settings import Training
from tasks.training import cluster as clusters
from tasks.training import continue_checkpoint, graph_mode, object_mode
from tasks.training.cluster import Cluster
from tasks.user_code import objects
from tasks.user_code import source as sources
from tasks.user_code.source import ModelSource


def train(
    source: ModelSource | None, training: Training, given: ModelOptions, probe: ProbeSource, cluster: Cluster, out: Path
) -> None:
    """Train to the final global step, going on from the last whole checkpoint that `out` holds.

    Without a `source` the checkpoint `training.start` is continued, as `given` and `probe` read it. Where `cluster` names
    several workers, each calls this with a folder of its own; they go on from what the chief's holds, and leave the same.

    Raises:
        PipelineError: the model's code does not say what it must.
        UsageError: several workers cannot train this; or the settings are for another way of training.
        Others: see `continued.train` and `fine_tuning.begin`.
    """
    import numpy as np

    random.seed(training.seed)
    np.random.seed(training.seed)
    if cluster.text:  # which the flow's process keeps from all other children
        os.environ["TF_CONFIG"] = cluster.text
    if source is None:
        _require_unset(training, ("hyperparameters", "data", "restore"), "nothing that only Python code takes")
        if training.start is None:
            raise UsageError("train", "a model's code, or a checkpoint to go on from (--from)", "neither", "give one.")
        clusters.require_alone(cluster, "a checkpoint that goes on in its own graph")
        continue_checkpoint.train(given, probe, training, out)
        return
    alone = (
        ("batches", "train_op", "loss") if training.start is not None else ("batches", "train_op", "loss", "restore")
    )
    _require_unset(training, alone, "nothing that only a checkpoint takes (--from): the model's code says it")
    with sources.importable(source) as model_class:
        model = model_class()
    hyperparameters = {**model.hyperparameters, **training.hyperparameters}
    steps = int(training.steps if training.steps is not None else hyperparameters.get("steps", 0))
    if not objects.expected(model):
        clusters.require_alone(cluster, "a model that builds a TF1 graph")
        graph_mode.train(model, source, training, given, out, steps, hyperparameters)
    elif training.start is None:
        object_mode.train(model, source, training, cluster, out, steps, hyperparameters)
    else:
        remedy = "load the values in its build(): tf.train.Checkpoint(…).read(…), or load_weights(…)."
        raise UsageError(f"--from {training.start}", "a model that builds a TF1 graph", "one of live objects", remedy)


def _require_unset(training: Training, names: tuple[str, ...], expected: str) -> None:
    for name in names:
        if getattr(training, name):
            raise UsageError(f"training.{name}", expected, str(getattr(training, name)), "leave it out.")
