"""One small network, written by TensorFlow's own API in each of the forms that it ever had. Everything here runs in a child.

Each way leaves its model's files in `out`, with the inputs that the writing session was asked (`probe.npz`) and what it
answered (`answers.npz`, keyed `signature/output`).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.makers import keras_2_models

ROWS = np.random.default_rng(3).normal(size=(9, 3)).astype(np.float32)
WORDS = np.array([b"river", b"hill", b"nowhere", b"sea"], dtype=object)
VOCABULARY = ("river", "sea", "hill")


class Net(NamedTuple):
    """A network's tensors in the default graph."""

    x: Any
    y: Any


def value(*shape: int, seed: int) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def net(*, resource: bool = False, parts: int = 1, second: str = "") -> Net:
    """x: float32[batch, 3] -> y: float32[batch, 2], two dense layers; `second` is the device of the second."""
    import tensorflow as tf

    v1 = tf.compat.v1
    partitioner = v1.fixed_size_partitioner(parts) if parts > 1 else None
    with v1.variable_scope("net", use_resource=resource, partitioner=partitioner):
        x = v1.placeholder(tf.float32, [None, 3], name="x")
        with tf.device("/cpu:0" if second else None):
            w = v1.get_variable("w", [3, 4], initializer=v1.random_normal_initializer(seed=1))
            b = v1.get_variable("b", [4], initializer=v1.random_normal_initializer(seed=2))
        with tf.device(second or None):
            out = v1.get_variable("out", [4, 2], initializer=v1.random_normal_initializer(seed=4))
        hidden = tf.nn.relu(tf.matmul(x, tf.convert_to_tensor(w)) + tf.convert_to_tensor(b))
        y = tf.matmul(hidden, tf.convert_to_tensor(out), name="y")
    return Net(x, y)


def answered(out: Path, inputs: Mapping[str, Any], answers: Mapping[str, Any]) -> None:
    """Keep what the model was asked, and what it answered."""
    np.savez(out / "probe.npz", **{name: _plain(rows) for name, rows in inputs.items()})
    keyed = {name if "/" in name else f"serving_default/{name}": _plain(rows) for name, rows in answers.items()}
    np.savez(out / "answers.npz", **{name.replace("/", "|"): rows for name, rows in keyed.items()})


def _plain(rows: Any) -> Any:
    array = np.asarray(rows)
    return array.astype(np.bytes_) if array.dtype == object else array  # without a pickle


# Saver checkpoints ----------------------------------------------------------------------------------------------------


