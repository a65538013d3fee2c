"""A Saver checkpoint that is large beside everything else that a run writes: four weights and a global step."""

from __future__ import annotations

from pathlib import Path

MIB = 1 << 20
SIZE = 32 * MIB
LARGEST = SIZE // 4


def large(out: Path) -> None:
    """Write it to `out`, as `model.ckpt-1`."""
    import tensorflow as tf

    v1 = tf.compat.v1
    rows, columns = 2048, LARGEST // 2048 // 4
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, rows], name="x")
        initial = [tf.random.stateless_normal([rows, columns], [number, 1]) for number in range(4)]
        weights = [v1.get_variable(f"w{number}", initializer=value) for number, value in enumerate(initial)]
        v1.train.get_or_create_global_step()
        tf.add_n([tf.matmul(x, weight) for weight in weights], name="y")
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(out / "model.ckpt"), global_step=1)
