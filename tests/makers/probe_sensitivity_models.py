"""Small models, and the probe's sensitivity for each. Everything here runs in a child."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from tasks.graphs import variables as graph_variables
from tasks.parity import predictor as predictors
from tasks.parity.predictor import SessionPredictor
from tasks.quality import evaluate
from tasks.records.baseline import TensorFact
from tasks.records.evaluation import ProbeWorth
from tasks.records.settings import SessionOptions
from tasks.records.signature import Method, Signature, TensorSpec
from tasks.tensors.tensor_file import Array, Tensors, fact

DRAWN = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)


@contextmanager
def _model(build: Callable[[Any], Mapping[str, Any]]) -> Iterator[tuple[SessionPredictor, Signature]]:
    """What `build` makes of x: float32[?, 3], initialised."""
    import tensorflow as tf

    v1 = tf.compat.v1
    graph = tf.Graph()
    with graph.as_default():
        x = v1.placeholder(tf.float32, [None, 3], "x")
        outputs = {
            name: TensorSpec(tensor=tensor.name, dtype=tensor.dtype.name, shape=None)
            for name, tensor in build(x).items()
        }
        inputs = {"x": TensorSpec(tensor="x:0", dtype="float32", shape=(None, 3))}
        signature = Signature(key="s", method=Method.PREDICT, inputs=inputs, outputs=outputs)
        named = graph_variables.read_tensors(graph, [variable.op.name for variable in v1.global_variables()])
        init = v1.global_variables_initializer()
    with predictors.session(graph, SessionOptions()) as session:
        session.run(init)
        yield SessionPredictor("live", session, [signature], named), signature


def _worth(build: Callable[[Any], Mapping[str, Any]], rows: Array = DRAWN, **options: Any) -> ProbeWorth:
    with _model(build) as (predictor, signature):
        outputs = {f"s/{name}": array for name, array in predictor.predict("s", {"x": rows}).items()}
        return evaluate.probe_worth(predictor, [signature], {"s/x": rows}, outputs, **options)


def _classifier(resource: bool) -> Callable[[Any], Mapping[str, Any]]:
    def build(x: Any) -> Mapping[str, Any]:
        import tensorflow as tf

        def variable(name: str, value: Any) -> Any:
            return tf.compat.v1.get_variable(name, initializer=np.float32(value), use_resource=resource)

        logits = x @ variable("w", np.eye(3)) + variable("b", np.zeros(3))
        scaled = logits * variable("scale", 1.0)
        # Read for the output, and of no effect on it.
        logits = tf.where(tf.fill(tf.shape(logits), True), scaled, scaled + variable("dead", 5.0))
        variable("not_needed", 1.0)
        return {"logits": tf.identity(logits, "logits"), "class": tf.argmax(logits, axis=1)}

    return build


def of_drawn_rows(resource: bool = True) -> ProbeWorth:
    return _worth(_classifier(resource))


def of_equal_rows() -> ProbeWorth:
    return _worth(_classifier(True), np.repeat(DRAWN[:1], 20, axis=0))


def of_one_sided_rows() -> ProbeWorth:
    return _worth(_classifier(True), DRAWN + np.array([100, 0, 0], np.float32))


def of_variables_in_functions() -> ProbeWorth:
    def build(x: Any) -> Mapping[str, Any]:
        import tensorflow as tf

        v1 = tf.compat.v1
        inside = v1.get_variable("in_function", initializer=np.float32(2), use_resource=True)
        gathered = v1.get_variable("gathered", initializer=np.ones((4, 3), np.float32), use_resource=True)
        plain = v1.get_variable("plain", initializer=np.float32(2), use_resource=True)
        function = tf.function(lambda y: y * inside)
        return {"y": function(x) + tf.gather(gathered, tf.zeros([1], tf.int32)) * plain}

    return _worth(build)


def of_many_variables(seconds: float) -> ProbeWorth:
    def build(x: Any) -> Mapping[str, Any]:
        import tensorflow as tf

        v1 = tf.compat.v1
        sums = [tf.reduce_sum(v1.get_variable(f"v{i}", initializer=np.ones(i + 1, np.float32))) for i in range(70)]
        return {"y": x + tf.stack(sums)[:, tf.newaxis, tf.newaxis]}

    return _worth(build, seconds=seconds)


def of_a_random_model() -> ProbeWorth:
    def build(x: Any) -> Mapping[str, Any]:
        import tensorflow as tf

        return {"y": x * tf.compat.v1.get_variable("w", initializer=2.0) + tf.random.normal(tf.shape(x))}

    return _worth(build)


def of_a_frozen_graph() -> ProbeWorth:
    def build(x: Any) -> Mapping[str, Any]:
        import tensorflow as tf

        dead = tf.constant([1.0, 2.0, 3.0], name="dead")
        return {"y": tf.where(x < 1e30, x * tf.constant([1.0, 2.0, 3.0], name="w"), x + dead)}

    return _worth(build)


def of_another_form() -> ProbeWorth:
    class Other:
        form = "other"
        signatures: Mapping[str, Signature] = {}

        def predict(self, signature: str, inputs: Mapping[str, Array]) -> Tensors:
            return {"y": inputs["x"] * 2}

        def values(self) -> Iterator[TensorFact]:
            yield fact("w", np.float32([2]))

    signature = Signature(key="s", method=Method.PREDICT, inputs={}, outputs={})
    return evaluate.probe_worth(Other(), [signature], {"s/x": DRAWN}, {"s/y": DRAWN * 2})


def nothing_stays_changed() -> None:
    with _model(_classifier(True)) as (predictor, signature):
        before = {value.name: value.sha256 for value in predictor.values()}
        outputs = {f"s/{name}": array for name, array in predictor.predict("s", {"x": DRAWN}).items()}
        assert evaluate.probe_worth(predictor, [signature], {"s/x": DRAWN}, outputs).tried == 4
        assert {value.name: value.sha256 for value in predictor.values()} == before
        assert (predictor.predict("s", {"x": DRAWN})["logits"] == outputs["s/logits"]).all()


def of_an_index() -> ProbeWorth:
    def build(x: Any) -> Mapping[str, Any]:
        import tensorflow as tf

        last = tf.compat.v1.get_variable("last", initializer=np.int32(2))
        return {"y": x * tf.gather(tf.constant([1.0, 2.0, 3.0]), last)}

    return _worth(build)
