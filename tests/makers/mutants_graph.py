"""Ways to spoil a SavedModel's graph and signatures, all weights being right. They run in a child: TensorFlow's protos.

Each takes the folder of a SavedModel, already a copy, and changes it in place.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.makers import saved_model_faults

LOGITS, PROBABILITIES, CLASS, IMAGES = "dense/logits:0", "probabilities:0", "class:0", "images:0"


def meta(change: Callable[[Any], None]) -> Callable[[Path], None]:
    """The MetaGraphDef changed."""
    return lambda folder: saved_model_faults.change_meta_graph(folder, change)


def graft(name: str, made_of: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Whoever reads tensor `name` reads what `made_of` makes of it; whatever it depended on is still computed."""

    def change(meta_graph: Any) -> None:
        import tensorflow as tf

        graph = tf.Graph()
        with graph.as_default():
            tf.graph_util.import_graph_def(meta_graph.graph_def, name="")
            before = {operation.name for operation in graph.get_operations()}
            tensor = graph.get_tensor_by_name(name)
            other = made_of(tensor)
            with tf.control_dependencies([tensor]):
                other = tf.identity(other, name="grafted")
            other.set_shape(tensor.shape)
        meta_graph.graph_def.CopyFrom(graph.as_graph_def())
        written = name.removesuffix(":0")
        for node in meta_graph.graph_def.node:
            if node.name in before:
                node.input[:] = ["grafted" if source == written else source for source in node.input]
        for definition in meta_graph.signature_def.values():
            for info in definition.outputs.values():
                info.name = other.name if info.name == name else info.name

    return meta(change)


# Answers that differ --------------------------------------------------------------------------------------------------


def noise(tensor: Any) -> Any:
    """Random noise of a thousandth."""
    import tensorflow as tf

    return tensor + tf.random.normal(tf.shape(tensor), stddev=1e-3)


def centred(tensor: Any) -> Any:
    """The batch's mean subtracted."""
    import tensorflow as tf

    return tensor - tf.reduce_mean(tensor, axis=0, keepdims=True)


def half(tensor: Any) -> Any:
    """There and back through float16."""
    import tensorflow as tf

    return tf.cast(tf.cast(tensor, tf.float16), tf.float32)


def without_softmax(tensor: Any) -> Any:
    """Logits under the name of probabilities."""
    return tensor.graph.get_tensor_by_name(LOGITS)


def hotter(tensor: Any) -> Any:
    """A softmax of another temperature: every class stays what it was."""
    import tensorflow as tf

    return tf.nn.softmax(tensor.graph.get_tensor_by_name(LOGITS) / 1.01)


def across_the_batch(tensor: Any) -> Any:
    """The argmax over the wrong axis, with the right shape."""
    import tensorflow as tf

    best = tf.argmax(tensor.graph.get_tensor_by_name(LOGITS), axis=0)
    return tf.gather(best, tf.range(tf.shape(tensor)[0]) % 10)


def alone_only(tensor: Any) -> Any:
    """Right in every batch, wrong for one row alone."""
    import tensorflow as tf

    return tensor + tf.cast(tf.equal(tf.shape(tensor)[0], 1), tf.float32) * 0.01


def upside_down(tensor: Any) -> Any:
    """The rows' answers in reverse order: right for one row alone."""
    return tensor[::-1]


def inverted(tensor: Any) -> Any:
    """Images with black for white."""
    return 1.0 - tensor


def shifted_labels(tensor: Any) -> Any:
    """Every label is its neighbour's."""
    import tensorflow as tf

    return tf.roll(tensor, 1, axis=1)


def one_nan(tensor: Any) -> Any:
    """NaN in the last row of the whole probe, and nowhere else."""
    import tensorflow as tf

    last = tf.range(tf.shape(tensor)[0]) >= 49
    return tf.where(last[:, None], float("nan"), tensor)


def drifting(tensor: Any) -> Any:
    """Every answer moves a variable: the first one is right."""
    import tensorflow as tf

    answer = tf.identity(tensor)
    handle = tensor.graph.get_tensor_by_name("dense/bias:0")
    with tf.control_dependencies([answer]):
        moved = tf.raw_ops.AssignAddVariableOp(resource=handle, value=tf.fill([10], 1e-3) * tf.range(10.0))
    with tf.control_dependencies([moved]):
        return tf.identity(answer)


