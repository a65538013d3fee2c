"""Files made to do harm, written in children by TensorFlow's protos, or by its API where that writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.makers import graphs

FLOAT, STRING, INT64, INT32, VARIANT = 1, 7, 9, 3, 21


def _constant(graph_def: Any, name: str, value: Any, dtype: int = STRING) -> str:
    import tensorflow as tf

    node = graphs.node(graph_def, name, "Const", dtype=dtype)
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value, dtype=dtype))
    return name


def _placeholder(graph_def: Any, name: str = "x") -> str:
    node = graphs.node(graph_def, name, "Placeholder", dtype=FLOAT)
    node.attr["shape"].shape.dim.add(size=-1)
    return name


def _identity(graph_def: Any, name: str, *inputs: str) -> None:
    graphs.node(graph_def, name, "Identity", *inputs, T=FLOAT)


def attack(kind: str, target: Path, out: Path) -> None:
    """A frozen graph x -> y whose y reaches what would touch `target` or run Python."""
    graph_def = graphs.empty()
    x = _placeholder(graph_def)
    if kind == "WriteFile":
        inputs = _constant(graph_def, "name", str(target)), _constant(graph_def, "contents", "written")
        graphs.node(graph_def, "bad", "WriteFile", *inputs)
        _identity(graph_def, "y", x, "^bad")
    elif kind == "ReadFile":
        graphs.node(graph_def, "bad", "ReadFile", _constant(graph_def, "name", str(target)))
        _identity(graph_def, "y", x, "^bad")
    elif kind in ("PyFunc", "EagerPyFunc"):
        bad = graphs.node(graph_def, "bad", kind, x, token=b"pyfunc_0")
        bad.attr["Tin"].list.type.append(FLOAT)
        bad.attr["Tout"].list.type.append(FLOAT)
        _identity(graph_def, "y", "bad")
    elif kind == "WriteFile in a carried graph":
        carried = graphs.empty()
        element = _constant(carried, "element", 1.0, FLOAT)
        inputs = _constant(carried, "name", str(target)), _constant(carried, "contents", "written")
        graphs.node(carried, "bad", "WriteFile", *inputs)
        made = graphs.node(carried, "set", "TensorDataset", element, "^bad")
        made.attr["Toutput_types"].list.type.append(FLOAT)
        made.attr["output_shapes"].list.shape.add()
        graphs.node(carried, "dataset", "_Retval", "set", T=VARIANT).attr["index"].i = 0
        _constant(graph_def, "carried", carried.SerializeToString())
        graphs.node(graph_def, "from", "DatasetFromGraph", "carried")
        element = graphs.node(graph_def, "element", "DatasetToSingleElement", "from")
        element.attr["output_types"].list.type.append(FLOAT)
        element.attr["output_shapes"].list.shape.add()
        graphs.node(graph_def, "y", "AddV2", x, "element", T=FLOAT)
    elif kind == "WriteFile in a function":
        _write_in_function(graph_def, "inner", target)
        outer = _function(graph_def, "outer")
        call = outer.node_def.add(name="again", op="StatefulPartitionedCall", input=["x"])
        _types(call, "inner")
        outer.ret["y"] = "again:output:0"
        _types(graphs.node(graph_def, "call", "StatefulPartitionedCall", x), "outer")
        _identity(graph_def, "y", "call")
    else:
        raise AssertionError(kind)
    out.write_bytes(graph_def.SerializeToString())


def _function(graph_def: Any, name: str) -> Any:
    function = graph_def.library.function.add()
    function.signature.name = name
    function.signature.input_arg.add(name="x", type=FLOAT)
    function.signature.output_arg.add(name="y", type=FLOAT)
    return function


def _types(call: Any, called: str) -> None:
    call.attr["Tin"].list.type.append(FLOAT)
    call.attr["Tout"].list.type.append(FLOAT)
    call.attr["f"].func.name = called


def _write_in_function(graph_def: Any, name: str, target: Path) -> None:
    function = _function(graph_def, name)
    held: Any = graphs.empty()
    _constant(held, "name", str(target))
    _constant(held, "contents", "written")
    function.node_def.extend(held.node)
    function.node_def.add(name="bad", op="WriteFile", input=["name:output:0", "contents:output:0"])
    function.node_def.add(name="same", op="Identity", input=["x", "^bad"]).attr["T"].type = FLOAT
    function.ret["y"] = "same:output:0"


def recursion(depth: int, out: Path) -> None:
    """A function that calls itself (depth 0), or a chain of that many, each calling the next twice."""
    graph_def = graphs.empty()
    x = _placeholder(graph_def)
    for number in range(max(depth, 1)):
        function = _function(graph_def, f"f{number}")
        next_one = f"f{number + 1}" if number + 1 < depth else "f0" if depth == 0 else ""
        if next_one:
            _types(function.node_def.add(name="a", op="StatefulPartitionedCall", input=["x"]), next_one)
            _types(function.node_def.add(name="b", op="StatefulPartitionedCall", input=["a:output:0"]), next_one)
            function.ret["y"] = "b:output:0"
        else:
            function.node_def.add(name="a", op="Neg", input=["x"]).attr["T"].type = FLOAT
            function.ret["y"] = "a:y:0"
    _types(graphs.node(graph_def, "call", "StatefulPartitionedCall", x), "f0")
    _identity(graph_def, "y", "call")
    out.write_bytes(graph_def.SerializeToString())


def bomb(kind: str, out: Path) -> None:
    """A graph that wants more than there is, or what cannot be."""
    graph_def = graphs.empty()
    x = _placeholder(graph_def)
    value = graphs.node(graph_def, "w", "Const", dtype=FLOAT).attr["value"].tensor
    value.dtype = FLOAT
    value.float_val.append(1.0)
    if kind == "a Const of a negative shape":
        value.tensor_shape.dim.add(size=-5)
    elif kind == "a Const of a huge shape":
        value.tensor_shape.dim.add(size=1 << 20)
        value.tensor_shape.dim.add(size=1 << 20)
    elif kind == "a Const whose shape overflows":
        for _ in range(4):
            value.tensor_shape.dim.add(size=1 << 40)
    elif kind == "a Const with more bytes than shape":
        value.tensor_shape.dim.add(size=1)
        value.tensor_content = b"\0" * 64
    elif kind in ("a Fill of a tebibyte", "a loop without end"):
        pass
    else:
        raise AssertionError(kind)
    if kind == "a Fill of a tebibyte":
        dims = _constant(graph_def, "dims", [1 << 19, 1 << 19], INT64)
        graphs.node(graph_def, "big", "Fill", dims, "w", T=FLOAT, index_type=INT64)
        graphs.node(graph_def, "sum", "Mean", "big", _constant(graph_def, "axes", [0, 1], INT32), T=FLOAT, Tidx=INT32)
        graphs.node(graph_def, "y", "AddV2", x, "sum", T=FLOAT)
    elif kind == "a loop without end":
        graph_def.Clear()
        graph_def.CopyFrom(_endless())
    else:
        graphs.node(graph_def, "m", "Mean", "w", _constant(graph_def, "axes", [0], INT32), T=FLOAT, Tidx=INT32)
        graphs.node(graph_def, "y", "AddV2", x, "m", T=FLOAT)
    out.write_bytes(graph_def.SerializeToString())


def _endless() -> Any:
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None], name="x")
        loop = tf.while_loop(lambda value: tf.constant(True), lambda value: value + 1.0, [tf.reduce_mean(x)])
        tf.identity(x + loop[0], name="y")
        return graph.as_graph_def()


def odd(kind: str, out: Path) -> None:
    """A graph that is none, or that this TensorFlow cannot run."""
    graph_def = graphs.empty()
    x = _placeholder(graph_def)
    if kind == "duplicate nodes":
        _identity(graph_def, "y", x)
        _identity(graph_def, "y", x)
    elif kind == "unknown op":
        graphs.node(graph_def, "bad", "SentencepieceTokenizeOp", x)
        _identity(graph_def, "y", "bad")
    elif kind == "no kernel":
        bad = graphs.node(graph_def, "bad", "CudnnRNN", x, x, x, x, T=FLOAT)
        bad.attr["rnn_mode"].s = b"lstm"
        _identity(graph_def, "y", "bad")
    else:
        raise AssertionError(kind)
    out.write_bytes(graph_def.SerializeToString())


def no_meta_graphs(folder: Path) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(
        saved_model_pb2.SavedModel(saved_model_schema_version=1).SerializeToString()
    )


def table_of(asset: Path, out: Path) -> None:
    """A GraphDef and, in a `.meta` of its own, the collection of tables; its table reads `asset`."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph:
        words = v1.placeholder(tf.string, [None], name="x")
        initialiser = tf.lookup.TextFileInitializer(
            str(asset), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
        )
        scale = v1.get_variable("scale", initializer=tf.constant(2, tf.int64), use_resource=False)
        table = tf.lookup.StaticHashTable(initialiser, -1)
        tf.multiply(table.lookup(words), scale, name="y")
        with v1.Session(graph=graph) as session:
            session.run(v1.global_variables_initializer())
            v1.train.Saver().save(session, str(out / "model.ckpt"))


