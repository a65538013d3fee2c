"""Models of a user's own code, their checkpoints, and faults planted in these; made in children."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tasks.forms import object_checkpoint
from tasks.records.parity import ParityReport
from tasks.training import rebuild
from tasks.training.rebuild import Origin
from tasks.user_code.source import ModelSource
from tests.makers.tolerance import DECLARED

CODE = """
import keras, tensorflow as tf
from tasks.user_code.model import Graph, Objects, SignatureTensors
DATA = ()

class Doubling(keras.layers.Layer):
    def call(self, x): return 2 * x

def model(activation="relu", words=False):
    x = keras.Input((3,), name="x")
    hidden = Doubling(name="twice")(keras.layers.Dense(4, activation=activation)(x))
    return keras.Model(x, keras.layers.Dense(2, name="y")(hidden))

def lookup():
    words = keras.Input((1,), dtype="string", name="words")
    table = keras.layers.StringLookup(output_mode="one_hot")
    table.adapt(tf.constant([["a"], ["b"]]))
    return keras.Model(words, keras.layers.Dense(2, name="y")(table(words)))

class Probed:
    hyperparameters = {}
    def batches(self, start, hyperparameters): return iter(())
    def validation(self): return {}
    def probe(self): return {"serving_default": {"x": [[1., 2., 3.], [-1., 0.5, 4.]]}}

class Custom(Probed):
    def build(self, hyperparameters) -> Objects:
        return Objects(model())

class Compiled(Probed):
    def build(self, hyperparameters) -> Objects:
        made = model()
        made.compile("adam", "mse")
        return Objects(made)

class Other(Probed):
    def build(self, hyperparameters) -> Objects:
        return Objects(model("tanh"))

class Wired(Probed):
    def build(self, hyperparameters) -> Objects:
        x = keras.Input((3,), name="x")
        hidden = keras.layers.Dense(4, activation="relu")(x)
        doubled = Doubling(name="twice")(hidden)
        return Objects(keras.Model(x, keras.layers.Dense(2, name="y")(hidden + 0 * doubled)))

class NoModel(Probed):
    def build(self, hyperparameters) -> Objects:
        made = tf.Module()
        made.net = model()
        serve = tf.function(lambda x: made.net(x), input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
        return Objects(made, {"serving_default": serve})

class Lookup(Probed):
    def build(self, hyperparameters) -> Objects:
        return Objects(lookup())

class Signed(Probed):
    def build(self, hyperparameters) -> Objects:
        made = keras.Sequential([keras.Input((3,), name="x"), keras.layers.Dense(2)])
        serve = tf.function(
            lambda x: {"y": made(x) + 1.0}, input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")]
        )
        return Objects(made, {"serving_default": serve})

class Hidden(Probed):
    def build(self, hyperparameters) -> Objects:
        made, loose = tf.Module(), tf.Variable([1.0, 2.0, 3.0], name="loose")
        made.w = tf.Variable([1.0, 1.0, 1.0], name="w")
        serve = tf.function(
            lambda x: {"y": x * made.w + loose}, input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")]
        )
        return Objects(made, {"serving_default": serve})

class Ungrown(Probed):
    hyperparameters = {"width": 2}
    def build(self, hyperparameters) -> Objects:
        return Objects(keras.Sequential([keras.Input((3,), name="x"), keras.layers.Dense(hyperparameters["width"])]))

class Drawn(Probed):
    def build(self, hyperparameters) -> Objects:
        import os
        made = tf.Module()
        made.w = tf.Variable([1.0, 1.0, 1.0], name="w")
        drawn = [float(byte) for byte in os.urandom(3)]
        serve = tf.function(
            lambda x: {"y": x * made.w + tf.constant(drawn)},
            input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")],
        )
        return Objects(made, {"serving_default": serve})
"""


def write_code(folder: Path) -> None:
    """`mine.py`."""
    text = CODE.replace("DATA = ()", "import numpy as np\nDATA = ()").replace(
        '"x": [[1., 2., 3.], [-1., 0.5, 4.]]', '"x": np.array([[1.0, 2.0, 3.0], [-1.0, 0.5, 4.0]], np.float32)'
    )
    (folder / "mine.py").write_text(text)


def save(folder: Path, what: str, name: str, fitted: bool = False) -> list[list[float]] | None:
    """Save what a function of `mine.py` makes, with weights of its own; what it answers where it takes numbers."""
    import sys

    sys.path.insert(0, str(folder))
    import keras
    import mine

    keras.utils.set_random_seed(5)
    model = getattr(mine, what)()
    rows = np.array([[1.0, 2.0, 3.0], [-1.0, 0.5, 4.0]], np.float32)
    if fitted:
        model.compile("adam", "mse")
        model.fit(rows, np.ones((2, 2), np.float32), epochs=2, verbose=0)
    model.save(folder / name)
    answers: list[list[float]] | None = None if what == "lookup" else model(rows, training=False).numpy().tolist()
    return answers


def spoil(folder: Path, key: str, amount: float) -> None:
    """Write the object-based checkpoint in `folder` again with other values under one key."""
    import tensorflow as tf
    from tensorflow.python.ops import io_ops

    (index,) = folder.glob("*.index")
    prefix = str(index.with_suffix(""))
    reader = tf.train.load_checkpoint(prefix)
    held: dict[str, Any] = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    (found,) = [name for name in held if key in name and "VARIABLE_VALUE" in name]
    held[found] = held[found] + held[found].dtype.type(amount)
    names = list(held)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        values = [tf.constant(held[name]) for name in names]
        session.run(io_ops.save_v2(prefix, names, [""] * len(names), values))


def save_plain_weights(folder: Path) -> None:
    """The weights of `plain.py`'s network alone."""
    import sys

    sys.path.insert(0, str(folder))
    import keras
    import plain

    keras.utils.set_random_seed(5)
    plain.network().save_weights(folder / "model.weights.h5")


def proven_without(way: str, code: ModelSource, folder: Path, run: Path, step: int) -> ParityReport:
    """What `prove_checkpoint` says where one of its two ways to restore, planted so, writes what was not saved."""

    def forgetful(prefix: Path, root: Any) -> None:
        root.w.assign(0.5)

    setattr(object_checkpoint, way, forgetful)
    return rebuild.prove_checkpoint("object_checkpoint", Origin(code=code), folder, run, step, DECLARED)