def another_epsilon(folder: Path) -> None:
    """Batch normalisation with another epsilon, the recorded one still read by something."""

    def change(meta_graph: Any) -> None:
        import tensorflow as tf

        constant = meta_graph.graph_def.node.add(name="epsilon", op="Const")
        constant.attr["dtype"].type = tf.float32.as_datatype_enum
        constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(0.01, tf.float32))
        node = _node(meta_graph, "conv1/batchnorm/add")
        node.input[:] = [node.input[0], "epsilon", f"^{node.input[1]}"]

    saved_model_faults.change_meta_graph(folder, change)


def constant_changed(meta_graph: Any) -> None:
    """The constant itself changed."""
    import tensorflow as tf

    tensor = tf.make_tensor_proto(0.01, tf.float32)
    _node(meta_graph, "conv1/batchnorm/add/y").attr["value"].tensor.CopyFrom(tensor)


def another_op(name: str, op: str) -> Callable[[Path], None]:
    """One node computes something else."""

    def change(meta_graph: Any) -> None:
        _node(meta_graph, name).op = op

    return meta(change)


# What no answer to the probe shows --------------------------------------------------------------------------------------


def limited(tensor: Any) -> Any:
    """A limit that nothing reaches."""
    import tensorflow as tf

    return tf.clip_by_value(tensor, -1e6, 1e6)


def with_a_branch(tensor: Any) -> Any:
    """Zeros for images that are brighter than any."""
    import tensorflow as tf

    brightest = tf.reduce_max(tensor.graph.get_tensor_by_name(IMAGES))
    return tf.where(brightest > 1e3, tf.zeros_like(tensor), tensor)


def drifting_aside(meta_graph: Any) -> None:
    """Every request adds a little to a weight: only a control edge leads there."""
    import tensorflow as tf

    nodes = meta_graph.graph_def.node
    weight = next(node for node in nodes if node.op in ("VariableV2", "VarHandleOp") and node.name.endswith("kernel"))
    graph = tf.Graph()
    with graph.as_default():
        little = tf.fill([dim.size for dim in weight.attr["shape"].shape.dim], 1e-12, name="drift/little")
        handle = tf.compat.v1.placeholder(
            tf.resource if weight.op == "VarHandleOp" else tf.float32, name="drift/handle"
        )
        if weight.op == "VarHandleOp":
            tf.raw_ops.AssignAddVariableOp(resource=handle, value=little, name="drift/add")
    added = [node for node in graph.as_graph_def().node if node.name != "drift/handle"]
    if weight.op == "VariableV2":
        node = meta_graph.graph_def.node.add(name="drift/add", op="AssignAdd", input=[weight.name, little.op.name])
        node.attr["T"].type = tf.float32.as_datatype_enum
    for node in added:
        nodes.add().CopyFrom(node)
    add = _node(meta_graph, "drift/add")
    add.input[0] = weight.name
    _node(meta_graph, LOGITS.partition(":")[0]).input.append("^drift/add")


def epsilon(change: Callable[[float], float]) -> Callable[[Path], None]:
    """The first batch normalisation reads another constant, made from its own, which something still reads."""

    def changed(meta_graph: Any) -> None:
        import tensorflow as tf

        own = tf.make_ndarray(_node(meta_graph, "conv1/batchnorm/add/y").attr["value"].tensor)
        constant = meta_graph.graph_def.node.add(name="epsilon", op="Const")
        constant.attr["dtype"].type = tf.float32.as_datatype_enum
        constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(change(own), tf.float32))
        node = _node(meta_graph, "conv1/batchnorm/add")
        node.input[:] = [node.input[0], "epsilon", f"^{node.input[1]}"]

    return meta(changed)


def next_float(value: Any) -> float:
    """The float32 above."""
    import numpy as np

    return float(np.nextafter(np.float32(value), np.float32(1)))


