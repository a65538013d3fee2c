"""Warmup requests of a SavedModel, which a server runs while it loads: `assets.extra/tf_serving_warmup_requests`.

A TFRecord file of `PredictionLog`s (tensorflow_serving/apis/prediction_log.proto). An invalid one fails the load of the
model, and a server reads no more than 1000 (tensorflow_serving/servables/tensorflow/saved_model_warmup_util.cc). Runs in
a child.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.forms import literal_path
from tasks.parity import compare
from tasks.records.base import Record
from tasks.records.signature import Method, Signature
from tasks.tensors import tensor_file
from tasks.tensors.tensor_file import Array, Tensors

FILE = Path("assets.extra") / "tf_serving_warmup_requests"
MOST = 1000
CALLS = {
    "predict_log": "Predict",
    "classify_log": "Classify",
    "regress_log": "Regress",
    "multi_inference_log": "MultiInference",
}
"""The PredictionService method for each kind of log that a server runs."""
REQUESTS = 32  # of one row each: a server that batches refuses more rows than its batch, in a warmup request too


class RecordError(ValueError):
    """A record that is not a PredictionLog; `record` is its bytes."""

    def __init__(self, record: bytes) -> None:
        super().__init__(record)
        self.record = record


class WarmupFound(Record):
    """The number of records in a SavedModel, and the problem of the first invalid one."""

    records: int
    problem: str = ""


def write(folder: Path, signatures: Iterable[Signature], probe: Tensors) -> None:
    """Write warmup requests into a SavedModel: for each signature the first rows of the probe, one row a request."""
    import tensorflow as tf

    path = folder / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature in signatures:
            for inputs in _pieces(tensor_file.select(probe, signature.key), compare.rows_of(signature, probe)):
                writer.write(prediction_log(signature, inputs).SerializeToString(deterministic=True))


def _pieces(inputs: Tensors, rows: int) -> Iterator[Tensors]:
    if rows < 2:
        yield inputs
        return
    for row in range(min(rows, REQUESTS)):
        yield {name: array[row : row + 1] for name, array in inputs.items()}


def prediction_log(signature: Signature, inputs: Mapping[str, Array]) -> Any:
    """Return a request for the signature's method as a PredictionLog."""
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    log = prediction_log_pb2.PredictionLog()
    if signature.called_by is Method.PREDICT:
        request = log.predict_log.request
        for name, array in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
    else:
        kind = log.classify_log if signature.called_by is Method.CLASSIFY else log.regress_log
        request = kind.request
        (examples,) = inputs.values()
        for encoded in examples.ravel():
            request.input.example_list.examples.append(tf.train.Example.FromString(encoded))
    request.model_spec.name = "warmup"  # the server ignores it
    request.model_spec.signature_name = signature.key
    return log


def read(file: Path) -> Iterator[Any]:
    """Yield the PredictionLogs of a warmup file.

    Raises:
        RecordError: a record is something else.
        tf.errors.OpError: the file is damaged or not a TFRecord.
    """
    import tensorflow as tf
    from google.protobuf.message import DecodeError
    from tensorflow_serving.apis import prediction_log_pb2

    for record in tf.compat.v1.io.tf_record_iterator(str(literal_path.literal(file))):
        try:
            log = prediction_log_pb2.PredictionLog.FromString(record)
        except DecodeError:
            raise RecordError(record) from None
        yield log


def check(folder: Path, signatures: Mapping[str, Signature]) -> WarmupFound:
    """Check the warmup requests of a SavedModel, of which there may be none, against its signatures."""
    import tensorflow as tf

    file, count = folder / FILE, 0
    if not file.exists():
        return WarmupFound(records=0)
    try:
        for log in read(file):
            count += 1
            if problem := _problem(log, signatures):
                return WarmupFound(records=count, problem=f"record {count}: {problem}")
    except RecordError:
        return WarmupFound(records=count + 1, problem=f"record {count + 1} is not a PredictionLog")
    except (tf.errors.DataLossError, tf.errors.FailedPreconditionError) as error:
        return WarmupFound(records=count, problem=f"after record {count}: {error.message}")
    too_many = f"{count} records, and a server takes {MOST} at most" if count > MOST else ""
    return WarmupFound(records=count, problem=too_many)


def _problem(log: Any, signatures: Mapping[str, Signature]) -> str:
    import tensorflow as tf

    kind = log.WhichOneof("log_type")
    if kind not in CALLS:
        return f"log type {kind or 'none'}, which servers do not run"
    if kind == "multi_inference_log":
        return ""
    request = getattr(log, kind).request
    key = request.model_spec.signature_name or "serving_default"
    signature = signatures.get(key)
    if signature is None:
        return f"signature {key}, but the model has {', '.join(sorted(signatures))}"
    wanted = {"predict_log": Method.PREDICT, "classify_log": Method.CLASSIFY, "regress_log": Method.REGRESS}[kind]
    if signature.called_by is not wanted:
        return f"a {kind.removesuffix('_log')} request for signature {key}, which takes {signature.called_by.name.lower()} requests"
    if kind == "predict_log":
        try:
            found = {name: tf.as_dtype(tensor.dtype).name for name, tensor in request.inputs.items()}
        except TypeError as error:
            return f"a tensor of an unknown dtype: {error}"
        expected = {name: spec.dtype for name, spec in signature.inputs.items()}
        if found != expected:
            return f"inputs {found} for signature {key}, which takes {expected}"
    return ""
