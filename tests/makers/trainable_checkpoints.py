"""Checkpoints of small trainable models, each unusual in one way; written in a child by TensorFlow's own API."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tasks.user_code.model import Graph, SignatureTensors

Declared = Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]]


def saved_model(folder: Path, build: Callable[[], tuple[Declared, Any]]) -> None:
    """What `build` leaves in the default graph as a SavedModel: signatures by key, and the main op or None."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        declared, main = build()
        session.run(v1.global_variables_initializer())
        definitions = {
            key: v1.saved_model.signature_def_utils.predict_signature_def(dict(inputs), dict(outputs))
            for key, (inputs, outputs) in declared.items()
        }
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(session, ["serve"], definitions, main_op=main)
        builder.save()


def _x(name: str = "x", width: int = 3) -> Any:
    import tensorflow as tf

    return tf.compat.v1.placeholder(tf.float32, [None, width], name)


def _w(value: float = 1.0) -> Any:
    import tensorflow as tf

    return tf.compat.v1.get_variable("w", initializer=value, use_resource=False)


def twice(key: str) -> tuple[Declared, Any]:
    """One signature of that key."""
    x = _x()
    return {key: ({"x": x}, {"y": x * _w(2.0)})}, None


def one_row() -> tuple[Declared, Any]:
    """It takes one row."""
    import tensorflow as tf

    x = tf.compat.v1.placeholder(tf.float32, [1, 3], "x")
    return {"serving_default": ({"x": x}, {"y": x * _w(2.0)})}, None


def unused_input() -> tuple[Declared, Any]:
    """It declares an input that its output does not need."""
    x = _x()
    return {"serving_default": ({"x": x, "u": _x("u", 2)}, {"y": x * _w(2.0)})}, None


def shared_placeholder() -> tuple[Declared, Any]:
    """Two signatures with one placeholder. See `declare_rows`."""
    x = _x()
    return {"a": ({"x": x}, {"y": x * _w(2.0)}), "b": ({"x": x}, {"y": x + 1.0})}, None


def inner_input() -> tuple[Declared, Any]:
    """What one signature computes on its way is the other's input."""
    import tensorflow as tf

    x = _x()
    h = tf.identity(x + 1.0, "h")
    y = tf.identity(h * _w(2.0), "y")
    return {"whole": ({"x": x}, {"y": y, "h": h}), "second": ({"h": h}, {"y": y})}, None


def counting() -> tuple[Declared, Any]:
    """Its main op adds 1 to its weight at each load."""
    import tensorflow as tf

    x, w = _x(), _w()
    return {"serving_default": ({"x": x}, {"y": x * w})}, tf.compat.v1.assign_add(w, 1.0).op


def counting_in_a_function() -> tuple[Declared, Any]:
    """The same, out of sight."""
    import tensorflow as tf

    x = _x()
    w = tf.compat.v1.get_variable("w", initializer=1.0, use_resource=True)

    @tf.function
    def count() -> Any:
        w.assign_add(1.0)
        return tf.constant(0)

    return {"serving_default": ({"x": x}, {"y": x * w})}, count().op


def beside_the_weights() -> tuple[Declared, Any]:
    """Its main op initialises a local variable, which no output reads."""
    import tensorflow as tf

    v1 = tf.compat.v1
    x = _x()
    v1.get_variable("seen", initializer=0.0, collections=[v1.GraphKeys.LOCAL_VARIABLES], use_resource=False)
    return {"serving_default": ({"x": x}, {"y": x * _w(2.0)})}, v1.local_variables_initializer()


def save(folder: Path, name: str, *arguments: Any) -> None:
    """In a child: the SavedModel of one of these builders."""
    saved_model(folder, lambda: globals()[name](*arguments))


def declare_rows(folder: Path, keys: Iterable[str], rows: int) -> None:
    """Let signatures declare so many rows of x, whatever the placeholder takes."""
    from tensorflow.core.protobuf import saved_model_pb2

    path = folder / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    for key in keys:
        model.meta_graphs[0].signature_def[key].inputs["x"].tensor_shape.dim[0].size = rows
    path.write_bytes(model.SerializeToString())


class TwoSignatures:
    """Code beside a checkpoint, whose probe has rows for one signature only."""

    hyperparameters: Mapping[str, Any] = {}

    def build(self, hyperparameters: Mapping[str, Any]) -> Graph:
        import tensorflow as tf

        x = _x()
        signatures = {
            key: SignatureTensors({"x": x}, {"y": tf.identity(x * scale, f"y_{key}")})
            for key, scale in (("a", _w(2.0)), ("b", 3.0))
        }
        return Graph(signatures=signatures)

    def probe(self) -> Mapping[str, Mapping[str, Any]]:
        return {"a": {"x": np.ones((4, 3), np.float32)}}


def checkpoint_of_two_signatures(folder: Path) -> None:
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        TwoSignatures().build({})
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(folder / "model.ckpt"), write_meta_graph=False)
