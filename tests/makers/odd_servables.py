"""Models whose requests or answers not every protocol can carry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tasks.examples.half_plus_two import HalfPlusTwo
from tasks.records.signature import Method
from tasks.user_code.model import Graph, SignatureTensors

DATA: tuple[str, ...] = ()
ROWS = 20


class Odd(HalfPlusTwo):
    """`y: float32[batch]` from `x: float32[batch]`, and one more output."""

    def probe(self) -> Mapping[str, Mapping[str, Any]]:
        """Some rows for the one signature."""
        return {"serving_default": {"x": np.linspace(-10, 10, ROWS, dtype=np.float32)}}

    def build(self, hyperparameters: Mapping[str, Any]) -> Graph:
        import tensorflow as tf

        x = tf.compat.v1.placeholder(tf.float32, [None], name="x")
        y = tf.compat.v1.get_variable("a", initializer=2.0) * x
        return Graph(signatures={"serving_default": SignatureTensors({"x": x}, {"y": y, "more": self.more(y)})})

    def more(self, y: Any) -> Any:
        """The other output."""
        return y + 1.0


class OneOutput(Odd):
    """Without the other output."""

    def build(self, hyperparameters: Mapping[str, Any]) -> Graph:
        (made,) = super().build(hyperparameters).signatures.values()
        return Graph(signatures={"serving_default": SignatureTensors(made.inputs, {"y": made.outputs["y"]})})


class TwoWays(Odd):
    """Two signatures."""

    def probe(self) -> Mapping[str, Mapping[str, Any]]:
        (inputs,) = super().probe().values()
        return {"another": inputs, "serving_default": inputs}

    def build(self, hyperparameters: Mapping[str, Any]) -> Graph:
        (made,) = super().build(hyperparameters).signatures.values()
        another = SignatureTensors(made.inputs, {"z": made.outputs["more"]})
        return Graph(signatures={"another": another, "serving_default": made})


class NothingFound(Odd):
    """A detector that finds nothing: float32[0, 4]."""

    def more(self, y: Any) -> Any:
        import tensorflow as tf

        return tf.boolean_mask(tf.stack([y, y, y, y], 1), y > 1e6)


class NothingInside(Odd):
    """Nothing found in each row: float32[batch, 0, 4]."""

    def more(self, y: Any) -> Any:
        import tensorflow as tf

        return tf.zeros([tf.shape(y)[0], 0, 4])


class RawBytes(Odd):
    """Strings that are no UTF-8, in an output that does not say so by its name."""

    def more(self, y: Any) -> Any:
        import tensorflow as tf

        return tf.strings.join([tf.fill(tf.shape(y), b"\xff\xfe"), tf.as_string(y)])


class UnknownScalar(Odd):
    """A scalar that the graph does not know to be one."""

    def more(self, y: Any) -> Any:
        import tensorflow as tf

        shape = tf.compat.v1.placeholder_with_default(tf.zeros([0], tf.int32), [None])
        return tf.reshape(tf.reduce_sum(y), shape)


class Quantised(Odd):
    """A dtype that neither JSON nor numpy has."""

    def more(self, y: Any) -> Any:
        import tensorflow as tf

        return tf.quantization.quantize(y, -20.0, 20.0, tf.quint8)[0]


class NoInput(Odd):
    """A second signature without inputs."""

    def probe(self) -> Mapping[str, Mapping[str, Any]]:
        return {**super().probe(), "about": {}}

    def build(self, hyperparameters: Mapping[str, Any]) -> Graph:
        import tensorflow as tf

        made = super().build(hyperparameters)
        about = SignatureTensors({}, {"seven": tf.constant(7.0) + 0.0 * tf.compat.v1.global_variables()[0]})
        return Graph(signatures={**made.signatures, "about": about})


class Classed(Odd):
    """Nothing but a Classify signature."""

    def probe(self) -> Mapping[str, Mapping[str, Any]]:
        import tensorflow as tf

        examples = np.empty(ROWS, dtype=object)
        for row in range(ROWS):
            example = tf.train.Example()
            example.features.feature["mark"].float_list.value.append(row / ROWS)
            examples[row] = example.SerializeToString()
        return {"serving_default": {"inputs": examples}}

    def build(self, hyperparameters: Mapping[str, Any]) -> Graph:
        import tensorflow as tf

        examples = tf.compat.v1.placeholder(tf.string, [None], name="examples")
        a = tf.compat.v1.get_variable("a", initializer=2.0)
        mark = tf.io.parse_example(examples, {"mark": tf.io.FixedLenFeature([], tf.float32)})["mark"] * a
        outputs = {
            "classes": tf.tile(tf.constant([["pass", "fail"]]), [tf.shape(mark)[0], 1]),
            "scores": tf.stack([mark, 1.0 - mark], 1),
        }
        return Graph(signatures={"serving_default": SignatureTensors({"inputs": examples}, outputs, Method.CLASSIFY)})