def saved_table_of(asset: Path, pointed_at: Path, folder: Path) -> None:
    """A SavedModel whose asset entry names a file outside its own folder."""
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph:
        words = v1.placeholder(tf.string, [None], name="x")
        initialiser = tf.lookup.TextFileInitializer(
            str(asset), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
        )
        table = tf.lookup.StaticHashTable(initialiser, -1)
        y = tf.identity(table.lookup(words), name="y")
        with v1.Session(graph=graph) as session:
            session.run(v1.tables_initializer())
            v1.saved_model.simple_save(
                session, str(folder), {"x": words}, {"y": y}, legacy_init_op=v1.tables_initializer()
            )
    path = folder / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    for meta in model.meta_graphs:
        for entry in meta.asset_file_def:
            entry.filename = str(pointed_at)
        for packed in meta.collection_def["saved_model_assets"].any_list.value:
            from tensorflow.core.protobuf import meta_graph_pb2

            entry = meta_graph_pb2.AssetFileDef.FromString(packed.value)
            entry.filename = str(pointed_at)
            packed.Pack(entry)
    path.write_bytes(model.SerializeToString())


def restoring_another(form: str, other: Path, out: Path) -> None:
    """A model whose Saver restores the checkpoint `other`, by a constant path, whatever path it is given.

    Its own checkpoint holds 2.0, the other 3.0.
    """
    import tensorflow as tf
    from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None], name="x")
        w = v1.get_variable("w", initializer=3.0, use_resource=False)
        y = tf.multiply(x, w, name="y")
        saver = v1.train.Saver(sharded=True)
        session.run(v1.global_variables_initializer())
        saver.save(session, str(other), write_meta_graph=False)
        session.run(w.assign(2.0))
        if form == "MetaGraphDef":
            out.mkdir()
            saver.save(session, str(out / "model.ckpt"))
        else:
            v1.saved_model.simple_save(session, str(out), {"x": x}, {"y": y})
    path = out / ("model.ckpt.meta" if form == "MetaGraphDef" else "saved_model.pb")
    model = (meta_graph_pb2.MetaGraphDef if form == "MetaGraphDef" else saved_model_pb2.SavedModel)()
    model.ParseFromString(path.read_bytes())
    graph_def = (model if form == "MetaGraphDef" else model.meta_graphs[0]).graph_def
    _constant(graph_def, "another", str(other))
    for node in graph_def.node:
        if node.op == "RestoreV2":
            node.input[0] = "another"
    path.write_bytes(model.SerializeToString())


