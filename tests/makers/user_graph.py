"""The network of `one_network_in_every_form.py` as user code: the graph for a checkpoint that has none."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tasks.user_code.model import Graph, SignatureTensors

DATA: tuple[str, ...] = ()


class Mine:
    hyperparameters: dict[str, Any] = {}

    def build(self, hyperparameters: Any) -> Graph:
        v1 = tf.compat.v1
        with v1.variable_scope("net"):
            x = v1.placeholder(tf.float32, [None, 3], name="x")
            w = v1.get_variable("w", [3, 4])
            b = v1.get_variable("b", [4])
            out = v1.get_variable("out", [4, 2])
            y = tf.matmul(tf.nn.relu(tf.matmul(x, w) + b), out, name="y")
        return Graph({"serving_default": SignatureTensors({"x": x}, {"y": y})})