def attribute(op: str, name: str, value: int) -> Callable[[Path], None]:
    """An attribute of the first node of an op."""

    def changed(meta_graph: Any) -> None:
        node = next(node for node in meta_graph.graph_def.node if node.op == op)
        node.attr[name].i = value

    return meta(changed)


def another_op_in_a_function(op: str, other: str) -> Callable[[Path], None]:
    """The first node of an op in a function computes something else."""

    def changed(meta_graph: Any) -> None:
        nodes = (node for function in meta_graph.graph_def.library.function for node in function.node_def)
        next(node for node in nodes if node.op == op).op = other

    return meta(changed)


# What a server can load but not fill ----------------------------------------------------------------------------------


def tables_not_filled(meta_graph: Any) -> None:
    """No main op: the tables stay empty."""
    del meta_graph.collection_def["saved_model_main_op"]


def restored_crosswise(meta_graph: Any) -> None:
    """The bundle is right, the restore reads two tensors for each other."""
    import tensorflow as tf

    tensor = _node(meta_graph, "save/RestoreV2/tensor_names").attr["value"].tensor
    names = tf.make_ndarray(tensor).tolist()
    beta, gamma = names.index(b"conv1/beta"), names.index(b"conv1/gamma")
    names[beta], names[gamma] = names[gamma], names[beta]
    tensor.CopyFrom(tf.make_tensor_proto(names))


def initialised_again(meta_graph: Any) -> None:
    """The main op gives a variable its initial value after the restore."""
    _node(meta_graph, "init_all_tables").input.append("^dense/kernel/Assign")


def restored_from(key: str, other: str) -> Callable[[Any], None]:
    """The restore reads one variable from another tensor of the bundle."""

    def change(meta_graph: Any) -> None:
        import tensorflow as tf

        tensor = _node(meta_graph, "save/RestoreV2/tensor_names").attr["value"].tensor
        names = [other.encode() if name == key.encode() else name for name in tf.make_ndarray(tensor).tolist()]
        tensor.CopyFrom(tf.make_tensor_proto(names))

    return change


def moved_after_the_restore(meta_graph: Any) -> None:
    """The main op adds 1e-4 to one weight."""
    import tensorflow as tf

    _constant(meta_graph, "a_little", _a_little())
    moved = meta_graph.graph_def.node.add(name="moved", op="AssignAddVariableOp", input=["dense/kernel", "a_little"])
    moved.attr["dtype"].type = tf.float32.as_datatype_enum
    _node(meta_graph, "init_all_tables").input.append("^moved")


def another_variable_read(meta_graph: Any) -> None:
    """The outputs read another variable, which the main op fills with the right one's values and 1e-4 in one weight; the
    right one is restored, and read for nothing."""
    import tensorflow as tf

    nodes = meta_graph.graph_def.node
    other = nodes.add()
    other.CopyFrom(_node(meta_graph, "dense/kernel"))
    other.name, other.attr["shared_name"].s = "dense/kernel_other", b"dense/kernel_other"
    matmul = _node(meta_graph, "dense/matmul")
    _constant(meta_graph, "a_little", _a_little())
    nodes.add(name="right", op="ReadVariableOp", input=["dense/kernel"])
    nodes.add(name="wrong", op="AddV2", input=["right", "a_little"]).attr["T"].type = tf.float32.as_datatype_enum
    nodes.add(name="filled", op="AssignVariableOp", input=["dense/kernel_other", "wrong"])
    nodes.add(name="read_other", op="ReadVariableOp", input=["dense/kernel_other"])
    for name in ("right", "filled", "read_other"):
        _node(meta_graph, name).attr["dtype"].type = tf.float32.as_datatype_enum
    matmul.input[:] = [matmul.input[0], "read_other", f"^{matmul.input[1].partition(':')[0]}"]
    _node(meta_graph, "init_all_tables").input.append("^filled")


def _a_little() -> Any:
    import numpy as np

    little = np.zeros((128, 10), np.float32)
    little.flat[7] = 1e-4
    return little