def other_graph(out: Path) -> None:
    """Another network's checkpoint of the same prefix: other variables."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default():
        v1.get_variable("other/w", initializer=tf.ones([5, 5]), use_resource=False)
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            v1.train.Saver().save(session, str(out / "model.ckpt"), global_step=7)


def wrapped(path: Path, form: str) -> str:
    """The graph of a `.pb` as another form: "MetaGraphDef", "SavedModel", or one whose main op is the graph's `bad`."""
    import tensorflow as tf
    from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

    meta = meta_graph_pb2.MetaGraphDef()
    meta.graph_def.ParseFromString(path.read_bytes())
    meta.meta_info_def.tags.append("serve")
    meta.meta_info_def.tensorflow_version = tf.__version__
    if form == "MetaGraphDef":
        target = path.with_name("graph.meta")
        target.write_bytes(meta.SerializeToString())
        path.unlink()
        return str(target)
    output = "y"
    if form == "main op":
        _identity(meta.graph_def, "clean", "x")
        output = "clean"
        meta.signature_def["__saved_model_init_op"].outputs["__saved_model_init_op"].name = "bad"
    signature = meta.signature_def["serving_default"]
    signature.method_name = "tensorflow/serving/predict"
    for side, alias, name in ((signature.inputs, "x", "x"), (signature.outputs, "y", output)):
        side[alias].name = f"{name}:0"
        side[alias].dtype = FLOAT
        side[alias].tensor_shape.dim.add(size=-1)
    folder = path.parent / "wrapped"
    folder.mkdir()
    model = saved_model_pb2.SavedModel(saved_model_schema_version=1, meta_graphs=[meta])
    (folder / "saved_model.pb").write_bytes(model.SerializeToString())
    return str(folder)
