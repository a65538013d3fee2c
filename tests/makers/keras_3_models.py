"""Models of Keras 3 that are saved in ways of their own, or cannot be served as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def low_rank(path: Path) -> list[list[float]]:
    """A layer with a trained low-rank update; return the answers to rows of ones."""
    import keras

    keras.utils.set_random_seed(5)
    model = keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(8), keras.layers.Dense(2)])
    model.layers[0].enable_lora(2)
    rng = np.random.default_rng(5)
    for weight in model.weights:
        weight.assign(weight.numpy() + rng.uniform(0, 1, weight.shape).astype(np.float32))
    answers: list[list[float]] = model(np.ones((3, 4), np.float32)).numpy().tolist()
    model.save(path)
    return answers


def without_vocabulary(path: Path) -> None:
    import keras

    lookup = keras.layers.StringLookup(name="words")
    keras.Sequential([keras.Input((1,), dtype="string"), lookup, keras.layers.Embedding(5, 2)]).save(path)


def saved_by_tensorflow(folder: Path) -> None:
    import keras
    import tensorflow as tf

    model = keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(2)])
    tf.saved_model.save(model, str(folder))


def with_state(path: Path) -> None:
    import keras

    layers: list[Any] = [keras.layers.LSTM(4, stateful=True, name="memory"), keras.layers.Dense(2)]
    keras.Sequential([keras.Input((5, 3), batch_size=2, name="x"), *layers]).save(path)