def _session(build: Callable[[], Net], out: Path, leave: Callable[[Any, Net], None], devices: int = 1) -> None:
    """Build, initialise, ask; then `leave` the files."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default():
        made = build()
        config = v1.ConfigProto(device_count={"CPU": devices})
        with v1.Session(config=config) as session:
            session.run(v1.global_variables_initializer())
            answered(out, {"x": ROWS}, {"y": session.run(made.y, {made.x: ROWS})})
            leave(session, made)


def _saved(out: Path, **options: Any) -> Callable[[Any, Net], None]:
    def leave(session: Any, _: Net) -> None:
        import tensorflow as tf

        tf.compat.v1.train.Saver(**options).save(session, str(out / "model.ckpt"), global_step=7)

    return leave


def saver_v2(out: Path) -> None:
    _session(net, out, _saved(out))


def saver_v2_resource_variables(out: Path) -> None:
    _session(lambda: net(resource=True), out, _saved(out))


def saver_v2_two_shards(out: Path) -> None:
    _session(lambda: net(second="/cpu:1"), out, _saved(out, sharded=True), devices=2)
    assert len(list(out.glob("*.data-0000?-of-00002"))) == 2


def saver_v2_partitioned(out: Path) -> None:
    _session(lambda: net(parts=2), out, _saved(out))


def saver_v2_partitioned_resource_variables(out: Path) -> None:
    _session(lambda: net(resource=True, parts=3), out, _saved(out))


def saver_v1(out: Path) -> None:
    _session(net, out, _saved(out, write_version=1))
    assert (out / "model.ckpt-7").is_file()


def saver_v1_two_shards(out: Path) -> None:
    _session(lambda: net(second="/cpu:1"), out, _saved(out, write_version=1, sharded=True), devices=2)
    assert len(list(out.glob("model.ckpt-7-0000?-of-00002"))) == 2


def saver_v1_of_tensorflow_before_0_11(out: Path) -> None:
    """`Variable` ops, a producer version that cannot be parsed, no shape in the placeholder, a `.ckpt` without a step."""
    import tensorflow as tf
    from tensorflow.core.protobuf import meta_graph_pb2

    def leave(session: Any, made: Net) -> None:
        tf.compat.v1.train.Saver(write_version=1).save(session, str(out / "model.ckpt"))
        path = out / "model.ckpt.meta"
        meta = meta_graph_pb2.MetaGraphDef.FromString(path.read_bytes())
        meta.meta_info_def.tensorflow_version = "0.10.head"
        meta.graph_def.versions.producer = 17
        for node in meta.graph_def.node:
            if node.op == "VariableV2":
                node.op = "Variable"
            if node.op == "Placeholder":
                node.attr["shape"].shape.Clear()
            for name in [name for name in node.attr if name.startswith("_output_shapes")]:
                del node.attr[name]
        path.write_bytes(meta.SerializeToString())

    _session(net, out, leave)


def moving_averages(out: Path) -> None:
    """A checkpoint of training, and beside it the `.meta` of the evaluation graph that reads the averages by its Saver."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default():
        made = net()
        variables = v1.trainable_variables()
        average = v1.train.ExponentialMovingAverage(0.5)
        with v1.Session() as session:
            session.run(v1.variables_initializer(variables))
            maintain = average.apply(variables)
            session.run(v1.variables_initializer(set(v1.global_variables()) - set(variables)))
            for variable in variables:
                session.run(v1.assign_add(variable, tf.ones_like(variable)))
            session.run(maintain)
            v1.train.Saver().save(session, str(out / "model.ckpt"), global_step=7, write_meta_graph=False)
    with tf.Graph().as_default():
        made = net()
        saver = v1.train.Saver(v1.train.ExponentialMovingAverage(0.5).variables_to_restore())
        saver.export_meta_graph(str(out / "model.ckpt-7.meta"))
        with v1.Session() as session:
            saver.restore(session, str(out / "model.ckpt-7"))
            answered(out, {"x": ROWS}, {"y": session.run(made.y, {made.x: ROWS})})


# A graph and values apart ---------------------------------------------------------------------------------------------


def without_meta(out: Path) -> None:
    """The values, and the graph as `write_graph` leaves it, binary and text."""
    import tensorflow as tf

    def leave(session: Any, _: Net) -> None:
        tf.compat.v1.train.Saver().save(session, str(out / "model.ckpt"), global_step=7, write_meta_graph=False)
        tf.io.write_graph(session.graph, str(out), "graph.pb", as_text=False)
        tf.io.write_graph(session.graph, str(out), "graph.pbtxt", as_text=True)
        (out / "mine.py").write_text((Path(__file__).parent / "user_graph.py").read_text())

    _session(net, out, leave)


def meta_deleted_with_the_first(out: Path) -> None:
    """As a long training leaves it that writes its graph once."""

    def leave(session: Any, _: Net) -> None:
        import tensorflow as tf

        saver = tf.compat.v1.train.Saver(max_to_keep=2)
        for step in (1, 2, 3):
            saver.save(session, str(out / "model.ckpt"), global_step=step, write_meta_graph=step == 1)

    _session(net, out, leave)


def without_meta_under_other_names(out: Path) -> None:
    """The same, saved under keys that are not the variables' names; `map.yaml` says which is which."""
    import tensorflow as tf

    def leave(session: Any, _: Net) -> None:
        v1 = tf.compat.v1
        keys = {f"theirs/{variable.op.name.replace('/', '_')}": variable for variable in v1.global_variables()}
        v1.train.Saver(keys).save(session, str(out / "model.ckpt"), global_step=7, write_meta_graph=False)
        tf.io.write_graph(session.graph, str(out), "graph.pb", as_text=False)
        lines = [f"{variable.op.name}: {key}\n" for key, variable in keys.items()]
        (out / "map.yaml").write_text("".join(lines))

    _session(net, out, leave)


