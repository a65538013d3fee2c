"""Checkpoints, graphs and Keras files to inspect, complete and damaged; made in children."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np


def checkpoint(prefix: Path, version: int = 2) -> None:
    """A Saver checkpoint with an optimiser, an embedded NaN, hyper-parameters and a device."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [None, 3], name="x")
        with tf.device("/cpu:0"):
            w = v1.get_variable("w", initializer=np.arange(6, dtype=np.float32).reshape(3, 2))
        odd = v1.get_variable("odd", initializer=np.array([1.0, np.nan, 3.0, np.inf], np.float32))
        v1.train.get_or_create_global_step()
        y = tf.nn.softmax(tf.matmul(x, w), name="y")
        v1.train.MomentumOptimizer(0.1, 0.9).minimize(tf.reduce_sum(y) + tf.reduce_sum(odd))
        v1.add_to_collection("hyperparameters", json.dumps({"learning_rate": 0.1, "limit": float("nan")}).encode())
        v1.add_to_collection("batch_size", 32)
        with v1.Session(graph=graph) as session:
            session.run(v1.global_variables_initializer())
            v1.train.Saver(write_version=version).save(session, str(prefix), global_step=7)


def graph_file(path: Path) -> None:
    """A GraphDef that wants a variable."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph:
        tf.identity(v1.placeholder(tf.float32, [None], name="x") * v1.get_variable("w", [1]), name="y")
        path.write_bytes(graph.as_graph_def().SerializeToString())


def hostile(path: Path) -> None:
    """A GraphDef whose output writes a file that would tell of it."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [None], name="x")
        written = tf.io.write_file(str(path.with_name("executed")), "x")
        with tf.control_dependencies([written]):
            tf.identity(x * 2.0, name="y")
        path.write_bytes(graph.as_graph_def().SerializeToString())


def duplicates(path: Path) -> None:
    """A GraphDef with one node twice."""
    from tensorflow.core.framework import graph_pb2

    graph_def = graph_pb2.GraphDef()
    for _ in range(2):
        graph_def.node.add(name="x", op="NoOp")
    path.write_bytes(graph_def.SerializeToString())


def keras_file(path: Path, *, with_lambda: bool = False) -> None:
    """A Keras model in the form of the path's suffix."""
    import keras

    layers = [keras.Input((3,)), keras.layers.Dense(2, name="dense")]
    if with_lambda:
        layers.append(keras.layers.Lambda(lambda x: x * 2, name="twice"))
    keras.Sequential(layers, name="model").save(path)


def saved_model(path: Path) -> None:
    """A SavedModel with one signature."""
    import tensorflow as tf

    class Linear(tf.Module):
        def __init__(self) -> None:
            self.w = tf.Variable([[1.0], [2.0]], name="w")

        @tf.function(input_signature=[tf.TensorSpec([None, 2], name="x")])
        def __call__(self, x):  # type: ignore[no-untyped-def]
            return {"y": x @ self.w}

    model = Linear()
    tf.saved_model.save(model, str(path), signatures=model.__call__)
