"""User-defined objects whose values were saved without them."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tasks.user_code.model import Objects

DATA: tuple[str, ...] = ()


class Affine(tf.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = tf.Variable(tf.zeros([3, 2]))
        self.b = tf.Variable(tf.zeros([2]))

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
    def serve(self, x: Any) -> Any:
        return {"y": tf.matmul(x, self.w) + self.b}


def network() -> Any:
    return keras.Sequential([keras.Input((3,), name="x"), keras.layers.Dense(4), keras.layers.Dense(2, name="y")])


class Doubling(keras.layers.Layer):
    def call(self, x: Any) -> Any:
        return 2 * x


def doubled() -> Any:
    layers = [keras.layers.Dense(4), Doubling(name="twice"), keras.layers.Dense(2, name="y")]
    return keras.Sequential([keras.Input((3,), name="x"), *layers])


class Mine:
    hyperparameters: dict[str, Any] = {}

    def build(self, hyperparameters: Any) -> Objects:
        module = Affine()
        return Objects(module, {"serving_default": module.serve})


class Network:
    hyperparameters: dict[str, Any] = {}

    def build(self, hyperparameters: Any) -> Objects:
        return Objects(network())


class Doubled:
    hyperparameters: dict[str, Any] = {}

    def build(self, hyperparameters: Any) -> Objects:
        return Objects(doubled())