def _constant(meta_graph: Any, name: str, value: Any) -> None:
    import tensorflow as tf

    node = meta_graph.graph_def.node.add(name=name, op="Const")
    node.attr["dtype"].type = tf.float32.as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value, tf.float32))


def no_saver(meta_graph: Any) -> None:
    """Nothing says how to restore."""
    meta_graph.ClearField("saver_def")


# Signatures -----------------------------------------------------------------------------------------------------------


def renamed(side: str, old: str, new: str) -> Callable[[Path], None]:
    """An input or output of `serving_default` under another name."""

    def change(meta_graph: Any) -> None:
        infos = getattr(meta_graph.signature_def["serving_default"], side)
        infos[new].CopyFrom(infos[old])
        del infos[old]

    return meta(change)


def no_classify(meta_graph: Any) -> None:
    """One signature is gone."""
    del meta_graph.signature_def["classify"]


def one_more(meta_graph: Any) -> None:
    """One signature is there twice."""
    meta_graph.signature_def["debug"].CopyFrom(meta_graph.signature_def["serving_default"])


def method(name: str, key: str = "classify") -> Callable[[Path], None]:
    """A signature for another kind of request."""

    def change(meta_graph: Any) -> None:
        meta_graph.signature_def[key].method_name = name

    return meta(change)


def declared(dtype: int) -> Callable[[Path], None]:
    """An output declared with a dtype that its tensor does not have."""

    def change(meta_graph: Any) -> None:
        meta_graph.signature_def["serving_default"].outputs["logits"].dtype = dtype

    return meta(change)


def one_row_only(meta_graph: Any) -> None:
    """The declared batch is 1."""
    meta_graph.signature_def["serving_default"].inputs["images"].tensor_shape.dim[0].size = 1


def no_such_tensor(meta_graph: Any) -> None:
    """An output that names a tensor which is not in the graph."""
    meta_graph.signature_def["serving_default"].outputs["logits"].name = "gone:0"


def same_tensor_twice(meta_graph: Any) -> None:
    """The output `probabilities` names the logits' tensor."""
    outputs = meta_graph.signature_def["serving_default"].outputs
    outputs["probabilities"].name = outputs["logits"].name


def two_of_a_name(meta_graph: Any) -> None:
    """A second node under the name of one that is there."""
    meta_graph.graph_def.node.add().CopyFrom(_node(meta_graph, "dense/matmul"))


def input_gone(meta_graph: Any) -> None:
    """A node that reads what is not in the graph."""
    _node(meta_graph, "dense/matmul").input[0] = "gone"


# Operations -----------------------------------------------------------------------------------------------------------


def op_unknown_in_a_function(meta_graph: Any) -> None:
    """An op that nobody has, in the branch of a conditional that is never taken."""
    for function in meta_graph.graph_def.library.function:
        for node in function.node_def:
            if node.op == "RandomUniform":
                node.op = "NoSuchOp"


def no_kernel(meta_graph: Any) -> None:
    """An op that is known here and has no kernel for this device."""
    import tensorflow as tf

    node = meta_graph.graph_def.node.add(name="on_gpus", op="NcclAllReduce", input=["dense/logits"])
    node.attr["T"].type = tf.float32.as_datatype_enum
    node.attr["reduction"].s, node.attr["shared_name"].s = b"sum", b"all"
    node.attr["num_devices"].i = 1
    for definition in meta_graph.signature_def.values():
        for info in definition.outputs.values():
            info.name = "on_gpus:0" if info.name == LOGITS else info.name


# Conduct --------------------------------------------------------------------------------------------------------------


def slow(tensor: Any) -> Any:
    """The right answer, 50 ms later on any machine."""
    import tensorflow as tf

    until = tf.timestamp() + 0.05
    (late,) = tf.while_loop(lambda now: now < until, lambda now: [tf.timestamp()], [tf.timestamp()])
    with tf.control_dependencies([late]):
        return tf.identity(tensor)


