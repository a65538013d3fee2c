"""Training a model of one's own, in a child: seeds, its code, and the flavour that its `build` asks for.

Layout of the run's folder: see `loop.py`.
"""

from __future__ import annotations

import random
from pathlib import Path

from tasks.models import cluster, graph_training, object_training, objects
from tasks.models import source as sources
from tasks.models.source import ModelSource
from tasks.records.settings import Training


def train(source: ModelSource, training: Training, out: Path) -> None:
    """Train to the final global step, going on from the last whole checkpoint that `out` holds.

    Raises:
        PipelineError: the model's code does not say what it must.
        UsageError: TF_CONFIG is no cluster's, or names several workers.
    """
    import numpy as np

    random.seed(training.seed)
    np.random.seed(training.seed)
    cluster.require_alone(cluster.read())
    with sources.importable(source) as model_class:
        model = model_class()
    hyperparameters = {**model.hyperparameters, **training.hyperparameters}
    steps = int(training.steps if training.steps is not None else hyperparameters.get("steps", 0))
    if objects.expected(model):
        object_training.train(model, source, training, out, steps, hyperparameters)
    else:
        graph_training.train(model, source, training, out, steps, hyperparameters)
