"""What a model of one's own must say, to be trained and taken to serving.

    class Linear:
        hyperparameters = {"learning_rate": 0.1, "steps": 100}

        def build(self, hyperparameters):            # in a fresh default graph
            x = tf.compat.v1.placeholder(tf.float32, [None, 1], name="x")
            ...
            return Graph(
                signatures={"serving_default": SignatureTensors({"x": x}, {"y": y})},
                train_op=train_op, loss=loss, global_step=global_step,
            )

        def batches(self, start, hyperparameters):   # endless; the batch for global step `start` first
            ...  yield {"x:0": array, "target:0": array}

        def validation(self): return {...}           # feeds for `metrics`, or {}
        def probe(self): return {"serving_default": {"x": array}}

Or in TF2's way, eagerly, with a Keras model or a tf.Module; the annotation `-> Objects` says so:

    class Classifier:
        hyperparameters = {"steps": 100}

        def build(self, hyperparameters) -> Objects:
            model = keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(3, name="scores")])
            model.compile("adam", "mse")
            return Objects(model)                    # trained on batches {"x": array, "y": array}

    class Scale(tf.Module):
        def __init__(self): self.w = tf.Variable(1.0)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
        def serve(self, x): return {"y": self.w * x}

        ...  build: module = Scale(); return Objects(module, {"serving_default": module.serve}, train_step=…)

The module that holds it may declare `DATA = ("data.csv",)`: files, relative to the module or to an installed package,
whose contents are part of train's key. Without a declaration the data cannot be digested, and training always runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tasks.records.signature import Method
from tasks.tensors.tensor_file import Array

HyperParameters = Mapping[str, Any]


@dataclass(frozen=True)
class SignatureTensors:
    """One signature by the graph's own tensors."""

    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    method: Method = Method.PREDICT
    allow_nonfinite: bool = False


@dataclass(frozen=True)
class Graph:
    """What `build` made, by tensors and operations of the default graph.

    Without `train_op` the variables are initialised and saved as they are. `metrics` are scalars computed on
    `validation()`. `assets` are (file, Const tensor that holds its path); `table_init` fills lookup tables.
    """

    signatures: Mapping[str, SignatureTensors]
    train_op: Any = None
    loss: Any = None
    global_step: Any = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    assets: tuple[tuple[Path, Any], ...] = ()
    table_init: Any = None


Step = Callable[[Mapping[str, Array]], Mapping[str, Any]]


@dataclass(frozen=True)
class Objects:
    """What `build` made, as live objects: a tf.Module, a Keras model, or no module and graph functions alone.

    `signatures` are tf.functions with an input signature, or concrete functions; a Keras model has a default one.
    `train_step` takes a batch and updates the module, `evaluate` takes `validation()`; both return scalars by name, such
    as `loss`. A compiled Keras model brings both, for batches of `x` and `y`. `trackables` are what training goes on
    from besides the module: an optimiser. With several workers (TF_CONFIG) `build` runs in their strategy's scope and
    `train_step` on each one's share of the rows, as `tf.distribute.Strategy.run` does it. `allow_nonfinite` names signatures for which NaN is a legitimate answer.
    """

    module: Any = None
    signatures: Mapping[str, Any] = field(default_factory=dict)
    train_step: Step | None = None
    evaluate: Step | None = None
    trackables: Mapping[str, Any] = field(default_factory=dict)
    allow_nonfinite: tuple[str, ...] = ()


class Model(Protocol):
    """A model of one's own, in TF1 graph mode or as live objects."""

    hyperparameters: HyperParameters

    def build(self, hyperparameters: HyperParameters) -> Graph | Objects:
        """Make the graph in the current default graph; or, annotated `-> Objects`, make the objects eagerly."""
        ...

    def batches(self, start: int, hyperparameters: HyperParameters) -> Iterator[Mapping[str, Array]]:
        """What one training step takes, endless: feeds by tensor name, or a batch for `train_step`. The one for step
        `start` comes first and does not depend on where iteration began, so that interrupted training goes on as if
        nothing had happened."""
        ...

    def validation(self) -> Mapping[str, Array]:
        """What `metrics` or `evaluate` are computed on, as in `batches`; empty where there is nothing."""
        ...

    def probe(self) -> Mapping[str, Mapping[str, Array]]:
        """For every signature key one fixed batch of inputs, by input name."""
        ...
