"""The SavedModels that tests of the stand-in server serve. To be imported in a child only, for it imports TensorFlow.

FOLDER/two and FOLDER/three: y = x / 2 + 2 and + 3, with variables · FOLDER/words: the line number of a word, from a
vocabulary asset through a table that only the main op initialises · FOLDER/warm: `two` with three warmup requests ·
FOLDER/chilly: `two` with a warmup request for a signature it lacks · FOLDER/slow: counts to x, some seconds for 1e9 ·
FOLDER/rows: y = the sum of a row of `a` times its `n`, and `named`; signature `whole` sums all of `a` · FOLDER/mirror: a
signature for each dtype, its output its input, under names of every kind · FOLDER/graded: classify and regress over
tf.Examples · FOLDER/jitted: y = x / 2 + 2 by a function that must be compiled by XLA, and signature `plain` without it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

v1 = tf.compat.v1


def half_plus(number: float, directory: Path) -> None:
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None], "x")
        slope = v1.get_variable("slope", initializer=0.5, use_resource=False)
        offset = v1.get_variable("offset", initializer=number, use_resource=False)
        y = tf.add(x * slope, offset, name="y")
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(directory), {"x": x}, {"y": y})


def word_numbers(directory: Path) -> None:
    vocabulary = directory.parent / "vocabulary.txt"
    vocabulary.write_text("cat\ndog\nbird\n")
    with tf.Graph().as_default(), v1.Session() as session:
        words = v1.placeholder(tf.string, [None], "words")
        table = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(
                str(vocabulary),
                tf.string,
                tf.lookup.TextFileIndex.WHOLE_LINE,
                tf.int64,
                tf.lookup.TextFileIndex.LINE_NUMBER,
            ),
            -1,
        )
        numbers = tf.identity(table.lookup(words), "numbers")
        session.run(v1.tables_initializer())
        v1.saved_model.simple_save(
            session, str(directory), {"words": words}, {"numbers": numbers}, legacy_init_op=v1.tables_initializer()
        )
    vocabulary.unlink()  # what is served must be the asset's copy


def _write(directory: Path, session: v1.Session, signatures: dict[str, tuple[dict, dict, str]]) -> None:
    builder = v1.saved_model.Builder(str(directory))
    info = v1.saved_model.build_tensor_info
    builder.add_meta_graph_and_variables(
        session,
        ["serve"],
        {
            key: v1.saved_model.build_signature_def(
                {alias: info(tensor) for alias, tensor in inputs.items()},
                {alias: info(tensor) for alias, tensor in outputs.items()},
                f"tensorflow/serving/{method}",
            )
            for key, (inputs, outputs, method) in signatures.items()
        },
    )
    builder.save()


def slow_counter(directory: Path) -> None:
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None], "x")
        counted = tf.while_loop(lambda i: i < tf.reduce_max(x), lambda i: [i + 1.0], [tf.constant(0.0)])[0]
        _write(directory, session, {"serving_default": ({"x": x}, {"y": x * 0 + counted}, "predict")})


def row_sums(directory: Path) -> None:
    with tf.Graph().as_default(), v1.Session() as session:
        a = v1.placeholder(tf.float32, [None, None], "a")
        n = v1.placeholder(tf.int64, [None], "n")
        y = tf.reduce_sum(a, 1) * tf.cast(n, tf.float32)
        named = tf.strings.join([tf.as_string(n), "!"])
        signatures = {
            "serving_default": ({"a": a, "n": n}, {"y": y, "named": named}, "predict"),
            "whole": ({"a": a}, {"sum": tf.reduce_sum(a)}, "predict"),
        }
        _write(directory, session, signatures)


MIRRORED = ("float32", "float64", "int8", "uint8", "int16", "int32", "int64", "uint32", "uint64", "bool", "string")


def mirror(directory: Path) -> None:
    with tf.Graph().as_default(), v1.Session() as session:
        signatures: dict[str, tuple[dict, dict, str]] = {}
        for name in MIRRORED:
            given = v1.placeholder(name, None, f"given_{name}")
            signatures[f"of {name}"] = ({f"{name}/ein gäng": given}, {f"{name}.out": tf.identity(given)}, "predict")
        text = v1.placeholder(tf.string, None, "text")
        signatures["bytes"] = ({"given_bytes": text}, {"same_bytes": tf.identity(text)}, "predict")
        left, right = v1.placeholder(tf.float32, None, "left"), v1.placeholder(tf.int64, None, "right")
        both = ({"l": left, "r[0]": right}, {"L": tf.identity(left), "R": tf.identity(right)}, "predict")
        _write(directory, session, {**signatures, "both": both})


def graded(directory: Path) -> None:
    with tf.Graph().as_default(), v1.Session() as session:
        examples = v1.placeholder(tf.string, [None], "examples")
        marks = tf.io.parse_example(examples, {"mark": tf.io.FixedLenFeature([], tf.float32)})["mark"]
        scores = tf.stack([marks, 1.0 - marks], 1)
        classes = tf.tile(tf.constant([["pass", "fail"]]), [tf.shape(marks)[0], 1])
        signatures = {
            "serving_default": ({"inputs": examples}, {"classes": classes, "scores": scores}, "classify"),
            "points": ({"inputs": examples}, {"outputs": marks * 100.0}, "regress"),
        }
        _write(directory, session, signatures)


def misnamed(directory: Path) -> None:
    """Signatures whose tensors are not in the graph, or are no tensors: a server loads them all."""

    def info(name: str) -> meta_graph_pb2.TensorInfo:
        return meta_graph_pb2.TensorInfo(name=name, dtype=1)

    with tf.Graph().as_default(), v1.Session() as session:
        tf.identity(v1.placeholder(tf.float32, [None], "x"), "y")
        tf.no_op("idle")
        tensors = {"short": ("x", "y"), "idle": ("x:0", "idle:0"), "gone": ("x:0", "gone:0"), "beyond": ("x:0", "x:3")}
        tensors |= {"fed gone": ("gone:0", "x:0"), "fed beyond": ("x:3", "x:0"), "fed idle": ("idle:0", "x:0")}
        builder = v1.saved_model.Builder(str(directory))
        signatures = {
            key: v1.saved_model.build_signature_def(
                {"given": info(given)}, {"answer": info(answer)}, "tensorflow/serving/predict"
            )
            for key, (given, answer) in tensors.items()
        }
        builder.add_meta_graph_and_variables(session, ["serve"], signatures)
        builder.save()


def warmup_requests(directory: Path, count: int, signature_name: str) -> None:
    extra = directory / "assets.extra"
    extra.mkdir()
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "another"
    request.model_spec.signature_name = signature_name
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([1.0], shape=[1]))
    log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
    with tf.io.TFRecordWriter(str(extra / "tf_serving_warmup_requests")) as writer:
        for _ in range(count):
            writer.write(log.SerializeToString())


class Jitted(tf.Module):
    def __init__(self) -> None:
        self.offset = tf.Variable(2.0)

    @tf.function(jit_compile=True)
    def compiled(self, x: tf.Tensor) -> tf.Tensor:
        return x / 2.0 + self.offset

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def within(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": self.compiled(x)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def plain(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": x / 2.0 + self.offset}


def write(folder: Path) -> None:
    """Write them all."""
    half_plus(2.0, folder / "two")
    half_plus(3.0, folder / "three")
    word_numbers(folder / "words")
    slow_counter(folder / "slow")
    row_sums(folder / "rows")
    mirror(folder / "mirror")
    graded(folder / "graded")
    misnamed(folder / "misnamed")
    jitted = Jitted()
    tf.saved_model.save(
        jitted, str(folder / "jitted"), signatures={"serving_default": jitted.within, "plain": jitted.plain}
    )
    for name, count, signature_name in (("warm", 3, "serving_default"), ("chilly", 1, "nowhere")):
        shutil.copytree(folder / "two", folder / name)
        warmup_requests(folder / name, count, signature_name)
