"""A user's own tf.Module with a training step of its own: the README's other example."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tasks.user_code.model import Objects

DATA: tuple[str, ...] = ()


class Affine(tf.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = tf.Variable(0.0, name="v")
        self.b = tf.Variable(0.0, name="v")  # two of one name, as in many a program

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def serve(self, x: Any) -> Any:
        return {"y": self.w * x + self.b}

    @tf.function
    def train(self, x: Any, target: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self.serve(x)["y"] - target) ** 2)
        for variable, gradient in zip((self.w, self.b), tape.gradient(loss, (self.w, self.b)), strict=True):
            variable.assign_sub(0.05 * gradient)
        return {"loss": loss}


class Line:
    hyperparameters = {"steps": 40, "pause": 0.0, "stop_at": 0}

    def build(self, hyperparameters: Any) -> Objects:
        line = Affine()
        return Objects(line, {"serving_default": line.serve}, train_step=lambda batch: line.train(**batch))

    def batches(self, start: int, hyperparameters: Any) -> Iterator[dict[str, Any]]:
        for step in range(start + 1, 10**9):
            if hyperparameters["stop_at"] == step:
                raise RuntimeError("told to stop here")
            time.sleep(float(hyperparameters["pause"]))
            x = np.random.default_rng(step).uniform(-1, 1, 16).astype(np.float32)
            yield {"x": x, "target": 3 * x + 1}

    def validation(self) -> dict[str, Any]:
        return {}

    def probe(self) -> dict[str, dict[str, Any]]:
        return {"serving_default": {"x": np.linspace(-2, 2, 10, dtype=np.float32)}}


class Doubling(Line):
    """A graph function alone, without variables."""

    hyperparameters = {"steps": 0}

    def build(self, hyperparameters: Any) -> Objects:
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
        def double(x: Any) -> Any:
            return {"y": 2.0 * x}

        return Objects(signatures={"serving_default": double})
