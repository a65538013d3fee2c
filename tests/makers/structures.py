"""Pairs of graphs that compute the same, and pairs that only seem to on most inputs; compared in a child."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tasks.graphs import graph as graphs
from tasks.graphs import structure
from tasks.records.signature import Method, Signature, TensorSpec
from tasks.tensors import tensor_file


def compared(kinds: list[str]) -> dict[str, tuple[int, list[str]]]:
    """By kind, the nodes compared and the difference: source, found."""
    found = {}
    for kind in kinds:
        one, other = PAIRS[kind]
        count, difference = structure.compare(_side(one), _side(other), SIGNATURE, SIGNATURE)
        found[kind] = count, list(difference or ())
    return found


SIGNATURE = Signature(
    key="serve",
    method=Method.PREDICT,
    inputs={"rows": TensorSpec(tensor="x:0", dtype="float32", shape=(None, 4))},
    outputs={"out": TensorSpec(tensor="y:0", dtype="float32", shape=None)},
)


def _side(made_of: Callable[[Any], Any]) -> structure.Side:
    import tensorflow as tf

    v1 = tf.compat.v1
    v1.disable_control_flow_v2()
    with tf.Graph().as_default() as graph:
        tf.identity(made_of(v1.placeholder(tf.float32, [None, 4], name="x")), name="y")
    return structure.Side(graph.as_graph_def(), _value)


def _value(node: Any, function: str) -> Any:
    if node.op in graphs.VARIABLE_OPS:
        return VALUES[node.name]
    return tensor_file.fact("", graphs.constant(node))


VALUES = {"w": tensor_file.fact("", tensor_file.as_array([1.0, 2.0, 3.0, 4.0])), "v": "others"}


def _tf() -> Any:
    import tensorflow

    return tensorflow


def _constant(value: Any = (1.0, 2.0, 3.0, 4.0), name: str = "w") -> Any:
    import numpy as np

    return _tf().constant(np.array(value), name=name)


def _variable(resource: bool, name: str = "w") -> Any:
    return _tf().compat.v1.get_variable(name, [4], _tf().float64, use_resource=resource)


def _times(x: Any, weights: Any) -> Any:
    return _tf().cast(x, _tf().float64) * weights


def _in_function(body: Callable[..., Any], *given: Any) -> Any:
    specs = [
        _tf().TensorSpec([], _tf().resource) if one.dtype == _tf().resource else _tf().TensorSpec(one.shape, one.dtype)
        for one in given
    ]
    made = _tf().function(body, autograph=False).get_concrete_function(*specs)
    made.add_to_graph(_tf().compat.v1.get_default_graph())
    types = [_tf().dtypes.as_dtype(tensor.dtype) for tensor in made.outputs]
    return _tf().raw_ops.StatefulPartitionedCall(args=list(given), Tout=types, f=made)[0]


def _of_handle(x: Any) -> Any:
    raw = _tf().raw_ops
    handle = raw.VarHandleOp(dtype=_tf().float64, shape=[4], shared_name="w", name="w")
    return _in_function(
        lambda given, rows: _times(rows, raw.ReadVariableOp(resource=given, dtype=_tf().float64)), handle, x
    )


def _gathered(x: Any, resource: bool) -> Any:
    index = _tf().cast(x[:, 0], _tf().int32)
    if not resource:
        return _tf().gather(_constant(), index)
    handle = _tf().raw_ops.VarHandleOp(dtype=_tf().float64, shape=[4], shared_name="w", name="w")
    return _tf().raw_ops.ResourceGather(resource=handle, indices=index, dtype=_tf().float64)


def _cond(x: Any, functional: bool, taken: Callable[[Any], Any]) -> Any:
    v1 = _tf().compat.v1
    if functional:
        v1.enable_control_flow_v2()
    made = v1.cond(_tf().reduce_max(x) > 1e3, lambda: taken(x), lambda: x)
    v1.disable_control_flow_v2()
    return made


def _loop(x: Any, functional: bool, step: float) -> Any:
    v1 = _tf().compat.v1
    if functional:
        v1.enable_control_flow_v2()
    made = v1.while_loop(lambda one: _tf().reduce_max(one) > 1e6, lambda one: one - step, [x])
    v1.disable_control_flow_v2()
    return made


def _pool(x: Any, padding: str) -> Any:
    return _tf().nn.max_pool2d(_tf().reshape(x, [-1, 2, 2, 1]), 2, 2, padding=padding)


def _device(x: Any) -> Any:
    with _tf().device("/cpu:0"), _tf().name_scope("elsewhere"):
        return _tf().nn.relu(_tf().identity(_tf().identity(x)))


def _relu(x: Any) -> Any:
    return _tf().nn.relu(x)


def _looked_up(
    x: Any, name: str = "words", values: tuple[float, ...] = (1.0, 2.0), *, in_function: bool = False
) -> Any:
    """A lookup in one of two tables that constants fill."""
    tf, raw = _tf(), _tf().raw_ops
    held = {}
    for table, filled in (("words", values), ("others", (1.0, 2.0))):
        held[table] = raw.HashTableV2(key_dtype=tf.int64, value_dtype=tf.float32, shared_name=table, name=table)
        keys, numbers = tf.constant([1, 2], tf.int64), tf.constant(filled)
        if in_function:
            _in_function(_filling, held[table], keys, numbers)
        else:
            raw.InitializeTableV2(table_handle=held[table], keys=keys, values=numbers, name=f"fill_{table}")
    default = tf.constant(0.0)
    return raw.LookupTableFindV2(table_handle=held[name], keys=tf.cast(x[:, 0], tf.int64), default_value=default)


def _filling(table: Any, keys: Any, values: Any) -> Any:
    with _tf().control_dependencies([_tf().raw_ops.InitializeTableV2(table_handle=table, keys=keys, values=values)]):
        return _tf().identity(values)


SAME: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "itself": (_relu, _relu),
    "names, devices and identities": (_relu, _device),
    "a variable and its value": (lambda x: _times(x, _variable(False)), lambda x: _times(x, _constant())),
    "a resource and its value under another name": (
        lambda x: _times(x, _variable(True)),
        lambda x: _times(x, _constant(name="frozen")),
    ),
    "a function and its body": (lambda x: _in_function(_relu, x), _relu),
    "a handle in a function and a constant": (_of_handle, lambda x: _times(x, _constant())),
    "a gather of a resource and of its value": (lambda x: _gathered(x, True), lambda x: _gathered(x, False)),
    "a branch": (lambda x: _cond(x, True, _relu), lambda x: _cond(x, True, _relu)),
    "a branch of TensorFlow 1": (lambda x: _cond(x, False, _relu), lambda x: _cond(x, False, _relu)),
    "a loop": (lambda x: _loop(x, True, 1.0), lambda x: _loop(x, True, 1.0)),
    "a loop of TensorFlow 1": (lambda x: _loop(x, False, 1.0), lambda x: _loop(x, False, 1.0)),
    "a table": (_looked_up, _looked_up),
    "a table filled in a function": (_looked_up, lambda x: _looked_up(x, in_function=True)),
}
DIFFERENT: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "op": (_relu, lambda x: _tf().nn.relu6(x)),
    "limit": (_relu, lambda x: _tf().minimum(_relu(x), 1e6)),
    "padding": (lambda x: _pool(x, "SAME"), lambda x: _pool(x, "VALID")),
    "constant": (lambda x: _times(x, _constant()), lambda x: _times(x, _constant((1.0, 2.0, 3.0, 4.0000001)))),
    "another variable": (lambda x: _times(x, _variable(True)), lambda x: _times(x, _variable(True, "v"))),
    "order of inputs": (lambda x: x - _relu(x), lambda x: _relu(x) - x),
    "output": (lambda x: _tf().nn.moments(x, [1])[0], lambda x: _tf().nn.moments(x, [1])[1]),
    "second output": (lambda x: _tf().split(x, 2, 1)[0], lambda x: _tf().split(x, 2, 1)[1]),
    "in a function": (lambda x: _in_function(_relu, x), lambda x: _in_function(lambda rows: _tf().nn.relu6(rows), x)),
    "in a branch": (lambda x: _cond(x, True, _relu), lambda x: _cond(x, True, lambda rows: _tf().nn.relu6(rows))),
    "in a branch of TensorFlow 1": (
        lambda x: _cond(x, False, _relu),
        lambda x: _cond(x, False, lambda rows: _tf().nn.relu6(rows)),
    ),
    "in a loop": (lambda x: _loop(x, True, 1.0), lambda x: _loop(x, True, 2.0)),
    "in a loop of TensorFlow 1": (lambda x: _loop(x, False, 1.0), lambda x: _loop(x, False, 2.0)),
    "another table": (_looked_up, lambda x: _looked_up(x, "others")),
    "another value in a table": (_looked_up, lambda x: _looked_up(x, values=(1.0, 3.0))),
    "another value in a table filled in a function": (
        lambda x: _looked_up(x, in_function=True),
        lambda x: _looked_up(x, values=(1.0, 3.0), in_function=True),
    ),
    "the input itself": (lambda x: x, lambda x: x[:, ::-1]),
}
PAIRS = SAME | DIFFERENT
