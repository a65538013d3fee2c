"""Graphs whose answers depend on more than their inputs, or only look so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tasks.errors import ImpureError
from tasks.graphs import purity
from tasks.records.signature import Impurity, Method, Signature, TensorSpec


def judged(kinds: list[str], declared: tuple[Impurity, ...] = ()) -> dict[str, str]:
    """What is said of graphs by kind: "" for a pure one, the impurities that are declared, or the refusal."""
    said = {}
    for kind in kinds:
        graph_def, fed = _graph(kind)
        inputs = {name: TensorSpec(tensor=f"{name}:0", dtype="float32", shape=(None,)) for name in fed}
        outputs = {"y": TensorSpec(tensor="y:0", dtype="float32", shape=(None,))}
        signature = Signature(key="serve", method=Method.PREDICT, inputs=inputs, outputs=outputs)
        try:
            said[kind] = " ".join(purity.require_pure(graph_def, [signature], declared, "the model"))
        except ImpureError as error:
            said[kind] = str(error)
    return said


def _graph(kind: str) -> tuple[Any, tuple[str, ...]]:
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph:
        v1.disable_control_flow_v2()
        x = v1.placeholder(tf.float32, [None], name="x")
        fed: tuple[str, ...] = ("x",)
        if kind == "keep_prob is an input":
            fed = ("x", "k")
        tf.identity(_KINDS[kind](x), name="y")
        return graph.as_graph_def(), fed


def _variable(value: float = 0.0, **kinds: Any) -> Any:
    import tensorflow as tf

    return tf.compat.v1.get_variable("v", initializer=value, **kinds)


def _running_maximum(x: Any) -> Any:
    import tensorflow as tf

    return x + _variable(use_resource=True).assign(tf.maximum(_variable_again(), tf.reduce_max(x)))


def _variable_again() -> Any:
    import tensorflow as tf

    with tf.compat.v1.variable_scope("", reuse=True):
        return tf.compat.v1.get_variable("v", dtype=tf.float32, use_resource=True)


def _written_before(x: Any, read: bool, resource: bool = True) -> Any:
    """Each call counts; the answer reads the count or not."""
    import tensorflow as tf

    count = _variable(use_resource=resource)
    with tf.control_dependencies([tf.compat.v1.assign_add(count, 1.0)]):
        return x + count if read else tf.identity(x)


def _in_function(x: Any, read: bool) -> Any:
    """The same in a function that takes the handle, as TF2 exports it."""
    import tensorflow as tf

    raw = tf.raw_ops
    handle = raw.VarHandleOp(dtype=tf.float32, shape=[], shared_name="count")

    def body(given: Any, rows: Any) -> Any:
        raw.AssignAddVariableOp(resource=given, value=1.0)
        return rows + raw.ReadVariableOp(resource=given, dtype=tf.float32) if read else rows * 2.0

    made = tf.function(body, autograph=False).get_concrete_function(
        tf.TensorSpec([], tf.resource), tf.TensorSpec([None], tf.float32)
    )
    made.add_to_graph(tf.compat.v1.get_default_graph())
    return raw.StatefulPartitionedCall(args=[handle, x], Tout=[tf.float32], f=made)[0]


def _state_in_function(x: Any) -> Any:
    import tensorflow as tf

    raw = tf.raw_ops

    def body(rows: Any) -> Any:
        handle = raw.VarHandleOp(dtype=tf.float32, shape=[], shared_name="inner")
        raw.AssignAddVariableOp(resource=handle, value=1.0)
        return rows + raw.ReadVariableOp(resource=handle, dtype=tf.float32)

    made = tf.function(body, autograph=False).get_concrete_function(tf.TensorSpec([None], tf.float32))
    made.add_to_graph(tf.compat.v1.get_default_graph())
    return raw.StatefulPartitionedCall(args=[x], Tout=[tf.float32], f=made)[0]


def _tail(x: Any) -> Any:
    import tensorflow as tf

    return tf.where(tf.abs(x) > 1e6, tf.random.normal(tf.shape(x)), x)


def _cond(x: Any, predicate: Any, functional: bool = False) -> Any:
    import tensorflow as tf

    v1 = tf.compat.v1
    if functional:
        v1.enable_control_flow_v2()
    made = v1.cond(predicate, lambda: x + tf.random.normal(tf.shape(x)), lambda: x)
    v1.disable_control_flow_v2()
    return made


def _long_sum(x: Any) -> Any:
    """A truth that is a constant, doubled so often that asking each summand anew would never end."""
    import tensorflow as tf

    value: Any = tf.constant(False)
    for _ in range(200):
        value = tf.logical_and(value, value)
    return value


def _default(value: Any) -> Any:
    import tensorflow as tf

    return tf.compat.v1.placeholder_with_default(value, [], name="k")


def _constant(value: Any) -> Any:
    import tensorflow as tf

    return tf.constant(value)


def _dropout(x: Any, keep: Any) -> Any:
    import tensorflow as tf

    return tf.compat.v1.nn.dropout(x, keep_prob=keep)


def _masked(x: Any, shift: float, rate: float, scale: float = 1.0) -> Any:
    """Dropout written by hand, of a draw that is scaled and shifted first."""
    import tensorflow as tf

    drawn = tf.random.uniform(tf.shape(x)) * scale + shift
    return x * tf.cast(drawn >= rate, tf.float32) if scale == 1.0 else x * tf.floor(1.0 + drawn)


def _queue(x: Any) -> Any:
    import tensorflow as tf

    queue = tf.queue.FIFOQueue(10, [tf.float32], shapes=[[]])
    with tf.control_dependencies([queue.enqueue(tf.reduce_max(x))]):
        return x + queue.dequeue()


def _table(x: Any, write: bool) -> Any:
    import tensorflow as tf

    table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, 0.0)
    key = tf.constant([1], tf.int64)
    with tf.control_dependencies([table.insert(key, [1.0])] if write else []):
        return x + table.lookup(key)


def _inplace(x: Any, constant: bool) -> Any:
    import tensorflow as tf

    held = tf.constant([0.0, 0.0]) if constant else tf.fill([2], tf.reduce_max(x))
    return x + tf.reduce_sum(tf.raw_ops.InplaceAdd(x=held, i=[0], v=[1.0]))


def _batch_statistics(x: Any) -> Any:
    """Training's batch norm, whose moving averages nobody reads."""
    import tensorflow as tf

    mean = _variable(use_resource=True)
    with tf.control_dependencies([mean.assign(0.9 * mean + 0.1 * tf.reduce_mean(x))]):
        return x - tf.reduce_mean(x)


