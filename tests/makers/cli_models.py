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


EVIL = "x\nname: evil\nserving_root: /evil #\x1b[2J\u202e$_{$"
EVIL_NODE = EVIL.replace(":", "")  # what follows a colon is the number of an output


def evil_names(folder: Path, *, declared: bool) -> None:
    """A model whose input's name breaks the line and clears the screen: a GraphDef, or a SavedModel's signature."""
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph, v1.Session() as session:
        x = v1.placeholder(tf.float32, [None], name="x")
        y = tf.multiply(x, 2.0, name="y")
        if not declared:
            graph_def = graph.as_graph_def()
            graph_def.node[0].name = EVIL_NODE
            graph_def.node.append(graph_def.node.pop(0))  # a file is known for a GraphDef by its first node
            next(node for node in graph_def.node if node.name == "y").input[0] = EVIL_NODE
            folder.mkdir()
            (folder / "graph.pb").write_bytes(graph_def.SerializeToString())
            return
        v1.saved_model.simple_save(session, str(folder), {"x": x}, {"y": y})
    path = folder / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    signatures = model.meta_graphs[0].signature_def
    signature = signatures["serving_default"]
    signature.inputs[EVIL].CopyFrom(signature.inputs["x"])
    del signature.inputs["x"]
    signatures[EVIL].CopyFrom(signature)
    path.write_bytes(model.SerializeToString())


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
