"""One small model in several forms, copies of it with a planted fault, and calls on them; in children."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

OPTIONS = ("--input", "x:0", "--output", "logits:0", "--output", "probs:0")


def every(folder: Path) -> None:
    """Everything that is made here: each fault of `frozen.pb` under its name, and the forms below."""
    for place in (folder, folder / "resource"):
        place.mkdir(exist_ok=True)
        written(place, resource=place is not folder)
        for fault in FAULTS:
            spoiled(place / "frozen.pb", fault, place / f"{fault}.pb")
    shutil.copytree(folder / "saved_model", folder / "swapped_model")
    signatures_swapped(folder / "swapped_model")
    keras(folder)
    two_signatures(folder)
    talking(folder)
    called(folder)
    picky(folder)
    looping(folder)


def written(folder: Path, resource: bool = False) -> None:
    """`model.ckpt` with its `.meta`, `frozen.pb`, and `saved_model`: two dense layers with a Relu between."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with v1.Graph().as_default() as graph, v1.variable_scope("", use_resource=resource):
        x = v1.placeholder(tf.float32, [None, 4], name="x")
        rng = np.random.default_rng(3)
        hidden = v1.nn.relu(_dense(x, "hidden", rng, (4, 8)), name="relu")
        logits = tf.identity(_dense(hidden, "dense", rng, (8, 3)), name="logits")
        probs = v1.nn.softmax(logits, name="probs")
        with v1.Session(graph=graph) as session:
            session.run(v1.global_variables_initializer())
            v1.train.Saver().save(session, str(folder / "model.ckpt"))
            definition = v1.graph_util.convert_variables_to_constants(
                session, graph.as_graph_def(), ["logits", "probs"]
            )
            (folder / "frozen.pb").write_bytes(definition.SerializeToString())
            v1.saved_model.simple_save(
                session, str(folder / "saved_model"), {"x": x}, {"logits": logits, "probs": probs}
            )


def _dense(x: Any, name: str, rng: Any, shape: tuple[int, int]) -> Any:
    import tensorflow as tf

    v1 = tf.compat.v1
    with v1.variable_scope(name):
        kernel = v1.get_variable("kernel", initializer=rng.normal(size=shape).astype(np.float32))
        bias = v1.get_variable("bias", initializer=rng.normal(size=shape[1:]).astype(np.float32))
        return v1.nn.bias_add(tf.matmul(x, kernel, name="MatMul"), bias, name="BiasAdd")


def spoiled(path: Path, fault: str, out: Path) -> None:
    """A copy of a GraphDef with one of the faults below."""
    import tensorflow as tf

    definition = tf.compat.v1.GraphDef.FromString(path.read_bytes())
    FAULTS[fault]({node.name: node for node in definition.node}, definition)
    out.write_bytes(definition.SerializeToString())


def _weight_changed(nodes: dict[str, Any], definition: Any) -> None:
    _moved(nodes["dense/kernel"], 5, 0.5)


def _weight_changed_slightly(nodes: dict[str, Any], definition: Any) -> None:
    _moved(nodes["hidden/bias"], 1, 1e-6)
    _moved(nodes["dense/bias"], 2, 1.0)


def _moved(node: Any, index: int, by: float) -> None:
    import tensorflow as tf

    value = tf.make_ndarray(node.attr["value"].tensor).copy()
    value.flat[index] += by
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))


def _op_changed(nodes: dict[str, Any], definition: Any) -> None:
    nodes["relu"].op = "Tanh"


def _outputs_swapped(nodes: dict[str, Any], definition: Any) -> None:
    nodes["logits"].name, nodes["probs"].name = "probs", "logits"
    nodes["probs"].input[0] = "probs"  # the softmax reads what it read, under its new name


def _input_swapped(nodes: dict[str, Any], definition: Any) -> None:
    nodes["dense/BiasAdd"].input[0] = "twice"
    twice = definition.node.add(name="twice", op="Add", input=["dense/MatMul", "dense/MatMul"])
    twice.attr["T"].type = 1


def _other_dtype(nodes: dict[str, Any], definition: Any) -> None:
    nodes["x"].attr["dtype"].type = 2
    cast = definition.node.add(name="x_cast", op="Cast", input=["x"])
    cast.attr["SrcT"].type, cast.attr["DstT"].type = 2, 1
    nodes["hidden/MatMul"].input[0] = "x_cast"


def _other_width(nodes: dict[str, Any], definition: Any) -> None:
    import tensorflow as tf

    nodes["x"].attr["shape"].shape.CopyFrom(tf.TensorShape([None, 5]).as_proto())
    kernel = tf.make_ndarray(nodes["hidden/kernel"].attr["value"].tensor)
    wider = np.concatenate([kernel, kernel[:1]])
    nodes["hidden/kernel"].attr["value"].tensor.CopyFrom(tf.make_tensor_proto(wider))


def _one_row(nodes: dict[str, Any], definition: Any) -> None:
    import tensorflow as tf

    nodes["x"].attr["shape"].shape.CopyFrom(tf.TensorShape([1, 4]).as_proto())


def _renamed(nodes: dict[str, Any], definition: Any) -> None:
    for node in definition.node:
        node.name = f"other/{node.name}"
        node.input[:] = [f"other/{source}" for source in node.input]


