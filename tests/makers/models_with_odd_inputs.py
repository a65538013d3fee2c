"""Models that accept only some inputs; what is drawn for them must run. Everything here runs in a child."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tasks.forms.saved_model import signatures_in
from tasks.parity import compare
from tasks.probe import establish
from tasks.records.adoption import ProbeSource
from tasks.records.signature import Method, Signature, TensorSpec
from tasks.tensors.tensor_file import Tensors, as_bytes


def source(file: Path) -> ProbeSource:
    return ProbeSource(file=file)


def _drawn_and_run(
    build: Callable[[], tuple[Mapping[str, Any], Any]], assets: Mapping[str, Path] | None = None, rows: int = 50
) -> tuple[Tensors, Any]:
    """Inputs drawn for the graph that `build` makes, twice alike, and what it answers to all rows and to the first."""
    import tensorflow as tf

    v1 = tf.compat.v1
    graph = tf.Graph()
    with graph.as_default():
        inputs, output = build()
        meta = v1.train.export_meta_graph()
        specs = {
            name: TensorSpec(
                tensor=tensor.name,
                dtype=tensor.dtype.name,
                shape=None if tensor.shape.rank is None else tuple(tensor.shape.as_list()),
            )
            for name, tensor in inputs.items()
        }
        outputs = {"y": TensorSpec(tensor=output.name, dtype=output.dtype.name, shape=None)}
        signature = Signature(key="s", method=Method.PREDICT, inputs=specs, outputs=outputs)
        found = establish.drawn(meta, [signature], rows, 0, assets)
        again = establish.drawn(meta, [signature], rows, 0, assets)
        other = establish.drawn(meta, [signature], rows, 1, assets)
        assert {name: as_bytes(array) for name, array in found.items()} == {n: as_bytes(a) for n, a in again.items()}
        assert any(as_bytes(found[name]) != as_bytes(other[name]) for name in found)
        with v1.Session(graph=graph) as session:
            session.run([v1.global_variables_initializer(), v1.tables_initializer()])
            for batch in (found, compare.first_rows(found, 1)):
                answer = session.run(output, {specs[n].tensor: batch[f"s/{n}"] for n in specs})
                if batch is found:
                    whole = answer
    return found, whole


def draws_numbers(folder: Path) -> None:
    import tensorflow as tf

    v1 = tf.compat.v1

    def build() -> tuple[Mapping[str, Any], Any]:
        x = v1.placeholder(tf.float32, [None, None], "x")
        n = v1.placeholder(tf.int32, [None], "n")
        b = v1.placeholder(tf.bool, [None], "b")
        weights = v1.get_variable("w", [7, 2])
        rows = tf.where(b, tf.reduce_sum(x @ weights, axis=1), tf.cast(n, tf.float32))
        return {"x": x, "n": n, "b": b}, rows

    found, answer = _drawn_and_run(build)
    assert found["s/x"].shape == (50, 7)
    assert np.abs(found["s/x"]).max() > 5
    assert 0 < np.abs(found["s/x"][3]).max() < 0.1
    assert found["s/n"].min() >= 0
    assert len(set(found["s/b"].tolist())) == 2
    assert len(answer) == 50


def draws_indices_below_the_tables_size(folder: Path) -> None:
    import tensorflow as tf

    v1 = tf.compat.v1

    def build() -> tuple[Mapping[str, Any], Any]:
        ids = v1.placeholder(tf.int64, [None, 4], "ids")
        as_float = v1.placeholder(tf.float32, [None, 1], "as_float")
        other = v1.placeholder(tf.int32, [None], "other")
        table = v1.get_variable("table", [3, 2], use_resource=False)
        resource = v1.get_variable("resource", [2, 2], use_resource=True)
        nested = tf.function(lambda i: tf.gather(tf.constant([1.0, 2.0, 3.0, 4.0, 5.0]), tf.identity(i)))
        first = tf.reduce_sum(tf.nn.embedding_lookup(table, tf.reshape(tf.cast(ids, tf.int32), [-1, 4])), [1, 2])
        second = tf.reduce_sum(tf.nn.embedding_lookup(resource, tf.cast(as_float, tf.int32)), [1, 2])
        return {"ids": ids, "as_float": as_float, "other": other}, first + second + nested(other)

    found, _ = _drawn_and_run(build)
    assert set(found["s/ids"].ravel().tolist()) == {0, 1, 2}
    assert set(found["s/as_float"].ravel().tolist()) == {0.0, 1.0}
    assert set(found["s/other"].tolist()) == {0, 1, 2, 3, 4}


def draws_for_fixed_and_unknown_shapes(folder: Path) -> None:
    import tensorflow as tf

    v1 = tf.compat.v1

    def build() -> tuple[Mapping[str, Any], Any]:
        x = v1.placeholder(tf.float32, None, "x")
        image = v1.placeholder(tf.float32, [None, None, None, 3], "image")
        pooled = tf.reduce_sum(tf.nn.conv2d(image, v1.get_variable("f", [3, 3, 3, 1]), 1, "VALID"))
        return {"x": x, "image": image}, tf.reshape(x, [-1, 2, 2]) + pooled

    found, _ = _drawn_and_run(build)
    assert found["s/x"].shape == (50, 2, 2)
    assert found["s/image"].shape == (50, 32, 32, 3)

    def fixed() -> tuple[Mapping[str, Any], Any]:
        ids = v1.placeholder(tf.int32, [1, None], "ids")
        length = v1.placeholder(tf.int32, [None], "length")
        return {"ids": ids, "length": length}, tf.cast(ids, tf.float32) + tf.cast(length, tf.float32)

    found, _ = _drawn_and_run(fixed)
    assert found["s/ids"].shape == (1, 8)
    assert found["s/length"].shape == (1,)


def draws_examples_from_the_parsing_specification(folder: Path) -> None:
    import tensorflow as tf

    v1 = tf.compat.v1
    vocabulary = folder / "words.txt"
    vocabulary.write_text("red\ngreen\n")
    spec = {
        "size": tf.io.FixedLenFeature([2], tf.float32),
        "optional": tf.io.FixedLenFeature([], tf.float32, default_value=-1.0),
        "id": tf.io.FixedLenFeature([1], tf.int64),
        "colour": tf.io.VarLenFeature(tf.string),
        "shade": tf.io.VarLenFeature(tf.float32),
    }

    def answer(serialized: Any, table: Any, init: str) -> Any:
        parsed = tf.io.parse_example(serialized, spec)
        embedded = tf.gather(table, parsed["id"][:, 0])
        lookup = tf.lookup.StaticVocabularyTable(
            tf.lookup.TextFileInitializer(
                init, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
            ),
            1,
        )
        colours = lookup.lookup(parsed["colour"])
        shade = parsed["shade"]  # as TensorFlow Transform fills in what is missing
        filled = tf.sparse.to_dense(tf.SparseTensor(shade.indices, shade.values, [shade.dense_shape[0], 1]))
        return (
            filled[:, 0]
            + tf.reduce_sum(embedded, 1)
            + tf.reduce_sum(parsed["size"], 1)
            + parsed["optional"]
            + tf.cast(tf.sparse.reduce_sum(colours, 1), tf.float32)
        )

    def plain() -> tuple[Mapping[str, Any], Any]:
        serialized = v1.placeholder(tf.string, [None], "examples")
        table = v1.get_variable("table", [3, 2])
        return {"examples": serialized}, answer(tf.identity(serialized), table, str(vocabulary))

    found, _ = _drawn_and_run(plain, {"words.txt": vocabulary})
    parsed = [tf.train.Example.FromString(encoded).features.feature for encoded in found["s/examples"]]
    assert {int(features["id"].int64_list.value[0]) for features in parsed} == {0, 1, 2}
    assert sum("optional" in features for features in parsed) == 43
    colours = {word for features in parsed for word in features["colour"].bytes_list.value}
    assert colours == {b"red", b"green", b"no such word"}


def draws_examples_for_a_tf2_saved_model(folder: Path) -> None:
    """The parsing node lies in a function that a function calls, the table's initialiser in another one."""
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    vocabulary = folder / "words.txt"
    vocabulary.write_text("red\ngreen\n")

    class Model(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.weights = tf.Variable(tf.random.normal([4, 2]))
            initializer = tf.lookup.TextFileInitializer(
                str(vocabulary),
                tf.string,
                tf.lookup.TextFileIndex.WHOLE_LINE,
                tf.int64,
                tf.lookup.TextFileIndex.LINE_NUMBER,
            )
            self.table = tf.lookup.StaticHashTable(initializer, -1)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])  # type: ignore[untyped-decorator]
        def __call__(self, examples: Any) -> Any:
            inner = tf.function(
                lambda one: tf.io.parse_example(
                    one, {"id": tf.io.FixedLenFeature([], tf.int64), "word": tf.io.FixedLenFeature([], tf.string)}
                )
            )(examples)
            return {"y": tf.gather(self.weights, inner["id"]), "n": self.table.lookup(inner["word"])}

    tf.saved_model.save(Model(), str(folder / "model"))
    saved = saved_model_pb2.SavedModel.FromString((folder / "model" / "saved_model.pb").read_bytes())
    meta = saved.meta_graphs[0]
    signatures = signatures_in(meta.signature_def)
    found = establish.drawn(meta, signatures, 50, 0, {"words.txt": folder / "model" / "assets" / "words.txt"})
    loaded = tf.saved_model.load(str(folder / "model"))
    answer = loaded.signatures["serving_default"](examples=tf.constant(found["serving_default/examples"]))
    parsed = [tf.train.Example.FromString(one).features.feature for one in found["serving_default/examples"]]
    assert {int(features["id"].int64_list.value[0]) for features in parsed} == {0, 1, 2, 3}
    assert set(answer["n"].numpy().tolist()) >= {0, 1}


