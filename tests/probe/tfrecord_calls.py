"""TFRecords of requests and examples, whole and broken, for the probe's reader. Everything here runs in a child."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tasks.errors import PipelineError, UsageError
from tasks.forms import warmup_requests
from tasks.probe import establish
from tasks.records.adoption import ProbeSource
from tasks.records.signature import Method, Signature, TensorSpec

X = np.array([[1, 2], [3, 4], [5, 6]], dtype=np.float32)


def _signature(key: str, method: Method, **inputs: tuple[str, tuple[int | None, ...] | None]) -> Signature:
    specs = {name: TensorSpec(tensor=f"{name}:0", dtype=dtype, shape=shape) for name, (dtype, shape) in inputs.items()}
    return Signature(key=key, method=method, inputs=specs, outputs={})


PREDICT = _signature("serving_default", Method.PREDICT, x=("float32", (None, 2)))
PAIR = _signature("serving_default", Method.PREDICT, x=("float32", (None, 2)), n=("int32", (None,)))
PARSING = _signature("serving_default", Method.PREDICT, examples=("string", (None,)))
CLASSIFY = _signature("classify", Method.CLASSIFY, inputs=("string", (None,)))


def write(path: Path, records: Iterable[bytes], compression: str = "") -> Path:
    import tensorflow as tf

    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for record in records:
            writer.write(record)
    return path


def example(**features: Any) -> bytes:
    import tensorflow as tf

    made = tf.train.Example()
    for name, value in features.items():
        if isinstance(value[0], bytes):
            made.features.feature[name].bytes_list.value.extend(value)
        elif isinstance(value[0], int):
            made.features.feature[name].int64_list.value.extend(value)
        else:
            made.features.feature[name].float_list.value.extend(value)
    encoded: bytes = made.SerializeToString()
    return encoded


def request(signature: str = "", **inputs: Any) -> bytes:
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    made = predict_pb2.PredictRequest()
    made.model_spec.name = "x"
    made.model_spec.signature_name = signature
    for name, array in inputs.items():
        made.inputs[name].CopyFrom(tf.make_tensor_proto(array))
    encoded: bytes = made.SerializeToString()
    return encoded


def every_kind(folder: Path) -> None:
    """Each kind of record gives the rows that went in."""
    examples = [example(x=row.tolist(), n=[i], name=[b"a"]) for i, row in enumerate(X)]
    file = write(folder / "examples", examples)
    found = establish.read(file, [PAIR, CLASSIFY])
    assert found["serving_default/x"].tolist() == X.tolist()
    assert found["serving_default/n"].dtype == np.int32
    assert found["classify/inputs"].tolist() == examples
    assert establish.read(file, [PARSING])["serving_default/examples"].tolist() == examples
    packed = write(folder / "packed", examples, "GZIP")
    assert packed.read_bytes()[:2] == b"\x1f\x8b"
    assert establish.read(packed, [PARSING])["serving_default/examples"].tolist() == examples
    named = _signature("serving_default", Method.PREDICT, name=("string", (None,)))
    assert establish.read(file, [named])["serving_default/name"].tolist() == [b"a"] * 3

    file = write(folder / "requests", [request(x=X[:2]), request("serving_default", x=X[2:])])
    assert establish.read(file, [PREDICT])["serving_default/x"].tolist() == X.tolist()

    warmup_requests.write(
        folder / "m", [PREDICT, CLASSIFY], {"serving_default/x": X, "classify/inputs": _objects(examples)}
    )
    found = establish.read(folder / "m" / warmup_requests.FILE, [PREDICT, CLASSIFY])
    assert found["serving_default/x"].tolist() == X.tolist()
    assert len(found["classify/inputs"]) == 3

    file = write(folder / "strings", [b"\xff\xfejust bytes", b"more"])
    assert establish.read(file, [PARSING])["serving_default/examples"].tolist() == [b"\xff\xfejust bytes", b"more"]

    file = folder / "rest.json"
    file.write_text('{"signature_name": "classify", "context": {"c": 1}, "examples": [{"x": [1.5, 2], "s": "a"}]}')
    (encoded,) = establish.read(file, [CLASSIFY])["classify/inputs"].tolist()
    assert encoded == _canonical(example(c=[1], x=[1.5, 2.0], s=[b"a"]), encoded)


def _canonical(wanted: bytes, got: bytes) -> bytes:
    """`got` where it means what `wanted` means: a map has no order on the wire."""
    import tensorflow as tf

    return got if tf.train.Example.FromString(wanted) == tf.train.Example.FromString(got) else wanted


def refusals(folder: Path) -> dict[str, str]:
    """What is said of each broken file."""
    from tensorflow_serving.apis import predict_pb2

    examples = [example(x=row.tolist()) for row in X]
    whole = write(folder / "whole", examples).read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    huge = predict_pb2.PredictRequest.FromString(request(x=np.zeros((1, 1), np.float32)))
    huge.inputs["x"].tensor_shape.dim[0].size = 2**40
    files = {
        "flipped": (bytes(flipped), PREDICT),
        "cut": (whole[:-3], PREDICT),
        "mixed": (write(folder / "f", [examples[0], b"\xff\xff"]).read_bytes(), PREDICT),
        "feature missing": (write(folder / "f", [examples[0], example(z=[1.0])]).read_bytes(), PREDICT),
        "a tensor that claims terabytes": (write(folder / "f", [huge.SerializeToString()]).read_bytes(), PREDICT),
        "shapes differ": (write(folder / "f", [request(x=X), request(x=X[:, :1])]).read_bytes(), PREDICT),
        "an input missing": (write(folder / "f", [request(n=[1])]).read_bytes(), PREDICT),
    }
    said = {}
    for name, (content, signature) in files.items():
        (folder / "broken").write_bytes(content)
        try:
            establish.read(folder / "broken", [signature])
        except UsageError as error:
            said[name] = str(error)
    return said


def fuzz(folder: Path) -> int:
    """Read files that are near to being records, as probe and as warmup requests; how many were read or refused."""
    rng = np.random.default_rng(0)
    examples = [example(x=row.tolist(), n=[1]) for row in X]
    records = [*examples, request(x=X), _log(PREDICT, {"x": X}), _log(CLASSIFY, {"inputs": _objects(examples)})]
    warm = folder / warmup_requests.FILE
    tried = 0
    for turn in range(400):
        chosen = [bytearray(records[int(i)]) for i in rng.integers(0, len(records), int(rng.integers(1, 4)))]
        for record in chosen:
            for _ in range(int(rng.integers(0, 4))):
                record[int(rng.integers(0, len(record)))] = int(rng.integers(0, 256))
        content = write(warm, map(bytes, chosen)).read_bytes()  # checksums that hold over spoiled messages
        if turn % 2:
            spoiled = bytearray(content)
            spoiled[int(rng.integers(0, len(spoiled)))] ^= 1 << int(rng.integers(0, 8))
            content = bytes(spoiled[: int(rng.integers(0, len(spoiled) + 1))])
        if turn % 5 == 0:
            content = gzip.compress(content)[: int(rng.integers(2, 200))]
        warm.write_bytes(content)
        for signature in (PREDICT, PAIR, PARSING, CLASSIFY):
            for read in (lambda s: establish.read(warm, [s]), lambda s: establish.warmup(folder, [s])):
                try:
                    read(signature)
                except PipelineError as error:
                    assert str(error)
                tried += 1
    return tried


def warm(folder: Path) -> dict[str, str]:
    """The words of `establish` for a SavedModel folder with warmup requests for one signature, without, and wrong ones."""
    from tensorflow.core.protobuf import meta_graph_pb2

    source, meta = ProbeSource(rows=4), meta_graph_pb2.MetaGraphDef()
    words = {"none": establish.establish(source, meta, [PREDICT], folder)[1]}
    assert establish.warmup(folder, [PREDICT]) is None
    write(folder / warmup_requests.FILE, [_log(PREDICT, {"x": X}), _log(PREDICT, {"x": X[:2]})])
    found, words["both"] = establish.establish(source, meta, [PREDICT, CLASSIFY], folder)
    assert found["serving_default/x"].tolist() == [*X.tolist(), *X[:2].tolist()]
    assert len(found["classify/inputs"]) == 4
    write(folder / warmup_requests.FILE, [_log(PREDICT, {"x": X[:, :1]})])
    try:
        establish.establish(source, meta, [PREDICT], folder)
    except UsageError as error:
        words["wrong"] = str(error)
    return words


def _log(signature: Signature, inputs: dict[str, Any]) -> bytes:
    from tasks.forms.warmup_requests import prediction_log

    encoded: bytes = prediction_log(signature, inputs).SerializeToString()
    return encoded


def _objects(items: list[bytes]) -> Any:
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array
