"""The interface of a model class: what it must provide to be trained and taken to serving.

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

Or with live objects, eagerly: a Keras model or a tf.Module. The annotation `-> Objects` is required:

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

The module of the class may declare `DATA = ("data.csv",)`: files, relative to the module or to an installed package,
whose contents are part of the key of `train`. Without the declaration the data is unknown, and training always runs.
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
    """A signature by the graph's tensors; `allow_nonfinite` declares NaN and infinities legitimate answers."""

    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    method: Method = Method.PREDICT
    allow_nonfinite: bool = False


@dataclass(frozen=True)
class Graph:
    """The result of `build` in graph mode, by tensors and operations of the default graph.

    Without `train_op` the variables are initialised and saved. `metrics` are scalars computed on `validation()`.
    `assets` are (file, Const tensor with its path); `table_init` fills lookup tables.
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
    """The result of `build` in object mode: a tf.Module, a Keras model, or no module and graph functions alone.

    `signatures` are tf.functions with an input signature, or concrete functions; a Keras model has a default one.
    `train_step` takes a batch and updates the module, `evaluate` takes `validation()`; both return scalars by name, such
    as `loss`. A compiled Keras model has both, for batches of `x` and `y`. `trackables` are needed to resume training,
    besides the module: an optimiser. With several workers (TF_CONFIG) `build` runs in the scope of their strategy, and
    `train_step` on each worker's share of the rows, as by `tf.distribute.Strategy.run`. `allow_nonfinite` names the
    signatures for which NaN and infinities are legitimate answers.
    """

    module: Any = None
    signatures: Mapping[str, Any] = field(default_factory=dict)
    train_step: Step | None = None
    evaluate: Step | None = None
    trackables: Mapping[str, Any] = field(default_factory=dict)
    allow_nonfinite: tuple[str, ...] = ()


class Model(Protocol):
    """A user's model, in TF1 graph mode or as live objects."""

    hyperparameters: HyperParameters

    def build(self, hyperparameters: HyperParameters) -> Graph | Objects:
        """Build the graph in the current default graph; or, annotated `-> Objects`, build the objects eagerly."""
        ...

    def batches(self, start: int, hyperparameters: HyperParameters) -> Iterator[Mapping[str, Array]]:
        """Yield the batches of training steps, without end: feeds by tensor name, or batches for `train_step`.

        The first is the one for step `start`, whichever batch iteration began with before, so that interrupted training
        resumes as if it had not been interrupted.
        """
        ...

    def validation(self) -> Mapping[str, Array]:
        """Return the batch for `metrics` or `evaluate`, as in `batches`; empty if there is none."""
        ...

    def probe(self) -> Mapping[str, Mapping[str, Array]]:
        """Return one fixed batch of inputs for every signature key, by input name."""
        ...
