"""Models saved in unusual ways, each made in a child in a folder of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.makers import impossible_graphs


def _x() -> Any:
    import tensorflow as tf

    return tf.compat.v1.placeholder(tf.float32, [None, 3], name="x")


def _w(**options: Any) -> Any:
    import tensorflow as tf

    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    return tf.compat.v1.get_variable("w", initializer=tf.constant(rows), **{"use_resource": False, **options})


def _saved(folder: Path, *steps: int) -> None:
    import tensorflow as tf

    v1 = tf.compat.v1
    with v1.Session() as session:
        session.run(v1.global_variables_initializer())
        saver = v1.train.Saver()
        for step in steps:
            if v1.train.get_global_step() is not None:
                session.run(v1.train.get_global_step().assign(500 * step))
            saver.save(session, str(folder / "model.ckpt"), global_step=step)


def epochs(folder: Path) -> None:
    """Checkpoints named by epochs, of a global step that counts updates."""
    import tensorflow as tf

    with tf.Graph().as_default():
        tf.matmul(_x(), _w(), name="y")
        tf.compat.v1.train.get_or_create_global_step()
        _saved(folder, 1, 2)


def open_shapes(folder: Path, *, resource: bool) -> None:
    """Variables of which the graph does not say how large they are."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default():
        options = {"shape": tf.TensorShape([None, 2])} if resource else {"validate_shape": False}
        w = v1.Variable(tf.ones([3, 2]), name="w", use_resource=resource, **options)
        b = v1.Variable(tf.ones([2]), name="b", use_resource=resource, validate_shape=False)
        tf.add(tf.matmul(_x(), tf.reshape(w, [3, 2])), tf.reshape(b, [2]), name="y")
        _saved(folder, 1)


def another_shape(folder: Path, rows: int, columns: int) -> None:
    """The checkpoint there, with `w` of another size."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        v1.Variable(tf.ones([rows, columns]), name="w", use_resource=False)
        v1.Variable(tf.ones([2]), name="b", use_resource=False)
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(folder / "model.ckpt"), global_step=1, write_meta_graph=False)


def of_dtype(folder: Path, name: str) -> None:
    """A checkpoint with a variable of that dtype."""
    import tensorflow as tf

    with tf.Graph().as_default():
        scale = tf.compat.v1.get_variable("scale", initializer=tf.cast(2.0, name), use_resource=False)
        tf.multiply(tf.matmul(_x(), _w()), tf.cast(scale, tf.float32), name="y")
        _saved(folder, 1)


def not_a_number(folder: Path) -> None:
    """A logarithm, of what a drawn probe makes negative."""
    import tensorflow as tf

    with tf.Graph().as_default():
        tf.math.log(tf.matmul(_x(), _w()), name="y")
        _saved(folder, 1)


def batch_statistics(folder: Path) -> None:
    """A batch normalisation that was saved in training mode."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default():
        images = v1.placeholder(tf.float32, [None, 2, 2, 3], name="x")
        gamma = v1.get_variable("gamma", initializer=tf.ones([3]), use_resource=False)
        normal = v1.nn.fused_batch_norm(images, gamma, tf.zeros([3]), is_training=True, name="bn")[0]
        tf.reduce_mean(normal * normal * normal, [1, 2], name="y")
        _saved(folder, 1)


def _exported(folder: Path, tags: list[list[str]], inputs: tuple[str, ...] = ("x",)) -> None:
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = _x()
        y = tf.matmul(x, _w(), name="y")
        session.run(v1.global_variables_initializer())
        predict = v1.saved_model.signature_def_utils.predict_signature_def
        signatures = {"serving_default": predict(dict.fromkeys(inputs, x), {"y": y})}
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(session, tags[0], signatures)
        for more in tags[1:]:
            builder.add_meta_graph(more, signatures)
        builder.save()


def tagged(folder: Path, tags: list[list[str]]) -> None:
    """A SavedModel with a MetaGraph of each of these sets of tags."""
    _exported(folder, tags)


def one_tensor_twice(folder: Path) -> None:
    """A SavedModel whose signature has one tensor as two inputs."""
    _exported(folder, [["serve"]], ("x", "z"))


