"""Models that each put one promise of the forms to the test, and calls on them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tasks import restore_verify
from tasks.examples.half_plus_two import HalfPlusTwo
from tasks.forms import frozen_graph
from tasks.records.checkpoint import RestoreReport
from tasks.records.parity import NotMade
from tasks.records.signature import GraphNames
from tasks.user_code.model import Graph, HyperParameters, SignatureTensors

DATA: tuple[str, ...] = ()


def _x() -> Any:
    import tensorflow as tf

    return tf.compat.v1.placeholder(tf.float32, [None, 3], name="x")


def _variable(name: str, value: Any) -> Any:
    import tensorflow as tf

    return tf.compat.v1.get_variable(name, initializer=np.asarray(value, np.float32), use_resource=True)


class Rows(HalfPlusTwo):
    """Rows of three numbers."""

    def probe(self) -> Mapping[str, Mapping[str, Any]]:
        """Fifty of them, for every signature."""
        rows = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
        return {key: {"x": rows} for key in self.keys}

    keys: tuple[str, ...] = ("serving_default",)


class NanClass(Rows):
    """Every weight is NaN, and the answers are classes: integers, whatever the weights."""

    allowed = False

    def build(self, hyperparameters: HyperParameters) -> Graph:
        """The class alone."""
        import tensorflow as tf

        x = _x()
        answer = tf.argmax(x @ _variable("w", np.full((3, 4), np.nan)), axis=1, name="class")
        return Graph({"serving_default": SignatureTensors({"x": x}, {"class": answer}, allow_nonfinite=self.allowed)})


class NanClassAllowed(NanClass):
    """It says that it means them."""

    allowed = True


class InfinitePlaces(Rows):
    """Infinities where they may be: in a constant mask, and in a variable that no answer reads."""

    def build(self, hyperparameters: HyperParameters) -> Graph:
        """The class among those that the mask leaves."""
        import tensorflow as tf

        x = _x()
        _variable("unread", [np.inf, np.nan])
        mask = tf.constant([0.0, -np.inf, 0.0], name="mask")
        return Graph(
            {"serving_default": SignatureTensors({"x": x}, {"class": tf.argmax(x * _variable("w", 2.0) + mask, 1)})}
        )


class OneAllowed(Rows):
    """Of two signatures one means its NaN; `bad` is read by that one, or by the other."""

    keys = ("serving_default", "raw")
    bad_is_read_by = "raw"

    def build(self, hyperparameters: HyperParameters) -> Graph:
        """A class by each."""
        import tensorflow as tf

        x = _x()
        bad, good = _variable("bad", [1.0, np.nan, 3.0]), _variable("good", [1.0, 2.0, 3.0])
        strict, loose = (good, bad) if self.bad_is_read_by == "raw" else (bad, good)
        return Graph(
            {
                "serving_default": SignatureTensors({"x": x}, {"class": tf.argmax(x * strict, 1)}),
                "raw": SignatureTensors({"x": x}, {"class": tf.argmax(x * loose, 1)}, allow_nonfinite=True),
            }
        )


class OtherAllowed(OneAllowed):
    """The strict one reads it."""

    bad_is_read_by = "serving_default"


class NanAnswers(Rows):
    """The logarithm of what may be negative: NaN in known places, and it says so."""

    def build(self, hyperparameters: HyperParameters) -> Graph:
        """log(w * x)."""
        import tensorflow as tf

        x = _x()
        answer = tf.math.log(x * _variable("w", 2.0), name="y")
        return Graph({"serving_default": SignatureTensors({"x": x}, {"y": answer}, allow_nonfinite=True)})


class Placed(Rows):
    """Placed by hand on devices, in its graph and in the branches and the loop that are functions of its library."""

    def build(self, hyperparameters: HyperParameters) -> Graph:
        """A branch and a loop, each reading a variable inside; and a branch that nobody is served."""
        import tensorflow as tf

        with tf.device("/device:GPU:0"):
            x = _x()
            w, v = _variable("w", 2.0), _variable("v", [1.0, 2.0, 3.0])

            def added() -> Any:
                with tf.device("/CPU:0"):
                    return x * w + v

            y = tf.cond(tf.reduce_sum(x) > 0.0, added, lambda: x * w - v)
        with tf.device("/CPU:0"):
            tf.cond(tf.reduce_sum(x) > 0.0, lambda: w + v, lambda: w - v)
            _, y = tf.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, y * w), (0, y))
        return Graph({"serving_default": SignatureTensors({"x": x}, {"y": tf.identity(y, name="y")})})


class BatchGather(Rows):
    """Gathers from a variable with a batch dimension, which TensorFlow's converter refuses."""

    def build(self, hyperparameters: HyperParameters) -> Graph:
        """One of each row's numbers."""
        import tensorflow as tf

        x = _x()
        table = _variable("table", np.arange(6).reshape(2, 3))
        picked = tf.raw_ops.ResourceGather(
            resource=table.handle, indices=tf.constant([[0], [2]]), dtype=tf.float32, batch_dims=1
        )
        return Graph({"serving_default": SignatureTensors({"x": x}, {"y": tf.reduce_sum(picked) * x})})


# In a child -----------------------------------------------------------------------------------------------------------


def freeze_limited(folder: Path, prefix: Path, names: GraphNames, out: Path, *_: object) -> NotMade | None:
    """`frozen_graph.write` where a message of protobuf held a hundred bytes."""
    frozen_graph.LIMIT = 100
    return frozen_graph.write(folder, prefix, names, out)


def freeze_with_a_bug(error: str, folder: Path, prefix: Path, names: GraphNames, out: Path) -> NotMade | str | None:
    """`frozen_graph.write` with a mistake of ours on the converter's way."""
    kind: type[Exception] = {"ValueError": ValueError, "KeyError": KeyError, "TypeError": TypeError}[error]

    def run(self: Any, tensors: list[str]) -> list[Any]:
        raise kind("ours")

    frozen_graph.Placeholders.run = run  # type: ignore[method-assign]
    try:
        return frozen_graph.write(folder, prefix, names, out)
    except Exception as raised:
        return f"raised {type(raised).__name__}"


def devices(folder: Path, model: Path) -> dict[str, tuple[list[str], list[str]]]:
    """For the frozen graph and the SavedModel: the devices that their nodes name, and all ops of their libraries."""
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    graph = tf.compat.v1.GraphDef.FromString((folder / frozen_graph.GRAPH).read_bytes())
    saved = saved_model_pb2.SavedModel.FromString((model / "saved_model.pb").read_bytes())
    found = {}
    for name, graph_def in (("frozen", graph), ("saved_model", saved.meta_graphs[0].graph_def)):
        library = [node for function in graph_def.library.function for node in function.node_def]
        placed = sorted({node.device for node in [*graph_def.node, *library] if node.device})
        found[name] = placed, sorted({node.op for node in library})
    return found


def devices_of_meta(path: Path) -> list[str]:
    """The devices that the nodes of a `.meta` name, as it lies there."""
    from tensorflow.core.protobuf import meta_graph_pb2

    graph_def = meta_graph_pb2.MetaGraphDef.FromString(path.read_bytes()).graph_def
    library = [node for function in graph_def.library.function for node in function.node_def]
    return sorted({node.device for node in [*graph_def.node, *library] if node.device})


def verify_in_sight(*arguments: Any) -> RestoreReport:
    """`restore_verify.verify` on a system that hides nothing."""
    restore_verify.hide = lambda folders: False  # type: ignore[attr-defined]
    return restore_verify.verify(*arguments)
