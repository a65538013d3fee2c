"""A user's own Keras model: the README's example."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from tasks.user_code.model import Objects

DATA: tuple[str, ...] = ()


def drawn(seed: int, rows: int = 32) -> dict[str, Any]:
    """Flowers of three kinds, told apart by four lengths."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, rows)
    return {"x": (rng.normal(size=(rows, 4)) + kind[:, None]).astype(np.float32), "y": kind}


class Flowers:
    hyperparameters = {"steps": 40, "learning_rate": 0.05}

    def build(self, hyperparameters: Any) -> Objects:
        model = keras.Sequential(
            [
                keras.Input((4,), name="lengths"),
                keras.layers.Dense(16, activation="relu"),
                keras.layers.BatchNormalization(momentum=0.8),
                keras.layers.Dropout(0.2),
                keras.layers.Dense(3, name="scores"),
            ]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(hyperparameters["learning_rate"]), loss, metrics=["accuracy"])
        return Objects(model)

    def batches(self, start: int, hyperparameters: Any) -> Iterator[dict[str, Any]]:
        while True:
            yield drawn(start)
            start += 1

    def validation(self) -> dict[str, Any]:
        return drawn(10**6, rows=200)

    def probe(self) -> dict[str, dict[str, Any]]:
        return {"serving_default": {"lengths": drawn(10**7, rows=50)["x"]}}