def regresses_floats(folder: Path) -> None:
    """A SavedModel with a regress signature of floats, as half_plus_two's of TensorFlow Serving, and with complex outputs."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 1], name="x")
        y = tf.multiply(x, v1.get_variable("w", initializer=2.0, use_resource=False), name="y")
        z = v1.placeholder(tf.complex64, [None], name="z")
        session.run(v1.global_variables_initializer())
        define = v1.saved_model.signature_def_utils
        info = v1.saved_model.build_tensor_info
        signatures = {
            "serving_default": define.predict_signature_def({"x": x}, {"y": y}),
            "floats": define.build_signature_def(
                {"inputs": info(x)}, {"outputs": info(y)}, "tensorflow/serving/regress"
            ),
            "complex": define.predict_signature_def({"z": z}, {"conj": tf.math.conj(z)}),
        }
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(session, ["serve"], signatures)
        builder.save()


def unknown_op(folder: Path, reached: str) -> None:
    """A SavedModel with an op that nobody here has: beside the output, or where loading it needs that."""
    _exported(folder, [["serve"]])
    with impossible_graphs.edited(folder / "saved_model.pb") as meta:
        meta.graph_def.node.add(name="odd", op="SentencepieceTokenizeOp", input=["y"])
        if reached == "load":
            next(node for node in meta.graph_def.node if node.name == "w/Assign").input.append("^odd")


def optional_input(folder: Path) -> None:
    """A TF2 SavedModel of which an input may be left out."""
    import tensorflow as tf

    class Scaled(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = tf.Variable(2.0)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x"), tf.TensorSpec([], tf.float32, "scale")])
        def scaled(self, x: Any, scale: Any) -> Any:
            return {"y": x * self.w * scale}

    model = Scaled()
    tf.saved_model.save(model, str(folder), signatures={"serving_default": model.scaled})
    with impossible_graphs.edited(folder / "saved_model.pb") as meta:
        meta.signature_def["serving_default"].defaults["scale"].CopyFrom(tf.make_tensor_proto(3.0))
    (folder / "fingerprint.pb").unlink()


def averages_unused(folder: Path) -> None:
    """A training's checkpoint: averages of its variables and of the moments of a batch, which y reads as they are."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 3], "x")
        w = v1.get_variable("w", [3], initializer=v1.ones_initializer())
        with v1.name_scope("moments"):
            mean = tf.reduce_mean(x, 0, name="mean")
        average = v1.train.ExponentialMovingAverage(0.5)
        loss = tf.reduce_sum(w * x, name="loss")
        maintain = average.apply([w, mean, loss])
        tf.identity((x - mean) * w, "y")
        session.run(v1.global_variables_initializer())
        session.run(maintain, {x: [[1.0, 2.0, 3.0]]})
        v1.train.Saver().save(session, str(folder / "model.ckpt"))


def asserting(path: Path) -> None:
    """A GraphDef that takes even numbers only."""
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.int32, [None], "x")
        checked = tf.compat.v1.Assert(tf.reduce_all(x % 2 == 0), ["x must be even"], name="must_be_even")
        with tf.control_dependencies([checked]):
            tf.identity(x, "y")
        path.write_bytes(graph.as_graph_def().SerializeToString())


def frozen_with_a_table(path: Path, filled: bool) -> None:
    """A GraphDef of a lookup, with or without the operation that fills its table."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph:
        words = v1.placeholder(tf.string, [None], "words")
        initialiser = tf.lookup.KeyValueTensorInitializer(["a", "b"], tf.constant([1, 2], tf.int64))
        tf.identity(tf.lookup.StaticHashTable(initialiser, -1).lookup(words), "ids")
        kept = ["ids", v1.tables_initializer("fill").name] if filled else ["ids"]
        path.write_bytes(v1.graph_util.extract_sub_graph(graph.as_graph_def(), kept).SerializeToString())


def loop_of_tensorflow_1(prefix: Path) -> None:
    """A recurrent network by TensorFlow 1's control flow, with lengths and labels."""
    import tensorflow as tf

    v1 = tf.compat.v1
    v1.disable_control_flow_v2()
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 5, 3], "x")
        lengths = v1.placeholder(tf.int32, [None], "lengths")
        labels = v1.placeholder(tf.int64, [None], "labels")
        w, out = v1.get_variable("w", [3, 3]), v1.get_variable("out", [3, 2])

        def step(number: Any, state: Any) -> Any:
            moved = tf.tanh(state @ w + x[:, number])
            return number + 1, tf.where((number < lengths)[:, None], moved, state)

        _, state = tf.while_loop(lambda number, _: number < 5, step, [0, tf.zeros_like(x[:, 0])])
        logits = tf.matmul(state, out, name="logits")
        tf.nn.softmax(logits, name="probs")
        v1.losses.sparse_softmax_cross_entropy(labels, logits)
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(prefix))


def open_module(folder: Path) -> None:
    """A TF2 SavedModel with variables of open shape."""
    import tensorflow as tf

    class Open(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = tf.Variable(tf.ones([3, 2]), shape=tf.TensorShape([None, 2]))
            self.b = tf.Variable(tf.ones([2]), shape=tf.TensorShape(None))

        @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, "x")])
        def forward(self, x: Any) -> Any:
            return {"y": tf.matmul(x, tf.ensure_shape(self.w, [3, 2])) + tf.ensure_shape(self.b, [2])}

    model = Open()
    tf.saved_model.save(model, str(folder), signatures={"serving_default": model.forward})
