"""Models for classification that are served in unusual ways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tasks.examples.half_plus_two import HalfPlusTwo
from tasks.records.signature import Method
from tasks.user_code.model import Graph, SignatureTensors

DATA: tuple[str, ...] = ()


class Jitted(HalfPlusTwo):
    """Must be compiled by XLA, which servers do not do unless told to."""

    def build(self, hyperparameters: Mapping[str, Any]) -> Graph:
        import tensorflow as tf

        @tf.function(jit_compile=True)
        def scaled(x: Any, a: Any) -> Any:
            return a * x + 1.0

        x = tf.compat.v1.placeholder(tf.float32, [None], name="x")
        a = tf.compat.v1.get_variable("a", initializer=2.0)
        return Graph(signatures={"serving_default": SignatureTensors({"x": x}, {"y": scaled(x, a)})})


class Classed(HalfPlusTwo):
    """Answers Classify and Regress, and no Predict."""

    def build(self, hyperparameters: Mapping[str, Any]) -> Graph:
        import tensorflow as tf

        v1 = tf.compat.v1
        examples = v1.placeholder(tf.string, [None], "examples")
        a = v1.get_variable("a", initializer=2.0)
        marks = tf.io.parse_example(examples, {"mark": tf.io.FixedLenFeature([], tf.float32)})["mark"] * a
        scores = tf.stack([marks, 1.0 - marks], 1)
        classes = tf.tile(tf.constant([["pass", "fail"]]), [tf.shape(marks)[0], 1])
        return Graph(
            signatures={
                "serving_default": SignatureTensors(
                    {"inputs": examples}, {"classes": classes, "scores": scores}, Method.CLASSIFY
                ),
                "points": SignatureTensors({"inputs": examples}, {"outputs": marks}, Method.REGRESS),
            }
        )

    def probe(self) -> Mapping[str, Mapping[str, Any]]:
        """Twenty marks."""
        import tensorflow as tf

        def encoded(mark: float) -> bytes:
            feature = tf.train.Feature(float_list=tf.train.FloatList(value=[mark]))
            return bytes(tf.train.Example(features=tf.train.Features(feature={"mark": feature})).SerializeToString())

        rows = np.empty(20, object)
        rows[:] = [encoded(row / 20) for row in range(20)]
        return {key: {"inputs": rows} for key in ("serving_default", "points")}
