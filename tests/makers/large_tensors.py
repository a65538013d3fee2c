"""Variables that are read in pieces or in batches, in children; each function returns what differs or was counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tasks.forms import saved_model
from tasks.parity.predictor import SessionPredictor, variable_pieces
from tasks.records.baseline import TensorFact
from tasks.records.settings import SessionOptions
from tasks.tensors import tensor_file

SAVED = {"weight": np.arange(35, dtype=np.float32).reshape(7, 5), "bias": np.ones(5, dtype=np.float32)}


def _cut_small() -> None:
    """Let everything above a hundred bytes be large."""
    tensor_file.LARGE = 100  # type: ignore[misc]
    tensor_file.PIECE = 64  # type: ignore[misc]


def _values() -> dict[str, Any]:
    import tensorflow as tf

    numbers = tf.reshape(tf.range(7 * 5, dtype=tf.float32), [7, 5])
    return {
        "matrix": numbers,
        "not_finite": tf.where(numbers > 30, float("nan"), numbers),
        "halves": tf.cast(tf.reshape(tf.range(90), [30, 3]), tf.bfloat16),
        "deep": tf.reshape(tf.range(48, dtype=tf.int64), [3, 2, 8]),
        "wide": tf.zeros([1, 300]),
        "scalar": tf.constant(3.0),
        "words": tf.constant(["a", "bc"] * 40),
        "empty": tf.zeros([0, 40]),
    }


def differing() -> list[str]:
    """The variables whose facts differ between pieces and the whole, of references, of resources and outside graphs."""
    import tensorflow as tf

    v1 = tf.compat.v1
    differ = []
    for resource in (False, True):
        with tf.Graph().as_default() as graph, v1.Session() as session:
            held = {name: v1.Variable(value, use_resource=resource, name=name) for name, value in _values().items()}
            session.run(v1.global_variables_initializer())
            wanted = {
                name: tensor_file.fact(name, tensor_file.as_array(session.run(one))) for name, one in held.items()
            }
            unset = v1.Variable(tf.zeros([100, 100]), use_resource=resource, name="unset")
            named = {name: one.value().name for name, one in (held | {"unset": unset}).items()}
            for small in (False, True):
                if small:
                    _cut_small()
                found = {fact.name: fact for fact in SessionPredictor("", session, (), named).values()}
                differ += [f"{name}, {resource=}, {small=}" for name in wanted if wanted[name] != found[name]]
                differ += [] if found["unset"].dtype == "uninitialised" else ["unset"]
            assert graph is session.graph
        tensor_file.LARGE, tensor_file.PIECE = 1 << 28, 1 << 26  # type: ignore[misc]
    _cut_small()
    for name, value in _values().items():
        one = tensor_file.fact_of_pieces(name, variable_pieces(tf.Variable(value)))
        differ += [] if one == tensor_file.fact(name, tensor_file.as_array(value.numpy())) else [f"{name}, eager"]
    return differ


def runs_for(count: int) -> int:
    """How many runs of a session the values of so many small variables take."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        held = {f"v{number}": v1.Variable(float(number), name=f"v{number}") for number in range(count)}
        session.run(v1.global_variables_initializer())
        runs = 0

        class Counting:
            """The session, counting."""

            graph = session.graph

            def run(self, *args: Any) -> Any:
                nonlocal runs
                runs += 1
                return session.run(*args)

        named = {name: one.value().name for name, one in held.items()}
        found = list(SessionPredictor("", Counting(), (), named).values())
        assert [fact.name for fact in found] == list(held)
    return runs


def save(folder: Path) -> None:
    """Write a SavedModel with a weight and a bias as references."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 7], name="x")
        weight, bias = (v1.Variable(value, use_resource=False, name=name) for name, value in SAVED.items())
        y = tf.add(tf.matmul(x, weight), bias, name="y")
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(folder / "m"), {"x": x}, {"y": y})


def loaded_otherwise(folder: Path, loader: str, small: bool) -> list[str]:
    """The variables of `save` whose facts differ after this loader."""
    if small:
        _cut_small()
    with getattr(saved_model, loader)(folder / "m", SessionOptions()) as opened:
        found: dict[str, TensorFact] = {fact.name: fact for fact in opened.values()}
    return [name for name, value in SAVED.items() if found.get(name) != tensor_file.fact(name, value)]
