"""y = x/2 + 2: exact in every form, and quick to build."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from tasks.tensors.tensor_file import Array
from tasks.user_code.model import Graph, HyperParameters, SignatureTensors

DATA: tuple[str, ...] = ()


class HalfPlusTwo:
    """Two resource variables and no training: `x: float32[batch]` to `y: float32[batch]`."""

    hyperparameters: HyperParameters = {"steps": 0}

    def build(self, hyperparameters: HyperParameters) -> Graph:
        """Build the graph of y = a*x + b."""
        import tensorflow as tf

        v1 = tf.compat.v1
        x = v1.placeholder(tf.float32, [None], name="x")
        a = v1.get_variable("a", initializer=0.5, use_resource=True)
        b = v1.get_variable("b", initializer=2.0, use_resource=True)
        y = tf.add(a * x, b, name="y")
        return Graph(signatures={"serving_default": SignatureTensors({"x": x}, {"y": y})})

    def batches(self, start: int, hyperparameters: HyperParameters) -> Iterator[Mapping[str, Array]]:
        """Return no batches: nothing is trained."""
        return iter(())

    def validation(self) -> Mapping[str, Array]:
        """Return no validation data."""
        return {}

    def probe(self) -> Mapping[str, Mapping[str, Array]]:
        """Return fifty numbers in steps of one half."""
        return {"serving_default": {"x": np.linspace(-10, 14.5, 50, dtype=np.float32)}}
