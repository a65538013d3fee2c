"""Training in a child: in graph mode or object mode by a model's own code, or of a checkpoint in its own graph.

Layout: see `tasks/baseline/training_run.py`.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

from tasks.errors import UsageError
from tasks.records.adoption import ModelOptions, ProbeSource
from tasks.records.cluster import Cluster
from tasks.records.settings import Training
from tasks.training import cluster as clusters
from tasks.training import continue_checkpoint, graph_mode, object_mode
from tasks.user_code import objects
from tasks.user_code import source as sources
from tasks.user_code.source import ModelSource


def train(
    source: ModelSource | None, training: Training, given: ModelOptions, probe: ProbeSource, cluster: Cluster, out: Path
) -> None:
    """Train to the final global step, from the last complete checkpoint in `out` if there is one.

    Without a `source`, the checkpoint `training.start` is continued; `given` and `probe` apply to it. If `cluster` has
    several workers, each calls this with a folder of its own; all resume from the chief's, and leave the same files.

    Raises:
        PipelineError: the model's code lacks something.
        UsageError: several workers cannot train this, or a setting does not apply.
        Others: see `continue_checkpoint.train` and `fine_tune.begin`.
    """
    import numpy as np

    random.seed(training.seed)
    np.random.seed(training.seed)
    if cluster.text:  # no other child has it
        os.environ["TF_CONFIG"] = cluster.text
    if source is None:
        _require_unset(training, ("hyperparameters", "data", "restore"), "no setting for Python code")
        if training.start is None:
            raise UsageError("train", "a model's code, or a checkpoint to continue (--from)", "neither", "give one.")
        clusters.require_alone(cluster, "a checkpoint that is continued in its own graph")
        continue_checkpoint.train(given, probe, training, out)
        return
    inapplicable = ("batches", "train_op", "loss") if training.start else ("batches", "train_op", "loss", "restore")
    _require_unset(training, inapplicable, "no setting for a checkpoint without code (--from)")
    with sources.importable(source) as model_class:
        model = model_class()
    hyperparameters = {**getattr(model, "hyperparameters", {}), **training.hyperparameters}
    steps = int(training.steps if training.steps is not None else hyperparameters.get("steps", 0))
    _require_members(model, source, ("build", "probe", *(("batches",) if steps else ())))
    if not objects.expected(model):
        clusters.require_alone(cluster, "a model that builds a TF1 graph")
        graph_mode.train(model, source, training, given, out, steps, hyperparameters)
    elif training.start is None:
        object_mode.train(model, source, training, given, cluster, out, steps, hyperparameters)
    else:
        remedy = "load the values in its build(): tf.train.Checkpoint(…).read(…), or load_weights(…)."
        raise UsageError(
            f"--from {training.start}", "a model that builds a TF1 graph", "a model of live objects", remedy
        )


def _require_members(model: object, source: ModelSource, members: tuple[str, ...]) -> None:
    if missing := [name for name in members if not hasattr(model, name)]:
        where, remedy = f"{source.module}:{source.attribute}", "write them as in README, Your own model."
        raise UsageError(where, f"a class with {', '.join(members)}", f"no {' and no '.join(missing)}", remedy)


def _require_unset(training: Training, names: tuple[str, ...], expected: str) -> None:
    for name in names:
        if getattr(training, name):
            raise UsageError(f"training.{name}", expected, str(getattr(training, name)), "leave it out.")