def _loop(x: Any) -> Any:
    import tensorflow as tf

    def body(i: Any, held: Any) -> Any:
        return i + 1, held.write(i, tf.reduce_sum(x))

    start = tf.TensorArray(tf.float32, 3)
    _, rows = tf.while_loop(lambda i, _: i < 3, body, (0, start))
    return x + tf.reduce_sum(rows.stack())


def _dataset(x: Any) -> Any:
    import tensorflow as tf

    rows = tf.data.Dataset.range(10).map(lambda one: tf.random.normal([]) + tf.cast(one, tf.float32))
    return x + tf.data.experimental.get_single_element(rows.take(1))


def _raw(op: str) -> Callable[[Any], Any]:
    def made(x: Any) -> Any:
        import tensorflow as tf

        if op == "Timestamp":
            return x + tf.cast(tf.timestamp(), tf.float32) * 0.0
        return x + tf.raw_ops.Empty(shape=[1], dtype=tf.float32, init=op == "Empty, zeros")

    return made


def _unused(x: Any) -> Any:
    import tensorflow as tf

    tf.random.normal([3], name="nobody_reads")
    return x + tf.random.stateless_normal([1], seed=[1, 2])


_KINDS: dict[str, Callable[[Any], Any]] = {
    "running maximum": _running_maximum,
    "counter": lambda x: _written_before(x, True),
    "counter in a reference variable": lambda x: _written_before(x, True, False),
    "counter in a function": lambda x: _in_function(x, True),
    "state of a function": _state_in_function,
    "queue": _queue,
    "table": lambda x: _table(x, True),
    "a constant changed in place": lambda x: _inplace(x, True),
    "clock": _raw("Timestamp"),
    "a draw around 0 that looks like dropout": lambda x: _masked(x, -0.5, 0.0),
    "a draw beyond 1 that looks like dropout": lambda x: _masked(x, 0.0, 0.0, 2.0),
    "random in the tail": _tail,
    "dropout on": lambda x: _dropout(x, 0.5),
    "keep_prob is an input": lambda x: _dropout(x, _default(1.0)),
    "dropout, default on": lambda x: _dropout(x, _default(0.5)),
    "switch on": lambda x: _cond(x, _constant(True)),
    "switch by an input": lambda x: _cond(x, x[0] > 0.0),
    "branch on": lambda x: _cond(x, _constant(True), True),
    "random dataset": _dataset,
    "memory": _raw("Empty"),
    "switch by a long sum": lambda x: _cond(x, _long_sum(x)),
    "counter that nobody reads": lambda x: _written_before(x, False),
    "counter in a function that nobody reads": lambda x: _in_function(x, False),
    "table that is only read": lambda x: _table(x, False),
    "a temporary changed in place": lambda x: _inplace(x, False),
    "dropout off by hand": lambda x: _masked(x, 0.0, 0.0),
    "dropout off": lambda x: _dropout(x, _constant(1.0)),
    "dropout, default off": lambda x: _dropout(x, _default(1.0)),
    "switch off": lambda x: _cond(x, _constant(False)),
    "switch, default off": lambda x: _cond(x, _default(False)),
    "branch off": lambda x: _cond(x, _constant(False), True),
    "batch statistics": _batch_statistics,
    "loop": _loop,
    "zeros": _raw("Empty, zeros"),
    "random that nobody reads": _unused,
}
