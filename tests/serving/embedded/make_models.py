"""Writes the SavedModels these tests serve: `make_models.py FOLDER`. A script, so that TensorFlow stays out of pytest.

FOLDER/two and FOLDER/three: y = x / 2 + 2 and + 3, with variables · FOLDER/words: the line number of a word, from a
vocabulary asset through a table that only the main op initialises · FOLDER/warm: `two` with three warmup requests ·
FOLDER/chilly: `two` with a warmup request for a signature it lacks.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import tensorflow as tf
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


def main(folder: Path) -> None:
    half_plus(2.0, folder / "two")
    half_plus(3.0, folder / "three")
    word_numbers(folder / "words")
    for name, count, signature_name in (("warm", 3, "serving_default"), ("chilly", 1, "nowhere")):
        shutil.copytree(folder / "two", folder / name)
        warmup_requests(folder / name, count, signature_name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)  # TensorFlow's own end takes a second
