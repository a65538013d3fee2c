"""SundayNet: a small convolutional network on the 1,797 real handwritten digits that scikit-learn ships.

Written in the style of TF1: one graph, `training` as a placeholder with a default, batch normalisation with moving
averages that a control dependency updates, dropout, Adam. It is named after the schedule of its pipeline.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tasks.records.signature import Method
from tasks.tensors.tensor_file import Array
from tasks.user_code.model import Graph, HyperParameters, SignatureTensors

DATA = ("sklearn/datasets/data/digits.csv.gz", "sundaynet_labels.txt")
LABELS = Path(__file__).with_name("sundaynet_labels.txt")
VALIDATION, PROBE = 300, 50


class SundayNet:
    """`images: float32[batch, 8, 8, 1]` in 0..1 to `logits`, `probabilities: float32[batch, 10]`, `class: int64[batch]`;
    and a classify signature from `tf.Example` with a float feature `image` of 64 values."""

    hyperparameters: HyperParameters = {
        "steps": 400,
        "batch_size": 128,
        "learning_rate": 0.01,
        "dropout": 0.3,
        "filters": 16,
        "momentum": 0.9,
    }

    def build(self, hyperparameters: HyperParameters) -> Graph:
        """Build one graph for training and inference."""
        import tensorflow as tf

        v1 = tf.compat.v1
        training = v1.placeholder_with_default(False, [], name="training")
        serialized = v1.placeholder(tf.string, [None], name="examples")
        parsed = v1.parse_example(serialized, {"image": v1.FixedLenFeature([64], tf.float32)})
        # Fed directly for images, computed from the examples otherwise.
        images = tf.identity(tf.reshape(parsed["image"], [-1, 8, 8, 1]), name="images")
        labels = v1.placeholder(tf.int64, [None], name="labels")

        filters = int(hyperparameters["filters"])
        updates: list[Any] = []
        x = images
        for layer, (size, channels) in enumerate(((3, 1), (3, filters)), start=1):
            with v1.variable_scope(f"conv{layer}"):
                kernel = _weights("kernel", [size, size, channels, filters * layer])
                x = tf.nn.conv2d(x, kernel, strides=1, padding="SAME")
                x = tf.nn.relu(_batch_norm(x, training, float(hyperparameters["momentum"]), updates))
                x = tf.nn.max_pool2d(x, 2, 2, padding="SAME")
        width = 2 * 2 * filters * 2
        x = tf.reshape(x, [-1, width])
        rate = float(hyperparameters["dropout"])
        x = tf.cond(training, lambda: tf.nn.dropout(x, rate=rate), lambda: x)
        with v1.variable_scope("dense"):
            bias = v1.get_variable("bias", [10], initializer=v1.zeros_initializer())
            logits = tf.add(x @ _weights("kernel", [width, 10]), bias, name="logits")
        probabilities = tf.nn.softmax(logits, name="probabilities")
        predicted = tf.argmax(logits, axis=1, name="class")

        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits), name="loss")
        accuracy = tf.reduce_mean(tf.cast(tf.equal(predicted, labels), tf.float32), name="accuracy")
        global_step = v1.train.get_or_create_global_step()
        with tf.control_dependencies(updates):
            optimizer = v1.train.AdamOptimizer(float(hyperparameters["learning_rate"]))
            train_op = optimizer.minimize(loss, global_step=global_step, name="train_op")

        # For every row, all ten labels and their scores, in the order of the vocabulary.
        asset = tf.constant(str(LABELS), name="labels_file")
        initializer = tf.lookup.TextFileInitializer(
            asset, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE
        )
        table = tf.lookup.StaticHashTable(initializer, default_value="?")
        names = table.lookup(tf.range(10, dtype=tf.int64))
        rows = tf.shape(probabilities)[0]
        classes = tf.tile(tf.expand_dims(names, 0), [rows, 1], name="classes")
        return Graph(
            signatures={
                "serving_default": SignatureTensors(
                    {"images": images}, {"logits": logits, "probabilities": probabilities, "class": predicted}
                ),
                "classify": SignatureTensors(
                    {"inputs": serialized}, {"classes": classes, "scores": probabilities}, Method.CLASSIFY
                ),
            },
            train_op=train_op,
            loss=loss,
            global_step=global_step,
            metrics={"accuracy": accuracy},
            assets=((LABELS, asset),),
            table_init=v1.tables_initializer(),
        )

    def batches(self, start: int, hyperparameters: HyperParameters) -> Iterator[Mapping[str, Array]]:
        """Yield shuffled batches; the order of an epoch depends on its number alone."""
        images, labels = _digits()
        images, labels = images[VALIDATION + PROBE :], labels[VALIDATION + PROBE :]
        size = int(hyperparameters["batch_size"])
        per_epoch = len(images) // size
        step = start
        while True:
            order = np.random.default_rng(step // per_epoch).permutation(len(images))
            rows = order[(step % per_epoch) * size :][:size]
            yield {"images:0": images[rows], "labels:0": labels[rows], "training:0": np.array(True)}
            step += 1

    def validation(self) -> Mapping[str, Array]:
        """Return 300 digits that are in no training batch."""
        images, labels = _digits()
        return {"images:0": images[PROBE : PROBE + VALIDATION], "labels:0": labels[PROBE : PROBE + VALIDATION]}

    def probe(self) -> Mapping[str, Mapping[str, Array]]:
        """Return 50 digits that are in no training batch and not in the validation set, as images and `tf.Example`s."""
        import tensorflow as tf

        images = _digits()[0][:PROBE]
        examples = np.empty(PROBE, dtype=object)
        for row, image in enumerate(images):
            values = tf.train.Feature(float_list=tf.train.FloatList(value=image.ravel()))
            example = tf.train.Example(features=tf.train.Features(feature={"image": values}))
            examples[row] = example.SerializeToString(deterministic=True)
        return {"serving_default": {"images": images}, "classify": {"inputs": examples}}


def _digits() -> tuple[Array, Array]:
    """Return `float32[1797, 8, 8, 1]` in 0..1 and `int64[1797]`, in one fixed random order."""
    installed = importlib.util.find_spec("sklearn")  # its file is read, and it is not imported, which takes longer
    assert installed is not None and installed.submodule_search_locations
    rows = np.loadtxt(Path(installed.submodule_search_locations[0]).parent / DATA[0], delimiter=",")
    pixels, digits = rows[:, :-1].reshape(-1, 8, 8), rows[:, -1]
    order = np.random.default_rng(7).permutation(len(digits))
    images = (pixels[order] / 16.0).astype(np.float32)[..., np.newaxis]
    return images, digits[order].astype(np.int64)


def _weights(name: str, shape: list[int]) -> Any:
    import tensorflow as tf

    deviation = float(np.sqrt(2.0 / np.prod(shape[:-1])))
    initializer = tf.compat.v1.truncated_normal_initializer(stddev=deviation)
    return tf.compat.v1.get_variable(name, shape, initializer=initializer)


def _batch_norm(x: Any, training: Any, momentum: float, updates: list[Any]) -> Any:
    """Batch normalisation: batch moments while training, moving averages otherwise."""
    import tensorflow as tf

    v1 = tf.compat.v1
    channels = [x.shape[-1]]
    gamma = v1.get_variable("gamma", channels, initializer=v1.ones_initializer())
    beta = v1.get_variable("beta", channels, initializer=v1.zeros_initializer())
    mean = v1.get_variable("moving_mean", channels, initializer=v1.zeros_initializer(), trainable=False)
    variance = v1.get_variable("moving_variance", channels, initializer=v1.ones_initializer(), trainable=False)
    batch_mean, batch_variance = tf.nn.moments(x, axes=[0, 1, 2])

    def moved(average: Any, batch: Any) -> Any:
        kept = tf.cond(training, lambda: momentum * average + (1.0 - momentum) * batch, lambda: tf.identity(average))
        return average.assign(kept)

    updates += [moved(mean, batch_mean), moved(variance, batch_variance)]
    used_mean, used_variance = tf.cond(
        training, lambda: (batch_mean, batch_variance), lambda: (tf.identity(mean), tf.identity(variance))
    )
    return tf.nn.batch_normalization(x, used_mean, used_variance, beta, gamma, 1e-3)