def draws_images_words_and_numbers_as_strings(folder: Path) -> None:
    import tensorflow as tf

    v1 = tf.compat.v1

    def build() -> tuple[Mapping[str, Any], Any]:
        image = v1.placeholder(tf.string, [None], "image")
        png = v1.placeholder(tf.string, [], "png")
        word = v1.placeholder(tf.string, [None], "word")
        number = v1.placeholder(tf.string, [None], "number")
        pixels = tf.map_fn(lambda one: tf.cast(tf.io.decode_jpeg(one, channels=3), tf.float32), image, tf.float32)
        initializer = tf.lookup.KeyValueTensorInitializer(["yes", "no"], [1, 2], tf.string, tf.int32)
        table = tf.lookup.StaticHashTable(initializer, 0)
        sums = tf.reduce_sum(pixels, [1, 2, 3]) + tf.cast(tf.reduce_sum(tf.io.decode_png(png)), tf.float32)
        return {"image": image, "png": png, "word": word, "number": number}, (
            sums + tf.cast(table.lookup(tf.strings.lower(word)), tf.float32) + tf.strings.to_number(number)
        )

    for control_flow_v2 in (True, False):
        (v1.enable_control_flow_v2 if control_flow_v2 else v1.disable_control_flow_v2)()
        found, _ = _drawn_and_run(build, rows=12)
        assert found["s/image"][0][:2] == b"\xff\xd8"
        assert len(set(found["s/image"].tolist())) == 12
        assert set(found["s/word"].tolist()) == {b"yes", b"no", b"no such word"}


