"""The body of `training_script.py` with a head of its own, as a user who fine-tunes writes it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tasks.user_code.model import Graph, SignatureTensors

DATA: tuple[str, ...] = ()


class Classifier:
    """Three classes; the body is frozen, the head is trained with Adam."""

    hyperparameters: Mapping[str, Any] = {"steps": 20, "width": 4, "head": "classes", "pause": 0.0}

    def build(self, hyperparameters: Mapping[str, Any]) -> Graph:
        import tensorflow as tf

        v1 = tf.compat.v1
        self.pause = float(hyperparameters["pause"])
        width = int(hyperparameters["width"])
        x = v1.placeholder(tf.float32, [None, 3], name="x")
        label = v1.placeholder(tf.int64, [None], name="label")
        w = v1.get_variable("body/w", [3, width], initializer=v1.zeros_initializer())
        out = v1.get_variable(f"{hyperparameters['head']}/out", [width, 3], initializer=v1.zeros_initializer())
        scores = tf.matmul(tf.nn.relu(tf.matmul(x, w)), out, name="scores")
        loss = v1.losses.sparse_softmax_cross_entropy(label, scores)
        step = v1.train.get_or_create_global_step()
        train_op = v1.train.AdamOptimizer(0.05).minimize(loss, global_step=step, var_list=[out])
        return Graph({"serving_default": SignatureTensors({"x": x}, {"scores": scores})}, train_op, loss, step)

    def batches(self, start: int, hyperparameters: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        while True:
            start += 1
            time.sleep(self.pause)
            x = np.random.default_rng(start).normal(size=(8, 3)).astype(np.float32)
            yield {"x:0": x, "label:0": np.argmax(x, axis=1)}

    def validation(self) -> Mapping[str, Any]:
        return {}

    def probe(self) -> Mapping[str, Mapping[str, Any]]:
        return {"serving_default": {"x": np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)}}
