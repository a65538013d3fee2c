"""A frozen network whose large terms cancel: a good one, whose answers move with every other order of its sums."""

from __future__ import annotations

from pathlib import Path

import numpy as np

UNITS = 512


def write(out: Path) -> None:
    """Write `mlp.pb`, from `x` to `y`, and `reordered.pb`, which computes the same with its last two sums exchanged."""
    for name, exchanged in (("mlp", False), ("reordered", True)):
        (out / f"{name}.pb").write_bytes(network(exchanged))


def network(exchanged: bool) -> bytes:
    """The network as a GraphDef."""
    import tensorflow as tf

    random = np.random.default_rng(3)

    def weights(*shape: int, scale: float) -> np.ndarray:
        return (random.standard_normal(shape) * scale).astype(np.float32)

    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 64], name="x")
        hidden = tf.nn.relu(tf.matmul(x, weights(64, UNITS, scale=0.1)) + weights(UNITS, scale=1.0))
        hidden = tf.nn.relu(tf.matmul(hidden, weights(UNITS, UNITS, scale=0.3)) + weights(UNITS, scale=1.0))
        readout = weights(UNITS, scale=1.0)
        sums = [tf.squeeze(tf.matmul(hidden, readout[:, np.newaxis]), 1), tf.reduce_sum(hidden * readout, 1)]
        large, less = sums[::-1] if exchanged else sums
        tf.identity(large - 0.9 * less + 1.0, name="y")
    encoded: bytes = graph.as_graph_def().SerializeToString()
    return encoded
