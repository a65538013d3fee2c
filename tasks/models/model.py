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

The module that holds it may declare `DATA = ("data.csv",)`: files, relative to the module or to an installed package,
whose contents are part of train's key. Without a declaration the data cannot be digested, and training always runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tasks.forms.tensors import Array
from tasks.records.signature import Method

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


class Model(Protocol):
    """A model in TF1 graph mode."""

    hyperparameters: HyperParameters

    def build(self, hyperparameters: HyperParameters) -> Graph:
        """Make the graph in the current default graph."""
        ...

    def batches(self, start: int, hyperparameters: HyperParameters) -> Iterator[Mapping[str, Array]]:
        """Feeds by tensor name, one a training step, endless. The one for step `start` comes first and does not
        depend on where iteration began, so that interrupted training goes on as if nothing had happened."""
        ...

    def validation(self) -> Mapping[str, Array]:
        """Feeds by tensor name on which `metrics` are computed; empty where there are none."""
        ...

    def probe(self) -> Mapping[str, Mapping[str, Array]]:
        """For every signature key one fixed batch of inputs, by input name."""
        ...
