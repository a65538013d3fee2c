"""Warmup requests that fail a load, each in one way. Runs in a child."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.forms import warmup_requests

FAULTS = ("no log", "no type", "unknown signature", "wrong dtype", "wrong name", "too many", "cut", "flipped")


def spoil(model: Path, fault: str) -> None:
    """Write the file of a SavedModel anew, with this fault."""
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    path = model / warmup_requests.FILE
    good = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
    log = prediction_log_pb2.PredictionLog.FromString(good[0])
    records = [*good, _spoiled(log, fault)] if fault not in ("too many", "cut", "flipped") else good
    if fault == "too many":
        records = good[:1] * (warmup_requests.MOST + 1)
    path.unlink()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    content = bytearray(path.read_bytes())
    if fault == "cut":
        path.write_bytes(content[:-3])
    elif fault == "flipped":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


def _spoiled(log: Any, fault: str) -> bytes:
    import tensorflow as tf

    request = log.predict_log.request
    if fault == "no log":
        return b"\xff\xfenot a message"
    if fault == "no type":
        log.ClearField("predict_log")
    elif fault == "unknown signature":
        request.model_spec.signature_name = "nobody"
    elif fault == "wrong dtype":
        name = next(iter(request.inputs))
        request.inputs[name].CopyFrom(tf.make_tensor_proto([1, 2], dtype=tf.int32))
    elif fault == "wrong name":
        name = next(iter(request.inputs))
        request.inputs["other"].CopyFrom(request.inputs[name])
        del request.inputs[name]
    serialized: bytes = log.SerializeToString()
    return serialized
