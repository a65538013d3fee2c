"""Models with one unusual property each, which must not pass for proven."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tasks.examples.half_plus_two import HalfPlusTwo
from tasks.user_code.model import Graph, SignatureTensors

DATA: tuple[str, ...] = ()


def _x() -> Any:
    import tensorflow as tf

    return tf.compat.v1.placeholder(tf.float32, [None], name="x")


def _graph(x: Any, y: Any) -> Graph:
    return Graph(signatures={"serving_default": SignatureTensors({"x": x}, {"y": y})})


class Learned(HalfPlusTwo):
    """Answers from a mutable table that no SavedModel takes along; the probe does not hit it."""

    def build(self, hyperparameters: Mapping[str, Any]) -> Graph:
        import tensorflow as tf

        x = _x()
        table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, default_value=0.0)
        a = tf.compat.v1.get_variable("a", initializer=2.0)
        return _graph(x, a * x + table.lookup(tf.cast(x, tf.int64)))


class Baked(HalfPlusTwo):
    """Most of its weights are a constant."""

    def build(self, hyperparameters: Mapping[str, Any]) -> Graph:
        import tensorflow as tf

        x = _x()
        a = tf.compat.v1.get_variable("a", initializer=2.0)
        baked = tf.constant([1.0, 2.0, 3.0, 4.0], name="baked")
        return _graph(x, a * tf.reduce_sum(baked) * x)


class Scaled(HalfPlusTwo):
    """A number times its input: as many models as there are numbers."""

    hyperparameters: Mapping[str, Any] = {"factor": 2.0}

    def build(self, hyperparameters: Mapping[str, Any]) -> Graph:
        import tensorflow as tf

        x = _x()
        return _graph(x, tf.compat.v1.get_variable("factor", initializer=float(hyperparameters["factor"])) * x)


class Centred(HalfPlusTwo):
    """A row's answer depends on the other rows of its batch."""

    def build(self, hyperparameters: Mapping[str, Any]) -> Graph:
        import tensorflow as tf

        x = _x()
        a = tf.compat.v1.get_variable("a", initializer=2.0)
        return _graph(x, a * (x - tf.reduce_mean(x)))


class OldLoop(HalfPlusTwo):
    """TF1 control flow, with constants inside."""

    def build(self, hyperparameters: Mapping[str, Any]) -> Graph:
        import tensorflow as tf

        v1 = tf.compat.v1
        v1.disable_control_flow_v2()
        x = _x()
        a = v1.get_variable("a", initializer=2.0, use_resource=False)
        _, y = v1.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, y * 2.0), (tf.constant(0), a * x))
        return _graph(x, v1.cond(tf.reduce_sum(x) > 0.0, lambda: y + 1.0, lambda: y - 1.0))


class Gathered(HalfPlusTwo):
    """Gathers from a variable inside a loop, which TensorFlow's freezer leaves as it is."""

    def build(self, hyperparameters: Mapping[str, Any]) -> Graph:
        import tensorflow as tf

        x = _x()
        rows = tf.compat.v1.get_variable("rows", initializer=[1.0, 2.0, 3.0], use_resource=True)
        _, y = tf.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, y + tf.gather(rows, i)), (0, x))
        return _graph(x, y)


class NoRows(HalfPlusTwo):
    """Its probe is empty."""

    def probe(self) -> Mapping[str, Mapping[str, Any]]:
        return {"serving_default": {"x": np.zeros((0,), np.float32)}}


class Slashed(HalfPlusTwo):
    """A signature key with a slash."""

    def build(self, hyperparameters: Mapping[str, Any]) -> Graph:
        made = super().build(hyperparameters)
        return Graph(signatures={"a/b": made.signatures["serving_default"]})


class Renamed(HalfPlusTwo):
    """Another name for its input than its predecessor had."""

    def build(self, hyperparameters: Mapping[str, Any]) -> Graph:
        import tensorflow as tf

        x = _x()
        a = tf.compat.v1.get_variable("a", initializer=2.0)
        return Graph(signatures={"serving_default": SignatureTensors({"z": x}, {"y": a * x})})

    def probe(self) -> Mapping[str, Mapping[str, Any]]:
        """The usual rows, by that name."""
        return {key: {"z": inputs["x"]} for key, inputs in super().probe().items()}


class Unfinished:
    """It has neither a probe nor hyper-parameters, which may be left out."""

    def build(self, parameters: Mapping[str, Any]) -> Graph:
        x = _x()
        return _graph(x, x * 2.0)