def frozen(out: Path) -> None:
    """A frozen graph, binary and text."""
    import tensorflow as tf

    def leave(session: Any, _: Net) -> None:
        convert = tf.compat.v1.graph_util.convert_variables_to_constants
        graph_def = convert(session, session.graph.as_graph_def(), ["net/y"])
        tf.io.write_graph(graph_def, str(out), "frozen.pb", as_text=False)
        tf.io.write_graph(graph_def, str(out), "frozen.pbtxt", as_text=True)

    _session(net, out, leave)


# SavedModels ----------------------------------------------------------------------------------------------------------


def simple_save(out: Path) -> None:
    import tensorflow as tf

    def leave(session: Any, made: Net) -> None:
        tf.compat.v1.saved_model.simple_save(session, str(out / "model"), {"x": made.x}, {"y": made.y})

    _session(net, out, leave)


def built_with_tag_sets(out: Path) -> None:
    """Three MetaGraphs with tags of their own; `serve,gpu` has other names than `serve`, `train` other answers."""
    import tensorflow as tf

    v1 = tf.compat.v1

    def leave(session: Any, made: Net) -> None:
        builder = v1.saved_model.Builder(str(out / "model"))

        def signature(**tensors: Any) -> dict[str, Any]:
            infos = {name: v1.saved_model.build_tensor_info(tensor) for name, tensor in tensors.items()}
            inputs = {name: info for name, info in infos.items() if name == "x"}
            outputs = {name: info for name, info in infos.items() if name not in inputs}
            build = v1.saved_model.signature_def_utils.build_signature_def
            return {"serving_default": build(inputs, outputs, "tensorflow/serving/predict")}

        builder.add_meta_graph_and_variables(session, ["train"], signature(x=made.x, y=made.y + 1.0))
        builder.add_meta_graph(["serve"], signature(x=made.x, y=made.y))
        builder.add_meta_graph(["serve", "gpu"], signature(x=made.x, scores=made.y))
        builder.save()

    _session(net, out, leave)


def module_with_a_table(out: Path) -> None:
    """A TF2 SavedModel: a tf.Module, a hash table filled from an asset, two signatures."""
    import tensorflow as tf

    (out / "words.txt").write_text("".join(f"{word}\n" for word in VOCABULARY))

    class Embedded(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            initialiser = tf.lookup.TextFileInitializer(
                str(out / "words.txt"), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE,
                tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER,
            )  # fmt: skip
            self.table = tf.lookup.StaticHashTable(initialiser, len(VOCABULARY))
            self.rows = tf.Variable(value(len(VOCABULARY) + 1, 2, seed=5))

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="words")])
        def embed(self, words: Any) -> Any:
            return {"rows": tf.gather(self.rows, self.table.lookup(words))}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="words")])
        def index(self, words: Any) -> Any:
            return {"index": self.table.lookup(words)}

    module = Embedded()
    tf.saved_model.save(module, str(out / "model"), {"serving_default": module.embed, "index": module.index})
    (out / "words.txt").unlink()
    known = tf.constant(WORDS)
    answered(
        out,
        {"serving_default/words": WORDS, "index/words": WORDS},
        {"rows": module.embed(known)["rows"].numpy(), "index/index": module.index(known)["index"].numpy()},
    )


# Objects --------------------------------------------------------------------------------------------------------------


def keras_network() -> Any:
    """A functional model whose batch normalisation has seen something."""
    import keras

    keras.utils.set_random_seed(11)
    x = keras.Input((3,), name="x")
    hidden = keras.layers.Dropout(0.5)(keras.layers.BatchNormalization()(keras.layers.Dense(4, activation="relu")(x)))
    model = keras.Model(x, keras.layers.Dense(2, name="y")(hidden))
    model.compile("adam", "mse")
    model.fit(ROWS, value(len(ROWS), 2, seed=6), epochs=2, verbose=0)
    return model


def _keras_answered(out: Path, model: Any) -> None:
    answered(out, {"x": ROWS}, {"y": model(ROWS, training=False).numpy()})


def keras_archive(out: Path) -> None:
    model = keras_network()
    model.save(out / "model.keras")
    _keras_answered(out, model)


def keras_hdf5(out: Path) -> None:
    model = keras_network()
    model.save(out / "model.h5")
    _keras_answered(out, model)


