"""Saving and restoring as the guides of TensorFlow 1 do it. Everything here runs in a child."""

from __future__ import annotations

import contextlib
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np

TWO: dict[str, list[float]] = {"v1": [1.0, 1.0, 1.0], "v2": [-1.0, -1.0, -1.0, -1.0, -1.0]}
W1, W2 = np.array([4.0, 1.5], np.float32), np.array([8.0, -0.5], np.float32)


def _two_variables() -> tuple[Any, Any]:
    import tensorflow as tf

    get = tf.compat.v1.get_variable
    zeros = tf.compat.v1.zeros_initializer
    return (
        get("v1", shape=[3], initializer=zeros, use_resource=False),
        get("v2", shape=[5], initializer=zeros, use_resource=False),
    )


def save_two_variables(folder: Path) -> None:
    """https://www.tensorflow.org/versions/r1.15/api_docs/python/tf/train/Saver, and the guide "Save and restore"."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        first, second = _two_variables()
        increase, decrease = first.assign(first + 1), second.assign(second - 1)
        session.run(v1.global_variables_initializer())
        increase.op.run()
        decrease.op.run()
        v1.train.Saver().save(session, str(folder / "model.ckpt"))


def save_initialised_variables(folder: Path, resources: bool) -> None:
    """Two variables and nothing else, with random initial values, as in most tutorials on `tf.train.Saver`."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        for name, size in (("w1", 2), ("w2", 5)):
            v1.Variable(v1.random_normal(shape=[size]), name=name, use_resource=resources)
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(folder / "my_test_model"), global_step=1000)


def restore_two_from_code(prefix: Path, reset: bool) -> dict[str, list[float]]:
    """The same variables built again, in a default graph that was reset, or in another."""
    import tensorflow as tf

    v1 = tf.compat.v1
    if reset:
        v1.disable_eager_execution()
        v1.reset_default_graph()
    with contextlib.nullcontext() if reset else tf.Graph().as_default():
        first, second = _two_variables()
        with v1.Session() as session:
            v1.train.Saver().restore(session, str(prefix))
            return {"v1": session.run(first).tolist(), "v2": session.run(second).tolist()}


def restore_two_from_meta(prefix: Path) -> dict[str, list[float]]:
    import tensorflow as tf

    v1 = tf.compat.v1
    v1.disable_eager_execution()
    v1.reset_default_graph()
    with v1.Session() as session:
        v1.train.import_meta_graph(f"{prefix}.meta").restore(session, str(prefix))
        return {name: session.run(f"{name}:0").tolist() for name in TWO}


def save_the_sum(folder: Path) -> None:
    """Placeholders w1 and w2, a variable bias, (w1 + w2) * bias named `op_to_restore`, a collection, step 1000."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        w1 = v1.placeholder(tf.float32, [None], name="w1")
        w2 = v1.placeholder(tf.float32, [None], name="w2")
        bias = v1.Variable(2.0, name="bias", use_resource=False)
        tf.multiply(w1 + w2, bias, name="op_to_restore")
        v1.add_to_collection("rate", "0.125")
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(folder / "my_test_model"), global_step=1000)


def operations_after_import(meta: Path) -> list[str]:
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        tf.compat.v1.train.import_meta_graph(str(meta))
        return [operation.name for operation in graph.get_operations()]


def operations_we_read(meta: Path) -> list[str]:
    from tasks.forms import saver

    return [node.name for node in saver.meta_graph(meta).graph_def.node]


def latest_checkpoint(folder: Path) -> str:
    import tensorflow as tf

    return str(tf.train.latest_checkpoint(str(folder)))


def save_often(folder: Path, times: int, options: dict[str, Any]) -> None:
    """A counter at 0, 10, 20…; only the first save writes a `.meta`, of which `kept` has a copy."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        counter = v1.get_variable("v", initializer=0.0, use_resource=False)
        more = counter.assign_add(10.0)
        session.run(v1.global_variables_initializer())
        saver = v1.train.Saver(**options)
        for number in range(times):
            saver.save(session, str(folder / "model.ckpt"), global_step=10 * number, write_meta_graph=number == 0)
            if number == 0:
                (folder / "kept").mkdir()
                shutil.copyfile(folder / "model.ckpt-0.meta", folder / "kept" / "model.ckpt-0.meta")
            session.run(more)


