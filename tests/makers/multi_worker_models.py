"""Models that several workers may train together, and models that they may not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tasks.user_code.model import Objects

DATA: tuple[str, ...] = ()


def drawn(step: int, rows: int = 16) -> dict[str, Any]:
    x = np.random.default_rng(step).uniform(-1, 1, (rows, 3)).astype(np.float32)
    return {"x": x, "y": (x @ [[3.0], [-1.0], [0.5]] + 1 + 0.1 * x[:, :1] ** 3).astype(np.float32)}


class Affine(tf.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w, self.b = tf.Variable(tf.ones([3, 1])), tf.Variable(0.0)

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
    def serve(self, x: Any) -> Any:
        return {"y": tf.matmul(x, self.w) + self.b}


class Module:
    """A step of one's own, whose tf.function applies the gradients."""

    hyperparameters = {"steps": 15, "rate": 0.1, "pause": 0.0, "rows": 16}

    def build(self, hyperparameters: Any) -> Objects:
        module, optimizer = Affine(), keras.optimizers.SGD(hyperparameters["rate"], momentum=0.5)

        @tf.function
        def train_step(x: Any, y: Any) -> Any:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((module.serve(x)["y"] - y) ** 2)
                shared = loss / tf.distribute.get_strategy().num_replicas_in_sync
            variables = module.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(shared, variables), variables, strict=True))
            return {"loss": loss}

        def evaluate(batch: Any) -> Any:
            return {"error": float(tf.reduce_max(tf.abs(module.serve(batch["x"])["y"] - batch["y"])))}

        return Objects(
            module,
            {"serving_default": module.serve},
            train_step=lambda batch: train_step(**batch),
            evaluate=evaluate,
            trackables={"optimizer": optimizer},
        )

    def batches(self, start: int, hyperparameters: Any) -> Iterator[dict[str, Any]]:
        for step in range(start, 10**9):
            time.sleep(float(hyperparameters["pause"]))
            yield drawn(step, hyperparameters["rows"])

    def validation(self) -> dict[str, Any]:
        return drawn(10**6, rows=33)

    def probe(self) -> dict[str, dict[str, Any]]:
        return {"serving_default": {"x": drawn(10**7, rows=10)["x"]}}


class Keras(Module):
    """Compiled, with a metric that is no mean over rows."""

    def build(self, hyperparameters: Any) -> Objects:
        model = keras.Sequential([keras.Input((3,), name="x"), keras.layers.Dense(4, "tanh"), keras.layers.Dense(1)])
        error = keras.metrics.RootMeanSquaredError(name="error")
        model.compile(keras.optimizers.SGD(hyperparameters["rate"], momentum=0.5), "mse", metrics=[error])
        return Objects(model)


class Normalised(Module):
    """With statistics that each worker gathers from its own rows, Adam's slots and dropout's random state."""

    def build(self, hyperparameters: Any) -> Objects:
        layers = [keras.layers.Dense(4), keras.layers.BatchNormalization(), keras.layers.Dropout(0.2)]
        model = keras.Sequential([keras.Input((3,), name="x"), *layers, keras.layers.Dense(1)])
        model.compile(keras.optimizers.Adam(hyperparameters["rate"]), "mse", metrics=["mae"])
        return Objects(model)


class Apart(Module):
    """A step that exchanges no gradients."""

    def build(self, hyperparameters: Any) -> Objects:
        module = Affine()

        def train_step(batch: Any) -> Any:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((module.serve(batch["x"])["y"] - batch["y"]) ** 2)
            module.b.assign_sub(0.1 * tape.gradient(loss, module.b))
            return {"loss": loss}

        return Objects(module, {"serving_default": module.serve}, train_step=train_step)