def keras_2_hdf5(out: Path) -> None:
    """What Keras 3 cannot build: functions of TensorFlow among the layers."""
    import tensorflow as tf

    keras = keras_2_models.keras_2()
    keras.utils.set_random_seed(11)
    x = keras.Input((3,), name="x")
    hidden = keras.layers.LSTM(4)(tf.expand_dims(tf.math.tanh(x) * 2.0, -1))
    model = keras.Model(x, keras.layers.Dense(2, name="y")(tf.concat([hidden, x], axis=-1)))
    model.save(out / "model.h5")
    _keras_answered(out, model)


def keras_export(out: Path) -> None:
    model = keras_network()
    model.export(str(out / "model"), verbose=False)
    answered(out, {"x": ROWS}, {"output_0": model(ROWS, training=False).numpy()})


def keras_weights(out: Path) -> None:
    """HDF5 weights alone, beside the code that builds the model."""
    from tests.makers.user_objects import network

    model = network()
    model.save_weights(out / "model.weights.h5")
    shutil.copyfile(Path(__file__).parent / "user_objects.py", out / "mine.py")
    _keras_answered(out, model)


def keras_archive_of_own_code(out: Path) -> None:
    """An archive with a layer of the user's own, beside the code that has it."""
    from tests.makers.user_objects import doubled

    model = doubled()
    model.compile("adam", "mse")
    model.fit(ROWS, value(len(ROWS), 2, seed=6), epochs=2, verbose=0)
    model.save(out / "model.keras")
    shutil.copyfile(Path(__file__).parent / "user_objects.py", out / "mine.py")
    _keras_answered(out, model)


def keras_hdf5_by_key(out: Path) -> None:
    """A model that takes a dictionary, whose keys are not the names of its input layers."""
    import keras

    a, b = keras.Input((2,), name="layer_a"), keras.Input((3,), name="layer_b")
    x = keras.layers.Concatenate()([keras.layers.Rescaling(2.0)(a), b])
    model = keras.Model({"right": b, "left": a}, keras.layers.Dense(2, name="y")(x))
    model.save(out / "model.h5")
    rows = {"left": ROWS[:, :2], "right": ROWS}
    answered(out, rows, {"y": model(rows, training=False).numpy()})


def object_checkpoint(out: Path) -> None:
    """A tf.train.Checkpoint by its manager, beside the code of the module."""
    import tensorflow as tf

    from tests.makers.user_objects import Affine

    module = Affine()
    module.w.assign(value(3, 2, seed=8))
    module.b.assign(value(2, seed=9))
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(model=module), str(out), max_to_keep=2)
    manager.save(checkpoint_number=7)
    shutil.copyfile(Path(__file__).parent / "user_objects.py", out / "mine.py")
    answered(out, {"x": ROWS}, {"y": module.serve(tf.constant(ROWS))["y"].numpy()})


# What tests ask of TensorFlow -----------------------------------------------------------------------------------------


def tensors_in(path: Path) -> dict[str, str]:
    """The digest of every tensor in a file of ours."""
    from tasks.tensors import tensor_file

    return {name: tensor_file.fact(name, array).sha256 for name, array in tensor_file.read_tensors(path).items()}


def variable_ops_in(path: Path) -> list[str]:
    """The ops of a GraphDef, function bodies included, that hold or read a variable."""
    import tensorflow as tf

    from tasks.graphs import graph, variables

    graph_def = tf.compat.v1.GraphDef.FromString(path.read_bytes())
    return [
        node.op
        for node in graph.Graph(graph_def).every_node()
        if node.op in variables.STATEFUL_OPS or "Variable" in node.op
    ]


def variable_as_probe(prefix: Path, key: str, out: Path) -> None:
    """A checkpoint's tensor as the rows of the input `x`."""
    import tensorflow as tf

    np.savez(out, x=tf.train.load_checkpoint(str(prefix)).get_tensor(key))


def refusal_of_the_v2_loader(folder: Path) -> str:
    """What `tf.saved_model.load` says against a SavedModel; "" where it loads it."""
    import tensorflow as tf

    try:
        tf.saved_model.load(str(folder))
    except Exception as error:
        return str(error)
    return ""


def bytes_of_constant(path: Path, name: str) -> str:
    """The value of a Const in a GraphDef as it stands in the file, in hexadecimal."""
    import tensorflow as tf

    graph_def = tf.compat.v1.GraphDef.FromString(path.read_bytes())
    (node,) = [node for node in graph_def.node if node.name == name]
    return bytes(node.attr["value"].tensor.tensor_content).hex()