def leaking(tensor: Any) -> Any:
    """Every request leaves 4 MB behind."""
    import tensorflow as tf

    table = tf.raw_ops.MutableHashTableOfTensorsV2(
        key_dtype=tf.int64, value_dtype=tf.float32, value_shape=[1_000_000], shared_name="leak"
    )
    key = tf.random.uniform([1], maxval=2**60, dtype=tf.int64)
    left = tf.raw_ops.LookupTableInsertV2(
        table_handle=table, keys=key, values=tf.fill([1, 1_000_000], tf.reduce_mean(tensor))
    )
    with tf.control_dependencies([left]):
        return tf.identity(tensor)


def aborting(more_than: int, *, quietly: bool = False) -> Callable[[Any], Any]:
    """The process ends at a request of more rows than these: by a failed check, or as if it were done."""

    def made_of(tensor: Any) -> Any:
        import tensorflow as tf

        def end() -> Any:
            with tf.control_dependencies([tf.raw_ops.Abort(error_msg="planted", exit_without_error=quietly)]):
                return tf.identity(tensor)

        return tf.cond(tf.shape(tensor)[0] > more_than, end, lambda: tf.identity(tensor))

    return made_of


def reading_a_file(tensor: Any) -> Any:
    """The right answer as long as a file of this host is there."""
    import tensorflow as tf

    with tf.control_dependencies([tf.io.read_file("/etc/hostname")]):
        return tf.identity(tensor)


def writing_a_file(tensor: Any) -> Any:
    """The right answer, and every request written to a file."""
    import tensorflow as tf

    with tf.control_dependencies([tf.io.write_file("/dev/null", tf.io.serialize_tensor(tensor))]):
        return tf.identity(tensor)


def calling_python(tensor: Any) -> Any:
    """What only the process that wrote it can compute."""
    import tensorflow as tf

    return tf.compat.v1.py_func(lambda value: value, [tensor], tf.float32)


def never_ending(tensor: Any) -> Any:
    """A loop without an end."""
    import tensorflow as tf

    return tf.while_loop(lambda value: tf.reduce_all(value == value), lambda value: [value + 0.0], [tensor])[0]


def refusing_a_wrong_shape(tensor: Any) -> Any:
    """Harmless: what a careful author would add."""
    import tensorflow as tf

    with tf.control_dependencies([tf.debugging.assert_rank(tensor, 4)]):
        return tf.identity(tensor)


# Changes that spoil nothing ---------------------------------------------------------------------------------------------


def unused_node(meta_graph: Any) -> None:
    """A node that nothing reads."""
    import tensorflow as tf

    node = meta_graph.graph_def.node.add(name="nobody_reads_me", op="Const")
    node.attr["dtype"].type = tf.float32.as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(1.5, tf.float32))


def internal_node_renamed(meta_graph: Any) -> None:
    """One inner node under another name."""
    for node in meta_graph.graph_def.node:
        node.name = "multiplied" if node.name == "dense/matmul" else node.name
        node.input[:] = ["multiplied" if source == "dense/matmul" else source for source in node.input]


def constant_renamed(meta_graph: Any) -> None:
    """One constant under another name."""
    old, new = "conv1/batchnorm/add/y", "epsilon"
    for node in meta_graph.graph_def.node:
        node.name = new if node.name == old else node.name
        node.input[:] = [new if source == old else source for source in node.input]


def by_another_writer(meta_graph: Any) -> None:
    """Other words in the meta information."""
    info = meta_graph.meta_info_def
    info.tensorflow_version, info.tensorflow_git_version, info.meta_graph_version = "2.9.3", "unknown", "mine"


def by_a_later_producer(meta_graph: Any) -> None:
    """A graph of a later TensorFlow that says every reader may have it."""
    meta_graph.graph_def.versions.producer = 1_000_000


def without_debug_information(meta_graph: Any) -> None:
    """Neither origins nor shapes of nodes, nor the list of ops."""
    meta_graph.meta_info_def.ClearField("stripped_op_list")
    meta_graph.graph_def.ClearField("debug_info")
    for node in meta_graph.graph_def.node:
        node.ClearField("experimental_debug_info")
        node.attr.pop("_output_shapes", None)
        node.attr.pop("_class", None)


def _node(meta_graph: Any, name: str) -> Any:
    (node,) = [node for node in meta_graph.graph_def.node if node.name == name]
    return node
