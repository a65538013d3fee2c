"""Checkpoints whose graphs hold several Savers, or none that fits; made and read in children."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tasks.adoption import flatten
from tasks.forms import saver
from tasks.graphs import variables
from tasks.graphs.variables import Slice

LIVE, AVERAGE = [10.0, 20.0, 30.0], [4.0, 8.0, 12.0]
WHOLE = np.arange(20, dtype=np.float32).reshape(5, 4)


def averaged(folder: Path, own: str, held: str) -> None:
    """y = x * w, with a saver of all and one that restores w's moving average into w.

    `own` says which is the graph's own, "full" or "average"; `held` what is in the checkpoint, "all" or "no average".
    """
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default() as held_graph:
        x = v1.placeholder(tf.float32, [None, 3], "x")
        w = v1.get_variable("w", initializer=tf.constant(LIVE), use_resource=False)
        average = v1.get_variable("w/average", initializer=tf.constant(AVERAGE), use_resource=False)
        tf.multiply(x, w, name="y")
        savers = {"full": v1.train.Saver(), "average": v1.train.Saver({"w/average": w})}
        for one in savers.values():
            v1.add_to_collection("savers", one)
        written = savers["full"] if held == "all" else v1.train.Saver([w])
        with v1.Session(graph=held_graph) as session:
            session.run(v1.global_variables_initializer())
            written.save(session, str(folder / "model.ckpt"), write_meta_graph=False)
        savers[own].export_meta_graph(str(folder / "model.ckpt.meta"))
    assert average.op.name == "w/average"


def sources(folder: Path) -> tuple[dict[str, Slice], bool, tuple[str, ...]]:
    """What `flatten.sources` takes, whether a saver of the graph's own does it, and what is noted of others."""
    prefix = folder / "model.ckpt"
    meta = saver.meta_graph(folder / "model.ckpt.meta")
    found, own = flatten.sources(meta, prefix, {})
    return found, own is not None, flatten.other_savers(meta, prefix, found, ["w"])


def in_parts(folder: Path, resource: bool) -> None:
    """A variable in two parts, of a graph whose saver also wants one that the checkpoint does not hold."""
    import tensorflow as tf

    v1 = tf.compat.v1

    def rows(shape: Any, dtype: Any, partition_info: Any) -> Any:
        first = partition_info.var_offset[0]
        return tf.constant(WHOLE[first : first + shape[0]], dtype)

    with tf.Graph().as_default():
        x = v1.placeholder(tf.float32, [None, 5], "x")
        with v1.variable_scope("p", partitioner=v1.fixed_size_partitioner(2), use_resource=resource):
            w = v1.get_variable("w", [5, 4], initializer=rows)
        v1.get_variable("extra", [2], use_resource=resource)
        tf.matmul(x, tf.convert_to_tensor(w), name="y")
        of_all = v1.train.Saver()
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            parts = [variable for variable in v1.global_variables() if "extra" not in variable.name]
            v1.train.Saver(parts).save(session, str(folder / "model.ckpt"), write_meta_graph=False)
        of_all.export_meta_graph(str(folder / "model.ckpt.meta"))


def restored_in_parts(folder: Path) -> tuple[list[Any], dict[str, Slice], list[Any]]:
    """What the graph answers for the unit matrix after a restore by a Saver made for it, what that Saver restores, and
    the whole tensor in a checkpoint that it saved."""
    import tensorflow as tf

    v1 = tf.compat.v1
    prefix = folder / "model.ckpt"
    meta = saver.meta_graph(folder / "model.ckpt.meta")
    found, own = flatten.sources(meta, prefix, {})
    assert own is None
    complete = flatten.with_saver(meta, found, own)
    with tf.Graph().as_default(), v1.Session() as session:
        saving = v1.train.import_meta_graph(complete)
        saving.restore(session, str(prefix))
        answer = session.run("y:0", {"x:0": np.eye(5, dtype=np.float32)})
        again = saving.save(session, str(folder / "again"), write_meta_graph=False)
    whole = saver.read(saver.reader(Path(again)), "p/w", Path(again))
    return answer.tolist(), variables.restored_slices(complete.graph_def, complete.saver_def), whole.tolist()
