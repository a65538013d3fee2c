"""Calls on real models, in children: restore, freeze and export with hand-written names, and answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tasks.forms import frozen_graph, saved_model, saver
from tasks.graphs import graph, variables
from tasks.records.settings import SessionOptions
from tasks.records.signature import GraphNames, Method, Signature, TensorSpec
from tasks.tensors import tensor_file

OPTIONS = SessionOptions()


def names_for(feed: str, fetch: str, shape: tuple[int | None, ...]) -> GraphNames:
    """One signature of one float input and one output."""
    signature = Signature(
        key="serving_default",
        method=Method.PREDICT,
        inputs={"x": TensorSpec(tensor=feed, dtype="float32", shape=shape)},
        outputs={"y": TensorSpec(tensor=fetch, dtype="float32", shape=None)},
    )
    return GraphNames(signatures=(signature,))


def every_form(prefix: Path, names: GraphNames, rows: list[list[float]], out: Path) -> dict[str, list[list[float]]]:
    """The outputs of the restored checkpoint, and of what is frozen and exported from it."""
    x = np.array(rows, dtype=np.float32)
    probe = out / "probe.tensors"
    tensor_file.write_tensors(probe, {"serving_default/x": x})
    frozen_graph.write(prefix.parent, prefix, names, out)
    (out / "saved_model").mkdir()
    saved_model.write(prefix.parent, prefix, names, probe, out / "saved_model")
    answers = {}
    with saver.restored(prefix.parent, prefix, names, OPTIONS) as opened:
        answers["checkpoint"] = opened.predict("serving_default", {"x": x})["y"].tolist()
    with frozen_graph.loaded(out, OPTIONS) as opened:
        answers["frozen_graph"] = opened.predict("serving_default", {"x": x})["y"].tolist()
    with saved_model.loaded_v1(out / "saved_model", OPTIONS) as opened:
        answers["saved_model"] = opened.predict("serving_default", {"x": x})["y"].tolist()
    return answers


def of_a_graph(path: Path, feed: str, fetch: str, rows: list[list[float]]) -> list[list[float]]:
    """What somebody else's frozen graph answers."""
    import tensorflow as tf

    with tf.Graph().as_default() as imported:
        tf.import_graph_def(tf.compat.v1.GraphDef.FromString(path.read_bytes()), name="")
        with tf.compat.v1.Session(graph=imported) as session:
            answers: list[list[float]] = session.run(fetch, {feed: np.array(rows, dtype=np.float32)}).tolist()
    return answers


def variable_ops_left(path: Path) -> list[str]:
    """Ops in a frozen graph that hold or read a variable."""
    import tensorflow as tf

    graph_def = tf.compat.v1.GraphDef.FromString(path.read_bytes())
    return [node.op for node in graph.Graph(graph_def).every_node() if node.op in variables.STATEFUL_OPS]


def restore(prefix: Path, names: GraphNames) -> None:
    """Restore, and leave."""
    with saver.restored(prefix.parent, prefix, names, OPTIONS):
        pass
