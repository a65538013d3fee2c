"""A TF1 training script, run in a child: it trains on the rows of a file, and leaves checkpoints with their graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.forms import saver
from tasks.parity import predictor as predictors
from tasks.records.settings import SessionOptions

BATCH = 8
ROWS = 50  # no multiple of the batch: batches wrap around


def rows(path: Path, **changed: Any) -> Path:
    """A file of batches for the script's graph; `changed` arrays replace its own, None leaves one out."""
    random = np.random.default_rng(5)
    x = random.normal(size=(ROWS, 3)).astype(np.float32)
    held = {"x": x, "target:0": (x[:, :2] * 2 - 1).astype(np.float32), "keep": np.float32(0.75)} | changed
    np.savez(path, **{name: array for name, array in held.items() if array is not None})
    return path


def build(kind: str) -> None:
    """x: float32[batch, 3] -> y: float32[batch, 2]; `keep` stands for dropout's, without its chance."""
    import tensorflow as tf

    v1 = tf.compat.v1
    partitioner = v1.fixed_size_partitioner(2) if kind == "partitioned" else None
    x = v1.placeholder(tf.float32, [None, 3], name="x")
    target = v1.placeholder(tf.float32, [None, 2], name="target")
    keep = v1.placeholder(tf.float32, None if kind == "old" else [], name="keep")
    with v1.variable_scope("body", use_resource=kind == "resource", partitioner=partitioner):
        w = v1.get_variable("w", [3, 4], initializer=v1.random_normal_initializer(seed=1))
        hidden = tf.nn.relu(tf.matmul(x, tf.convert_to_tensor(w))) * keep
    with v1.variable_scope("head", use_resource=kind == "resource"):
        out = v1.get_variable("out", [4, 2], initializer=v1.random_normal_initializer(seed=2))
    v1.get_variable("unused", initializer=1.0)
    y = tf.matmul(hidden, out, name="y")
    loss = v1.losses.mean_squared_error(target, y)
    step = v1.train.get_or_create_global_step()
    by = 2 if kind == "double" else 1
    optimizer = v1.train.AdamOptimizer(0.01)
    if kind == "uncounted":
        optimizer.minimize(loss)
    elif by == 1:
        optimizer.minimize(loss, global_step=step)
    else:
        with tf.control_dependencies([optimizer.minimize(loss, global_step=step)]):
            v1.add_to_collection("train_op", tf.group(step.assign_add(1), name="twice"))
    if kind == "two":
        v1.train.GradientDescentOptimizer(0.1).minimize(loss, name="second")


def script(out: Path, file: Path, saved: Sequence[int], kind: str = "", leave_out: str = "") -> None:
    """Train to the last of `saved`, saving at each; variables whose names hold `leave_out` are not saved."""
    import tensorflow as tf

    v1 = tf.compat.v1
    held = np.load(file)
    with tf.Graph().as_default() as graph:
        build(kind)
        variables = [one for one in v1.global_variables() if not leave_out or leave_out not in one.op.name]
        saving = v1.train.Saver(variables, max_to_keep=9)
        initializer = v1.global_variables_initializer()
        train_op = v1.get_collection("train_op")[-1 if kind == "double" else 0]
        with predictors.session(graph, SessionOptions()) as session:  # with Grappler on, bits differ
            session.run(initializer)
            for step in range(max(saved)):
                picked = np.arange(step * BATCH, (step + 1) * BATCH) % ROWS
                feeds = {"x:0": held["x"][picked], "target:0": held["target:0"][picked], "keep:0": held["keep"]}
                session.run(train_op, feeds)
                if step + 1 in saved:
                    saving.save(session, str(out / "model.ckpt"), global_step=step + 1)


def values(prefix: Path, keys: list[str]) -> Mapping[str, list[Any]]:
    """Some tensors of a checkpoint."""
    checkpoint = saver.reader(prefix)
    return {key: saver.read(checkpoint, key, prefix).tolist() for key in keys}