def draws_within_assertions(folder: Path) -> None:
    import tensorflow as tf

    v1 = tf.compat.v1

    def build() -> tuple[Mapping[str, Any], Any]:
        x, share, age = (v1.placeholder(tf.float32, [None], name) for name in ("x", "share", "age"))
        with tf.control_dependencies(
            [
                v1.assert_positive(x),
                v1.assert_greater_equal(share, 0.0),
                v1.assert_less_equal(share, 1.0),
                tf.Assert(tf.reduce_all(age > 17.0), [age]),
            ]
        ):
            return {"x": x, "share": share, "age": age}, tf.identity(x + share + age)

    for control_flow_v2 in (True, False):
        (v1.enable_control_flow_v2 if control_flow_v2 else v1.disable_control_flow_v2)()
        found, _ = _drawn_and_run(build)
        assert len({*found["s/share"].tolist()}) > 40, "they differ from row to row"


def of_a_saved_model(folder: Path) -> None:
    """What is drawn for every signature of a SavedModel runs in it, fifty rows and one."""
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    meta = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes()).meta_graphs[0]
    signatures = signatures_in(meta.signature_def)
    assets = {path.name: path for path in (folder / "assets").iterdir()}
    found, words = establish.establish(ProbeSource(), meta, signatures, folder, assets)
    assert words == "50 rows drawn with seed 0"
    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
        tf.compat.v1.saved_model.load(session, ["serve"], str(folder))
        for signature in signatures:
            for batch in (found, compare.first_rows(found, 1)):
                feeds = {spec.tensor: batch[f"{signature.key}/{name}"] for name, spec in signature.inputs.items()}
                session.run([spec.tensor for spec in signature.outputs.values()], feeds)
