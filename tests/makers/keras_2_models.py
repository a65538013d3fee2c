"""Models that Keras 2 writes, as most people have them, with rows and the answers that they gave."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

NETWORKS = ("lstm", "gru", "mobile", "functions", "operators", "by_key", "text")


def keras_2() -> Any:
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import tf_keras

    return tf_keras


def network(name: str) -> tuple[Any, dict[str, Any]]:
    """A model, and rows by the names of its inputs."""
    import tensorflow as tf

    keras = keras_2()
    keras.utils.set_random_seed(3)
    layers = keras.layers
    rng = np.random.default_rng(3)
    if name in ("lstm", "gru"):
        rows = rng.normal(size=(6, 5, 3)).astype(np.float32)
        inner = layers.LSTM(4) if name == "lstm" else layers.Bidirectional(layers.GRU(4, dropout=0.2))
        model = keras.Sequential([keras.Input((5, 3), name="rows"), inner, layers.Dense(2, name="scores")])
        return model, {"rows": rows}
    if name == "mobile":
        image = keras.Input((16, 16, 3), name="image")
        x = layers.ReLU(6.0)(layers.BatchNormalization()(layers.Conv2D(4, 3, strides=2, use_bias=False)(image)))
        x = layers.Activation(tf.nn.relu6)(layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same")(x)))
        x = layers.GlobalAveragePooling2D()(layers.SeparableConv2D(8, 3)(x))
        model = keras.Model(image, layers.Dense(3, activation="softmax", name="classes")(x))
        return model, {"image": rng.normal(size=(4, 16, 16, 3)).astype(np.float32)}
    if name in ("functions", "operators"):
        x = given = keras.Input((4,), name="x")
        if name == "functions":
            x = tf.concat([tf.math.log(tf.abs(x) + 1.0), tf.clip_by_value(x, -1.0, 1.0)], -1)
            x = tf.nn.softmax(layers.Dense(3)(x))
        else:
            x = layers.Dense(3)(-x[:, 1:] * 2.0 / tf.reduce_max(x, axis=1, keepdims=True))
        return keras.Model(given, x), {"x": rng.uniform(1, 2, size=(6, 4)).astype(np.float32)}
    if name == "by_key":
        a, b = keras.Input((3,), name="layer_a"), keras.Input((2,), name="layer_b")
        x = layers.Concatenate()([layers.Dense(3)(a), b])
        outputs = {"sum": layers.Dense(2, name="sum")(x), "difference": layers.Dense(1, name="difference")(x)}
        model = keras.Model({"a": a, "b": b}, outputs)
        return model, {name: rng.normal(size=(5, size)).astype(np.float32) for name, size in (("a", 3), ("b", 2))}
    split = layers.TextVectorization(max_tokens=10, output_sequence_length=4)
    split.adapt(["the cat sat", "the dog"])
    body = [split, layers.Embedding(12, 3), layers.GlobalAveragePooling1D(), layers.Dense(1, name="mood")]
    model = keras.Sequential([keras.Input((1,), dtype="string", name="text"), *body])
    return model, {"text": np.array([[b"the cat"], [b"a dog sat"]], dtype=object)}


def save(name: str, path: Path) -> dict[str, dict[str, Any]]:
    """Save the model; return its rows and its answers as lists, by name."""
    import tensorflow as tf

    model, rows = network(name)
    model.compile("adam", "mse")
    model.save(str(path))
    fed = {key: tf.constant(value) for key, value in rows.items()}
    answer = model(fed if name == "by_key" else next(iter(fed.values())), training=False)
    answers = answer if isinstance(answer, dict) else {model.output_names[0]: answer}
    plain = {key: [[one.decode() for one in row] for row in value] if value.dtype == object else value.tolist()
             for key, value in rows.items()}  # fmt: skip
    return {"rows": plain, "answers": {key: value.numpy().tolist() for key, value in answers.items()}}


def save_subclassed(path: Path) -> None:
    keras = keras_2()

    class Doubling(keras.Model):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = keras.layers.Dense(2)

        def call(self, x: Any) -> Any:
            return 2 * self.inner(x)

    model = Doubling()
    model(np.zeros((1, 4), np.float32))
    model.save(str(path))


def save_lambda(path: Path) -> None:
    keras = keras_2()
    keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x * 2, name="twice")]).save(str(path))


def save_with_function(path: Path, function: str) -> None:
    """A model one of whose layers names another function of TensorFlow than the one that it was made with."""
    import h5py

    save("functions", path)
    with h5py.File(path, "a") as file:
        file.attrs["model_config"] = file.attrs["model_config"].replace('"math.abs"', f'"{function}"')