def _noisy(nodes: dict[str, Any], definition: Any) -> None:
    shape = definition.node.add(name="noise_shape", op="Shape", input=["dense/BiasAdd"])
    shape.attr["T"].type, shape.attr["out_type"].type = 1, 3
    noise = definition.node.add(name="noise", op="RandomUniform", input=["noise_shape"])
    noise.attr["T"].type, noise.attr["dtype"].type = 3, 1
    added = definition.node.add(name="noisy", op="AddV2", input=["dense/BiasAdd", "noise"])
    added.attr["T"].type = 1
    nodes["logits"].input[0] = "noisy"


FAULTS: dict[str, Callable[[dict[str, Any], Any], None]] = {
    "weight changed": _weight_changed,
    "weight changed slightly": _weight_changed_slightly,
    "op changed": _op_changed,
    "outputs swapped": _outputs_swapped,
    "input swapped": _input_swapped,
    "other dtype": _other_dtype,
    "other width": _other_width,
    "one row": _one_row,
    "renamed": _renamed,
    "noisy": _noisy,
}


def signatures_swapped(folder: Path) -> None:
    """A SavedModel whose outputs are called by each other's names."""
    from tensorflow.core.protobuf import saved_model_pb2

    path = folder / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    outputs = model.meta_graphs[0].signature_def["serving_default"].outputs
    outputs["logits"].name, outputs["probs"].name = outputs["probs"].name, outputs["logits"].name
    path.write_bytes(model.SerializeToString())


def called(folder: Path) -> None:
    """`called` and `called_changed`: SavedModels of TF2 whose function computes x + 1, and x + 2."""
    import tensorflow as tf

    for name, added in (("called", 1.0), ("called_changed", 2.0)):
        module = tf.Module()
        tf.saved_model.save(module, str(folder / name), signatures=_adding(added))


def _adding(added: float) -> Any:
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
    def main(x: Any) -> dict[str, Any]:
        return {"y": x + added}

    return main


def picky(folder: Path) -> None:
    """`picky.pb`: y = three numbers by index, which fails on any other index; `easy.pb` has a hundred."""
    import tensorflow as tf

    for name, count in (("picky", 3), ("easy", 100)):
        with tf.Graph().as_default() as graph:
            x = tf.compat.v1.placeholder(tf.int32, [None], name="x")
            numbers = [float(number) for number in range(count)]
            tf.raw_ops.GatherV2(params=numbers, indices=x, axis=0, name="y")
            (folder / f"{name}.pb").write_bytes(graph.as_graph_def().SerializeToString())


def looping(folder: Path) -> None:
    """`loop.pb`, and `loop_changed.pb`: y = 1.5^3 x in a loop of TF1, then a branch; the changed one adds after it."""
    import tensorflow as tf

    v1 = tf.compat.v1
    v1.disable_control_flow_v2()
    for name, added in (("loop", 0.0), ("loop_changed", 0.25)):
        with v1.Graph().as_default() as graph:
            x = v1.placeholder(tf.float32, [None, 2], name="x")
            turns = v1.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, y * 1.5), [0, x], name="turns")
            after = tf.identity(turns[1], name="after")
            moved = tf.add(after, added, name="moved")
            _branch(tf.reduce_sum(x) > 1e9, moved)
            (folder / f"{name}.pb").write_bytes(graph.as_graph_def().SerializeToString())


def _branch(condition: Any, value: Any) -> None:
    import tensorflow as tf

    chosen = tf.compat.v1.cond(condition, lambda: value * 7.0, lambda: value * 2.0, name="branch")
    tf.identity(chosen, name="y")


def keras(folder: Path) -> None:
    """`model.keras`, and the same model as the SavedModel `exported`; `other.keras` has other weights."""
    import keras as k

    k.utils.set_random_seed(1)
    inputs = k.Input((4,), name="x")
    model = k.Model(inputs, k.layers.Dense(3, name="out")(k.layers.Dense(5, activation="relu", name="in")(inputs)))
    model.save(folder / "model.keras")
    model.export(str(folder / "exported"), format="tf_saved_model", verbose=False)
    model.layers[1].kernel.assign(model.layers[1].kernel * 2.0)
    model.save(folder / "other.keras")


def two_signatures(folder: Path) -> None:
    """`both`: a SavedModel with `serving_default` and `extra`, which has an output more; `one`: without `extra`."""
    import tensorflow as tf

    for name in ("both", "one"):
        module = tf.Module()
        module.w = tf.Variable([[2.0], [3.0]], name="w")
        functions = {"serving_default": _product(module, 1)} | (
            {"extra": _product(module, 2)} if name == "both" else {}
        )
        tf.saved_model.save(module, str(folder / name), signatures=functions)


def _product(module: Any, outputs: int) -> Any:
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
    def main(x: Any) -> dict[str, Any]:
        return dict.fromkeys("yz"[:outputs], x @ module.w)

    return main


def talking(folder: Path) -> None:
    """`talk`: a SavedModel that gives strings, bytes, integers, NaN and infinities, and half precision."""
    import tensorflow as tf

    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def main(x: Any) -> dict[str, Any]:
        raw = tf.fill(tf.shape(x), tf.constant(b"\xff\x00"))
        return {
            "word": tf.strings.as_string(tf.cast(x, tf.int32)),
            "raw": raw,
            "text_bytes": tf.fill(tf.shape(x), "a"),
            "count": tf.cast(x, tf.int64),
            "log": tf.math.log(x),
            "inverse": 1.0 / x,
            "tenth": x * 0.0 + 0.1,
            "half": tf.cast(x, tf.bfloat16),
            "yes": x > 0.0,
        }

    tf.saved_model.save(module, str(folder / "talk"), signatures=main)
