"""A model that trains in milliseconds a step, and can be made slow, random or broken."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tasks.user_code.model import Graph, SignatureTensors

DATA: tuple[str, ...] = ()


class Line:
    """y = w*x + b by gradient descent, w and b from 0."""

    hyperparameters: Mapping[str, Any] = {
        "steps": 40,
        "rate": 0.05,
        "pause": 0.0,
        "stop_at": 0,
        "noise": 0.0,
        "fill": 0.0,
    }

    def build(self, hyperparameters: Mapping[str, Any]) -> Graph:
        import tensorflow as tf

        self.told = hyperparameters
        v1 = tf.compat.v1
        x = v1.placeholder(tf.float32, [None], name="x")
        target = v1.placeholder(tf.float32, [None], name="target")
        w = v1.get_variable("w", initializer=0.0)
        b = v1.get_variable("b", initializer=float(hyperparameters["fill"]))
        v1.get_variable("unused", initializer=1.0)
        y = w * x + b
        if hyperparameters["noise"]:
            y += tf.random.normal(tf.shape(x)) * float(hyperparameters["noise"])
        y = tf.identity(y, name="y")
        loss = tf.reduce_mean((y - target) ** 2, name="loss")
        step = v1.train.get_or_create_global_step()
        train_op = v1.train.GradientDescentOptimizer(float(hyperparameters["rate"])).minimize(
            loss, global_step=step, name="train_op"
        )
        return Graph(
            signatures={"serving_default": SignatureTensors({"x": x}, {"y": y})},
            train_op=train_op,
            loss=loss,
            global_step=step,
            metrics={"nearness": 1.0 / (1.0 + loss)},
        )

    def batches(self, start: int, hyperparameters: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        step = start
        while True:
            step += 1
            if hyperparameters["stop_at"] == step:
                raise RuntimeError("told to stop here")
            time.sleep(float(hyperparameters["pause"]))
            x = np.random.default_rng(step).uniform(-1, 1, 16).astype(np.float32)
            yield {"x:0": x, "target:0": 3 * x + 1}

    def validation(self) -> Mapping[str, Any]:
        x = np.linspace(-1, 1, 9, dtype=np.float32)
        return {"x:0": x, "target:0": 3 * x + 1}

    def probe(self) -> Mapping[str, Mapping[str, Any]]:
        return {"serving_default": {"x": np.linspace(-2, 2, 10, dtype=np.float32)}}
