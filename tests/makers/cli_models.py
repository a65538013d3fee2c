"""Small models for the tests of commands, made in children."""

from __future__ import annotations

from pathlib import Path

CODE = """
class Model:
    hyperparameters = {}

    def build(self, hyperparameters):
        import keras
        from tasks.user_code.model import Objects
        return Objects(module=keras.Sequential([keras.Input((3,), name="x"), keras.layers.Dense(2, name="d")]))
"""


def any_width(path: Path) -> None:
    """A GraphDef that sums rows of any width."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph:
        tf.reduce_sum(v1.placeholder(tf.float32, [None, None], name="x"), axis=1, name="y")
        path.write_bytes(graph.as_graph_def().SerializeToString())


def keras_files(folder: Path) -> None:
    """`model.keras`, and `model.weights.h5` with the weights of `CODE`'s model alone."""
    import keras

    model = keras.Sequential([keras.Input((3,), name="x"), keras.layers.Dense(2, name="d")])
    model.save(folder / "model.keras")
    model.save_weights(folder / "model.weights.h5")


def graded(folder: Path) -> None:
    """A SavedModel that takes tf.Examples."""
    from tests.makers import servables

    servables.graded(folder)