def save_a_part(folder: Path, kind: str) -> None:
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        _, second = _two_variables()
        session.run(v1.global_variables_initializer())
        session.run(second.assign(second - 1))
        var_list: Any = [second] if kind == "list" else {"theirs/v2": second}
        v1.train.Saver(var_list).save(session, str(folder / "model.ckpt"))


def print_tensors(prefix: Path, name: str) -> str:
    """What `inspect_checkpoint` prints, of one tensor or of all."""
    from tensorflow.python.tools import inspect_checkpoint

    with contextlib.redirect_stdout(io.StringIO()) as printed:
        inspect_checkpoint.print_tensors_in_checkpoint_file(str(prefix), tensor_name=name, all_tensors=not name)
    return printed.getvalue()


def collection(meta: Path, key: str) -> list[str]:
    import tensorflow as tf

    with tf.Graph().as_default():
        tf.compat.v1.train.import_meta_graph(str(meta))
        return [
            value.decode() if isinstance(value, bytes) else str(value) for value in tf.compat.v1.get_collection(key)
        ]


def write_graph_def(out: Path) -> list[float]:
    """A graph without variables, written and imported again; what the imported one answers to `x.npy`."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [None], name="x")
        tf.subtract(3.0 * x, 1.0, name="y")
        out.write_bytes(graph.as_graph_def().SerializeToString())
    np.save(out.with_name("x.npy"), W1)
    return _imported(out, "y:0", {"x:0": W1})


def _imported(path: Path, fetch: str, feeds: dict[str, Any]) -> list[float]:
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        tf.import_graph_def(tf.compat.v1.GraphDef.FromString(path.read_bytes()), name="")
        with tf.compat.v1.Session(graph=graph) as session:
            answers: list[float] = session.run(fetch, feeds).tolist()
    return answers


FEEDS, FETCH = {"w1:0": W1, "w2:0": W2}, "op_to_restore:0"


@contextlib.contextmanager
def _restored(prefix: Path) -> Any:
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        v1.train.import_meta_graph(f"{prefix}.meta").restore(session, str(prefix))
        yield session


def on_a_restored_session(prefix: Path) -> list[float]:
    with _restored(prefix) as session:
        answers: list[float] = session.run(FETCH, FEEDS).tolist()
    return answers


def on_a_written_pb(prefix: Path, out: Path) -> list[float]:
    """Variables folded, the graph written and imported again."""
    import tensorflow as tf

    with _restored(prefix) as session:
        convert = tf.compat.v1.graph_util.convert_variables_to_constants
        graph_def = convert(session, session.graph.as_graph_def(), ["op_to_restore"])
        tf.io.write_graph(graph_def, str(out.parent), out.name, as_text=False)
    return _imported(out, FETCH, FEEDS)


def on_a_converted_checkpoint(prefix: Path, out: Path) -> list[float]:
    """Saved again in V1 format."""
    import tensorflow as tf

    out.mkdir()
    with _restored(prefix) as session:
        tf.compat.v1.train.Saver(write_version=1).save(session, str(out / "model.ckpt"))
    return on_a_restored_session(out / "model.ckpt")


def on_a_saved_model(prefix: Path, out: Path) -> list[float]:
    import tensorflow as tf

    v1 = tf.compat.v1
    with _restored(prefix) as session:
        tensor = session.graph.get_tensor_by_name
        inputs = {name: tensor(f"{name}:0") for name in ("w1", "w2")}
        v1.saved_model.simple_save(session, str(out), inputs, {"op_to_restore": tensor(FETCH)})
    with tf.Graph().as_default(), v1.Session() as session:
        v1.saved_model.load(session, ["serve"], str(out))
        answers: list[float] = session.run(FETCH, FEEDS).tolist()
    return answers
