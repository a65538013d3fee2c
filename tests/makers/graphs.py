"""GraphDefs with one planted peculiarity each, and calls on them; in children."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.adoption import source_graph
from tasks.forms.detect import detect
from tasks.graphs import op_policy, rewrite, scan
from tasks.records.adoption import ModelOptions, OpsFound, Proposal
from tasks.signatures import propose, resolve
from tasks.signatures.resolve import Resolved


def node(graph_def: Any, name: str, op: str, *inputs: str, **attrs: Any) -> Any:
    """Add a node; `attrs` are bytes, bools, DataType numbers as int, or whole AttrValues."""
    made = graph_def.node.add(name=name, op=op, input=inputs)
    for key, value in attrs.items():
        if isinstance(value, bool):
            made.attr[key].b = value
        elif isinstance(value, bytes):
            made.attr[key].s = value
        elif isinstance(value, int):
            made.attr[key].type = value
        else:
            made.attr[key].CopyFrom(value)
    return made


def function(graph_def: Any, name: str, *nodes: tuple[str, str], **attrs: bytes) -> Any:
    """Add a function without arguments, of nodes (name, op)."""
    made = graph_def.library.function.add()
    made.signature.name = name
    for inner, op in nodes:
        made.node_def.add(name=inner, op=op)
    for key, value in attrs.items():
        made.attr[key].s = value
    return made


def call(graph_def: Any, name: str, called: str, *inputs: str) -> Any:
    """Add a call of a function."""
    made = node(graph_def, name, "StatefulPartitionedCall", *inputs)
    made.attr["f"].func.name = called
    return made


def empty() -> Any:
    """A GraphDef with one output, `y`."""
    from tensorflow.core.framework import graph_pb2

    graph_def = graph_pb2.GraphDef()
    graph_def.versions.producer = 1000
    return graph_def


def carry(graph_def: Any, name: str, carried: Any) -> Any:
    """Add a node that runs the graph `carried`, handed to it in a constant."""
    handed = node(graph_def, f"{name}_def", "Const", dtype=7)
    handed.attr["value"].tensor.string_val.append(carried.SerializeToString())
    return node(graph_def, name, "DatasetFromGraph", handed.name)


def hostile(kind: str) -> Any:
    """A graph whose output `y` reaches what must not run, hidden in one of many ways."""
    made = empty()
    if kind == "plain":
        node(made, "w", "WriteFile")
        node(made, "y", "NoOp", "^w")
    elif kind == "function":
        function(made, "f", ("inner", "PyFunc"))
        call(made, "y", "f")
    elif kind == "function of a function":
        function(made, "g", ("inner", "ReadFile"))
        body = function(made, "f", ("again", "PartitionedCall"))
        body.node_def[0].attr["f"].func.name = "g"
        call(made, "y", "f")
    elif kind == "behind a function's node of the same name":
        function(made, "f", ("w", "NoOp"))
        node(made, "f/w", "EagerPyFunc")
        call(made, "y", "f", "f/w")
    elif kind == "gradient":
        function(made, "f", ("inner", "NoOp"))
        function(made, "g", ("inner", "WriteFile"))
        made.library.gradient.add(function_name="f", gradient_func="g")
        call(made, "y", "f")
    elif kind == "implementation":
        function(made, "f", ("inner", "NoOp"), api_implements=b"lstm")
        function(made, "g", ("inner", "WriteFile"), api_implements=b"lstm")
        call(made, "y", "f")
    elif kind == "debug urls":
        made_node = node(made, "y", "DebugIdentityV2")
        made_node.attr["debug_urls"].list.s.append(b"file:///tmp/x")
    elif kind == "print":
        node(made, "p", "PrintV2", output_stream=b"file:///tmp/x")
        node(made, "y", "NoOp", "^p")
    elif kind == "cache":
        node(made, "y", "CacheDatasetV2", "a", "name")
        node(made, "a", "RangeDataset")
        named = node(made, "name", "Const")
        named.attr["value"].tensor.string_val.append(b"/tmp/cache")
    elif kind == "vocabulary":
        node(made, "y", "FixedUnigramCandidateSampler", vocab_file=b"/etc/passwd")
    elif kind == "dataset":
        node(made, "y", "TFRecordDatasetV2")
    elif kind == "descriptors":
        node(made, "y", "DecodeProtoV2", descriptor_source=b"/etc/passwd")
    elif kind == "descriptors to write":
        node(made, "y", "EncodeProto", descriptor_source=b"local://x")
    elif kind == "abort":
        node(made, "y", "Abort")
    elif kind == "carried graph":
        carry(made, "y", hostile("plain"))
    elif kind == "carried graph in a carried graph":
        carry(made, "y", hostile("carried graph in a function"))
    elif kind == "carried graph in a function":
        function(made, "f")
        call(made, "y", "f")
        carry(made, "carrier", hostile("dataset"))
        while made.node[-1].name != "y":  # into the function
            made.library.function[0].node_def.append(made.node.pop())
    elif kind == "graph made by the graph":
        handed = node(made, "handed", "StringJoin", "part", "part")
        handed.attr["N"].i = 2
        node(made, "part", "Const").attr["value"].tensor.string_val.append(b"")
        node(made, "y", "DatasetFromGraph", "handed")
    elif kind == "graph that can be fed":
        carry(made, "y", harmless("beside")).input[0] = "fed"
        node(made, "fed", "PlaceholderWithDefault", "y_def")
    elif kind == "code in an attribute":
        node(made, "y", "MlirPassthroughOp", mlir_module=b"module {}")
    elif kind == "device of others":
        node(made, "y", "CollectiveReduceV2")
    elif kind == "op of nobody's table":
        op_policy.table().pop("Erf")
        node(made, "y", "Erf")
    else:
        raise AssertionError(kind)
    return made


def harmless(kind: str) -> Any:
    """A graph whose output `y` does not reach what is unsafe in it."""
    made = empty()
    if kind == "beside":
        node(made, "w", "WriteFile")
        node(made, "restore", "RestoreV2")
        node(made, "y", "NoOp")
    elif kind == "function beside":
        function(made, "f", ("inner", "PyFunc"))
        node(made, "y", "NoOp")
    elif kind == "print":
        node(made, "p", "PrintV2", output_stream=b"stderr")
        node(made, "y", "NoOp", "^p")
    elif kind == "cache in memory":
        node(made, "y", "CacheDataset", "a", "name")
        node(made, "a", "RangeDataset")
        node(made, "name", "Const").attr["value"].tensor.string_val.append(b"")
    elif kind == "debug":
        node(made, "y", "DebugIdentityV2")
    elif kind == "descriptors":
        node(made, "a", "DecodeProtoV2", descriptor_source=b"bytes://abc")
        node(made, "b", "DecodeProtoV2")
        node(made, "y", "EncodeProto", "^a", "^b", descriptor_source=b"local://")
    elif kind == "table":
        node(made, "y", "InitializeTableFromTextFileV2")
    elif kind == "recursive":
        body = function(made, "f", ("again", "PartitionedCall"))
        body.node_def[0].attr["f"].func.name = "f"
        call(made, "y", "f")
    elif kind == "rewritten":
        node(made, "y", "AccumulateNV2", T=1)
    elif kind == "carried graph":
        carry(made, "y", harmless("print"))
    elif kind == "carried graph beside":
        carry(made, "x", hostile("plain"))
        node(made, "y", "NoOp")
    elif kind == "gpu twin":
        function(made, "cpu", ("inner", "NoOp"), api_implements=b"lstm", api_preferred_device=b"CPU")
        function(made, "gpu", ("inner", "CudnnRNNV3"), api_implements=b"lstm", api_preferred_device=b"GPU")
        call(made, "y", "cpu")
    else:
        raise AssertionError(kind)
    return made


def unsupported(kind: str) -> Any:
    """A graph whose output `y` needs what this TensorFlow does not have."""
    made = empty()
    if kind == "library":
        node(made, "tokens", "WhitespaceTokenizeWithOffsets")
        node(made, "y", "NoOp", "^tokens")
    elif kind == "nobody":
        node(made, "y", "MyOwnOp")
    elif kind == "namespace":
        node(made, "y", "Acme>Frobnicate")
    elif kind == "function":
        function(made, "f", ("inner", "SimpleMLInferenceOpWithHandle"))
        call(made, "y", "f")
    elif kind == "no kernel":
        node(made, "y", "CudnnRNNV3", T=1)
    elif kind == "no kernel at all":
        node(made, "y", "BoostedTreesPredict")
    elif kind == "no kernel for the type":
        node(made, "x", "Placeholder", dtype=10)
        node(made, "y", "MatMul", "x", "x", T=10)
    else:
        raise AssertionError(kind)
    return made


def malformed(kind: str) -> Any:
    """What is no graph."""
    made = empty()
    if kind == "empty":
        return made
    node(made, "x", "NoOp")
    node(made, "y", "NoOp", "^x")
    if kind == "twice":
        node(made, "x", "NoOp")
    elif kind == "no input":
        node(made, "z", "Identity", "nowhere:1")
    elif kind == "no op":
        node(made, "z", "")
    elif kind == "cycle":
        node(made, "a", "Identity", "b")
        node(made, "b", "Identity", "a")
    elif kind == "function twice":
        function(made, "f", ("inner", "NoOp"))
        function(made, "f", ("inner", "PyFunc"))
    elif kind == "function's input":
        body = function(made, "f", ("inner", "Identity"))
        body.node_def[0].input.append("nowhere:0")
    else:
        raise AssertionError(kind)
    return made


def loadable(kind: str) -> None:
    """`require_loadable` of a MetaGraphDef that a loader would run something of."""
    from tensorflow.core.protobuf import meta_graph_pb2

    meta = meta_graph_pb2.MetaGraphDef()
    node(meta.graph_def, "path", "Const")
    node(meta.graph_def, "own", "Const")
    node(meta.graph_def, "read", "RestoreV2", "own" if kind == "another checkpoint" else "path")
    node(meta.graph_def, "restore", "NoOp", "^read")
    meta.saver_def.restore_op_name, meta.saver_def.filename_tensor_name = "restore", "path:0"
    if kind == "restore":
        node(meta.graph_def, "w", "WriteFile")
        meta.graph_def.node[3].input.append("^w")
    elif kind == "main op":
        node(meta.graph_def, "w", "WriteFile")
        node(meta.graph_def, "init", "NoOp", "^w")
        meta.collection_def["saved_model_main_op"].node_list.value.append("init")
    elif kind == "init op":
        node(meta.graph_def, "w", "PyFunc")
        meta.signature_def["__saved_model_init_op"].outputs["__saved_model_init_op"].name = "w"
    scan.require_loadable(meta, "model")


def require(maker: str, kind: str) -> None:
    """`require_runnable` of one of these graphs."""
    scan.require_runnable(globals()[maker](kind), ["y"], "model.pb")


def require_form(kind: str) -> None:
    """`require_valid_graph` of one of the malformed."""
    scan.require_valid_graph(malformed(kind), "model.pb")


def scanned(maker: str, kind: str, whole: bool) -> OpsFound:
    """A scan of one of these graphs."""
    return scan.scan(globals()[maker](kind), None if whole else ["y"])


def string_attributes() -> list[tuple[str, str]]:
    """Every op of this TensorFlow with each of its attributes that are texts."""
    return [
        (op.name, attribute.name)
        for op in _registered()
        for attribute in op.attr
        if attribute.type in ("string", "list(string)")
    ]


def registered_ops() -> list[str]:
    """Every op of this TensorFlow."""
    return [op.name for op in _registered()]


def _registered() -> list[Any]:
    from tensorflow.core.framework import op_def_pb2
    from tensorflow.python.client import pywrap_tf_session

    listed = op_def_pb2.OpList()
    listed.ParseFromString(pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList()))
    return list(listed.op)


def training(kind: str) -> tuple[list[str], list[str], dict[str, Any]]:
    """A small training graph in the way of one time: its train-mode nodes, its pins and their values."""
    import tensorflow as tf

    v1 = tf.compat.v1
    made = tf.Graph()
    with made.as_default():
        x = v1.placeholder(tf.float32, [None, 3], name="x")
        h = v1.get_variable("w", [3, 3])
        h = tf.matmul(x, h)
        if kind == "floor":  # nn.dropout until 1.12
            keep = v1.placeholder(tf.float32, name="k")
            h = h / keep * tf.floor(keep + tf.random.uniform(tf.shape(h)))
        elif kind == "rate":
            h = tf.nn.dropout(h, rate=v1.placeholder(tf.float32, [], name="k"))
        elif kind == "one minus":
            h = v1.nn.dropout(h, keep_prob=v1.placeholder(tf.float32, [], name="k"))
        elif kind == "less":
            keep = v1.placeholder(tf.float32, [], name="k")
            h = h * tf.cast(tf.random.uniform(tf.shape(h)) < keep, tf.float32)
        elif kind == "named only":
            h = h * v1.placeholder(tf.float32, [], name="keep_prob")
        elif kind == "switch":
            v1.disable_control_flow_v2()
            h = v1.cond(v1.placeholder(tf.bool, [], name="k"), lambda: h * 2.0, lambda: h)
        elif kind == "if":
            v1.enable_control_flow_v2()
            h = v1.cond(v1.placeholder(tf.bool, [], name="k"), lambda: h * 2.0, lambda: h)
        elif kind == "default":
            h = v1.cond(v1.placeholder_with_default(True, [], name="k"), lambda: h * 2.0, lambda: h)
        elif kind == "batch norm":
            four = tf.reshape(h, [-1, 1, 1, 3])
            h = v1.nn.fused_batch_norm(four, tf.ones([3]), tf.zeros([3]), is_training=True)[0]
        tf.identity(h, name="y")
    graph_def = made.as_graph_def()
    if kind == "batch norm":  # as `strip_default_attrs` leaves it
        for one in graph_def.node:
            one.attr.pop("is_training", None)
    meta = _meta(graph_def)
    pins = {pin.tensor: pin.value for pin in propose.propose(meta).pins}
    return list(scan.scan(graph_def, ["y"]).train_mode), [one.tensor for one in propose.propose(meta).inputs], pins


def _meta(graph_def: Any) -> Any:
    from tensorflow.core.protobuf import meta_graph_pb2

    return meta_graph_pb2.MetaGraphDef(graph_def=graph_def)


def brought(path: Path, given: ModelOptions | None = None) -> Any:
    """The MetaGraphDef of a model of the corpus."""
    if path.name == "expected_graph" or path.suffix == ".pb":
        from tensorflow.core.framework import graph_pb2

        return rewrite.modernise(_meta(graph_pb2.GraphDef.FromString(path.read_bytes())))
    return source_graph.graph(detect(path), given or ModelOptions())


def proposed(path: Path) -> tuple[Proposal, tuple[str, ...]]:
    """What is proposed for a model of the corpus, and the options that would take it."""
    meta = brought(path)
    proposal = resolve.propose(meta)
    return proposal, resolve.options_for(meta, proposal)


def resolved(path: Path, given: ModelOptions) -> Resolved:
    """A model of the corpus resolved."""
    return resolve.resolve(brought(path), given)


def scanned_file(path: Path) -> dict[str, OpsFound]:
    """A scan from each signature of a SavedModel."""
    meta = source_graph.graph(detect(path), ModelOptions())
    return {
        one.key: scan.scan(meta.graph_def, [spec.tensor for spec in one.outputs.values()])
        for one in resolve.propose(meta).declared
    }


def small(given: ModelOptions, *, collections: bool = False, declared: str = "") -> Resolved:
    """Signatures of a small model: `x` [?,3] and `seen` (bool) -> `scope/y`, and a label."""
    import tensorflow as tf

    v1 = tf.compat.v1
    made = tf.Graph()
    with made.as_default():
        x = v1.placeholder(tf.float32, [None, 3], name="x")
        count = v1.placeholder(tf.int32, [], name="count")
        words = v1.placeholder(tf.string, [None], name="words")
        labels = v1.placeholder(tf.float32, [None, 2], name="labels")
        keep = v1.placeholder(tf.float32, [], name="keep_prob")
        with v1.name_scope("scope"):
            y = tf.add(tf.matmul(v1.nn.dropout(x, keep_prob=keep), v1.get_variable("w", [3, 2])), 1.0, name="y")
        tf.identity(tf.cast(count, tf.float32) + y, name="counted")
        tf.identity(words, name="said")
        tf.reduce_mean(tf.square(y - labels), name="loss")
        if collections:
            v1.add_to_collection("inputs", x)
            v1.add_to_collection("logits", y)
        meta = v1.train.export_meta_graph()
    if declared:
        entry = meta.signature_def["serving_default" if declared != "init" else "__saved_model_init_op"]
        entry.method_name = "tensorflow/supervised/training" if declared == "training" else "tensorflow/serving/predict"
        with made.as_default():
            for alias, tensor in (("in", x), ("keep", keep)):
                entry.inputs[alias].CopyFrom(v1.saved_model.build_tensor_info(tensor))
            entry.outputs["out"].CopyFrom(v1.saved_model.build_tensor_info(y))
        if declared == "sparse":
            entry.inputs["in"].coo_sparse.values_tensor_name = "x:0"
        if declared == "missing":
            entry.outputs["out"].name = "nowhere:0"
    return resolve.resolve(meta, given)
