"""The smallest checkpoint: A = [3, 3] and B = [5, 5, 5], saved under names that are not the Python names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from tasks.tensors.tensor_file import Array
from tasks.user_code.model import Graph, HyperParameters, SignatureTensors

DATA: tuple[str, ...] = ()


class TwoVariables:
    """Two reference variables, as TF1 made them: `x: float32[batch]` to `a: float32[batch, 2]`, `b: float32[batch, 3]`."""

    hyperparameters: HyperParameters = {"steps": 0}

    def build(self, hyperparameters: HyperParameters) -> Graph:
        """Build the graph of a = A*x and b = B*x, whose variables are named `first/threes` and `second/fives`."""
        import tensorflow as tf

        v1 = tf.compat.v1
        x = v1.placeholder(tf.float32, [None], name="x")
        column = tf.expand_dims(x, 1)
        threes = v1.get_variable("first/threes", initializer=tf.fill([2], 3.0), use_resource=False)
        fives = v1.get_variable("second/fives", initializer=tf.fill([3], 5.0), use_resource=False)
        a = tf.multiply(column, threes, name="a")
        b = tf.multiply(column, fives, name="b")
        return Graph(signatures={"serving_default": SignatureTensors({"x": x}, {"a": a, "b": b})})

    def batches(self, start: int, hyperparameters: HyperParameters) -> Iterator[Mapping[str, Array]]:
        """Return no batches: nothing is trained."""
        return iter(())

    def validation(self) -> Mapping[str, Array]:
        """Return no validation data."""
        return {}

    def probe(self) -> Mapping[str, Mapping[str, Array]]:
        """Return ten numbers."""
        return {"serving_default": {"x": np.arange(10, dtype=np.float32)}}
