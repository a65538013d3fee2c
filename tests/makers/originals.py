"""Source model graphs that break when merely read or imported; made and opened in children."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.adoption import source_graph, source_loader
from tasks.forms import saved_model
from tasks.forms.detect import detect
from tasks.records.adoption import ModelOptions
from tasks.records.settings import SessionOptions

READS = ("direct", "in a function", "given to a function")


def _meta(graph: Any) -> Any:
    import tensorflow as tf

    v1 = tf.compat.v1
    meta = v1.train.export_meta_graph(graph=graph)
    definition = v1.saved_model.predict_signature_def(
        {"x": graph.get_tensor_by_name("x:0")}, {"y": graph.get_tensor_by_name("y:0")}
    )
    meta.signature_def["serving_default"].CopyFrom(definition)
    return meta


def _written(metas: list[Any], folder: Path) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    folder.mkdir()
    model = saved_model_pb2.SavedModel(saved_model_schema_version=1, meta_graphs=metas)
    (folder / "saved_model.pb").write_bytes(model.SerializeToString())


def of_tags(sets: list[list[str]], folder: Path) -> None:
    """A SavedModel of several MetaGraphs of these tags, `y = x * number`."""
    import tensorflow as tf

    v1 = tf.compat.v1
    metas = []
    for number, tags in enumerate(sets, 1):
        with tf.Graph().as_default() as graph:
            tf.multiply(v1.placeholder(tf.float32, [None], name="x"), float(number), name="y")
            metas.append(_meta(graph))
        metas[-1].meta_info_def.tags.extend(tags)
    _written(metas, folder)


def factor(folder: Path, given: ModelOptions) -> float:
    """By what the MetaGraph that is taken multiplies."""
    import tensorflow as tf

    meta = source_graph.graph(detect(folder), given)
    (value,) = [node.attr["value"].tensor for node in meta.graph_def.node if node.op == "Const"]
    return float(tf.make_ndarray(value))


def signature_keys(folder: Path) -> list[str]:
    """The signatures that our own reading of an export finds."""
    return [one.key for one in saved_model.signatures(folder)]


def as_text(folder: Path, name: str) -> None:
    """The SavedModel in its text form, under this name."""
    from google.protobuf import text_format
    from tensorflow.core.protobuf import saved_model_pb2

    path = folder / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    path.unlink()
    (folder / name).write_text(text_format.MessageToString(model))


def reading(kind: str, named: Path, path: Path) -> None:
    """A graph that no output leads from `x` to a file, but whose import would read it; `size` is as long as it says."""
    import tensorflow as tf

    v1, raw = tf.compat.v1, tf.raw_ops

    def filled(name: Any) -> Any:
        number = raw.StringToNumber(string_tensor=raw.ReadFile(filename=name), out_type=tf.int32)
        return raw.Fill(dims=tf.reshape(number, [1]), value=0.0)

    named.write_text("7")
    with tf.Graph().as_default() as graph:
        tf.multiply(v1.placeholder(tf.float32, [None], name="x"), 2.0, name="y")
        if kind == "direct":
            size = filled(str(named))
        else:
            inside = kind == "in a function"
            body = tf.function(lambda name: filled(str(named) if inside else name), autograph=False)
            called = body.get_concrete_function(tf.TensorSpec([], tf.string))
            called.add_to_graph(graph)
            (size,) = raw.PartitionedCall(args=[tf.constant(str(named))], Tout=[tf.float32], f=called)
        tf.identity(size, name="size")
        meta = _meta(graph)
    for node in (*meta.graph_def.node, *(one for body in meta.graph_def.library.function for one in body.node_def)):
        node.attr.pop("_output_shapes", None)
    if path.suffix:
        path.write_bytes(meta.graph_def.SerializeToString())
    else:
        meta.meta_info_def.tags.append("serve")
        _written([meta], path)


def imported(path: Path, *, untouched: bool) -> tuple[list[int | None], list[int]]:
    """The length of `size` as the import knows it, and as a run gives it; of the file itself, if `untouched`."""
    import tensorflow as tf

    if path.suffix and untouched:
        meta = tf.compat.v1.MetaGraphDef(graph_def=tf.compat.v1.GraphDef.FromString(path.read_bytes()))
    else:
        meta = source_graph.graph(detect(path), ModelOptions())
    if path.suffix:
        with tf.Graph().as_default() as graph:
            tf.import_graph_def(meta.graph_def, name="")
        with tf.compat.v1.Session(graph=graph) as session:
            return _sizes(session)
    if untouched:
        with saved_model.session_of(path, ["serve"], SessionOptions()) as (session, _):
            return _sizes(session)
    with source_loader.loaded(path, meta, saved_model.signatures_in(meta.signature_def), {}, SessionOptions()) as live:
        assert live.predict("serving_default", {"x": [1.0]})["y"].tolist() == [2.0]
        return _sizes(live.session)


def _sizes(session: Any) -> tuple[list[int | None], list[int]]:
    tensor = session.graph.get_tensor_by_name("size:0")
    return tensor.shape.as_list(), list(session.run(tensor).shape)
