"""TFRecords of inputs: tf.Example, PredictRequest, PredictionLog (as in warmup requests), or strings of another kind.

`tensorflow` is imported where a record is read: run in a child.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tasks.errors import UsageError
from tasks.probe.fit import Held, Rows, Value
from tasks.records.signature import OutputRef
from tasks.tensors.tensor_file import Array, as_array

_GZIP = b"\x1f\x8b"
# tf.make_ndarray repeats a tensor's last value up to its declared shape: a few bytes can ask for any amount of memory.
_MAX_ELEMENTS = 2**28
_DEFAULT = "serving_default"


@dataclass
class _Request:
    """Inputs for one signature: tensors by name, or serialized tf.Examples."""

    signature: str
    inputs: dict[str, Array] = field(default_factory=dict)
    examples: list[bytes] = field(default_factory=list)


def looks_like_records(head: bytes, size: int) -> bool:
    """Return True if a file may be a TFRecord: the length of its first record fits (tensorflow/core/lib/io/record_reader.h).

    No text does: its eighth byte makes that length larger than any file. A compressed file is taken for one too.
    """
    if head.startswith(_GZIP):
        return True
    return len(head) >= 12 and struct.unpack_from("<Q", head)[0] + 16 <= size


def held(file: Path, where: str) -> Held:
    """Read a TFRecord.

    Raises:
        UsageError: it is not one, is broken, or its records are not all of one kind.
    """
    from tensorflow.core.example import example_pb2
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    records = list(_records(file, where))
    if not records:
        raise UsageError(where, "a TFRecord with at least one record", "none", "give a file with at least one row.")
    readers = (
        ("PredictionLog", prediction_log_pb2.PredictionLog, _is_log),
        ("PredictRequest", predict_pb2.PredictRequest, _is_request),
        ("tf.Example", example_pb2.Example, _is_example),
    )
    kind = next((kind for kind, message, fits in readers if _fits(message, fits, records[0])), None)
    if kind is None:
        return Held("TFRecord", {}, {None: objects(records)})
    (message,) = [message for name, message, _ in readers if name == kind]
    messages = [_parsed(message, record, kind, f"{where}, record {index}") for index, record in enumerate(records)]
    if kind == "tf.Example":
        return Held("TFRecord of tf.Example", _features(messages), {None: objects(records)})
    if kind == "PredictRequest":
        requests = [_of_predict(request, f"{where}, record {i}") for i, request in enumerate(messages)]
    else:
        requests = [one for i, log in enumerate(messages) for one in _of_log(log, f"{where}, record {i}")]
    return _grouped(requests, f"TFRecord of {kind}", where)


def _records(file: Path, where: str) -> Iterator[bytes]:
    import tensorflow as tf

    with file.open("rb") as stream:
        gzip = stream.read(2) == _GZIP
    compression = tf.io.TFRecordOptions(compression_type="GZIP") if gzip else None
    count = 0
    try:
        # Not tf.data: it would start the eager runtime, whose threads a baseline must be able to set first.
        for record in tf.compat.v1.io.tf_record_iterator(str(file), compression):
            yield record
            count += 1
    except (tf.errors.OpError, ValueError, RuntimeError, LookupError) as error:
        found = f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
        remedy = "write the file again; unpack what is compressed and no TFRecord."
        raise UsageError(f"{where}, record {count}", "a record whose checksum holds", found, remedy) from None


def _fits(message: Any, fits: Any, record: bytes) -> bool:
    from google.protobuf.message import DecodeError

    try:
        return bool(fits(message.FromString(record)))
    except (DecodeError, UnicodeDecodeError):
        return False


def _is_log(log: Any) -> bool:
    which = log.WhichOneof("log_type")
    if which == "predict_log":
        return _is_request(log.predict_log.request)
    if which in ("classify_log", "regress_log"):
        return getattr(log, which).request.input.WhichOneof("kind") is not None
    return which is not None and log.HasField("log_metadata")


def _is_request(request: Any) -> bool:
    return bool(request.inputs) and all(tensor.dtype for tensor in request.inputs.values())


def _is_example(example: Any) -> bool:
    features = example.features.feature
    return bool(features) and all(feature.WhichOneof("kind") or not feature.ByteSize() for feature in features.values())


def _parsed(message: Any, record: bytes, kind: str, where: str) -> Any:
    from google.protobuf.message import DecodeError

    try:
        return message.FromString(record)
    except (DecodeError, UnicodeDecodeError):
        remedy = "write records of one kind."
        raise UsageError(where, f"a {kind}, as the first", "bytes that do not parse", remedy) from None


def as_examples(rows: Array) -> tuple[dict[str, list[Any]], ...] | None:
    """Return the features of each row where all rows are serialized tf.Examples with any, else None."""
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    if rows.dtype != object:
        return None
    found = []
    for row in rows.ravel():
        try:
            features = tf.train.Example.FromString(bytes(row)).features.feature
        except DecodeError:
            return None
        if not features:
            return None
        found.append({name: [_shortest(item) for item in _values(features, name)] for name in sorted(features)})
    return tuple(found)


def _shortest(item: Any) -> Any:
    """Return a float, which is a float32 here, with no more digits than that needs."""
    return float(str(np.float32(item))) if isinstance(item, float) else item


def _features(examples: Iterable[Any]) -> dict[str, Value]:
    """Features by name, one list a row; a row without the feature has an empty list."""
    rows = list(examples)
    names = sorted({name for example in rows for name in example.features.feature})
    return {name: Rows([_values(example.features.feature, name) for example in rows]) for name in names}


def _values(features: Any, name: str) -> list[Any]:
    if name not in features:
        return []
    kind = features[name].WhichOneof("kind")
    return list(getattr(features[name], kind).value) if kind else []


def _of_predict(request: Any, where: str) -> _Request:
    found = _Request(request.model_spec.signature_name or _DEFAULT)
    for name, tensor in request.inputs.items():
        found.inputs[name] = _tensor(tensor, f"{where}, {name}")
    return found


def _of_log(log: Any, where: str) -> Iterator[_Request]:
    """Return the request of a log. Logs of multi-inference and session runs have none for a single signature."""
    which = log.WhichOneof("log_type")
    if which == "predict_log":
        yield _of_predict(log.predict_log.request, where)
    elif which in ("classify_log", "regress_log"):
        request = getattr(log, which).request
        found = _Request(request.model_spec.signature_name or _DEFAULT)
        kind = request.input.WhichOneof("kind")
        if kind == "example_list":
            found.examples = [example.SerializeToString() for example in request.input.example_list.examples]
        elif kind == "example_list_with_context":
            shared = request.input.example_list_with_context
            for example in shared.examples:
                whole = type(example)()
                whole.CopyFrom(shared.context)
                whole.MergeFrom(example)
                found.examples.append(whole.SerializeToString())
        yield found


def _tensor(proto: Any, where: str) -> Array:
    import tensorflow as tf

    dims = [dim.size for dim in proto.tensor_shape.dim]
    remedy = "write the request with tf.make_tensor_proto."
    if any(size < 0 for size in dims) or math.prod(dims) > _MAX_ELEMENTS:
        raise UsageError(where, f"a tensor of at most {_MAX_ELEMENTS} elements", f"the shape {dims[:8]}", remedy)
    try:
        return as_array(tf.make_ndarray(proto))
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise UsageError(
            where, "a complete TensorProto", f"{type(error).__name__}: {str(error)[:200]}", remedy
        ) from None


def _grouped(requests: Iterable[_Request], kind: str, where: str) -> Held:
    """Return all requests for a signature as one batch."""
    tensors: dict[str, list[Array]] = {}
    examples: dict[str | None, list[bytes]] = {}
    inputs_of: Mapping[str, set[str]] = {}
    for request in requests:
        inputs_of = {**inputs_of, request.signature: inputs_of.get(request.signature, set(request.inputs))}
        if set(request.inputs) != inputs_of[request.signature]:
            expected = (
                f"every request for {request.signature} to give {', '.join(sorted(inputs_of[request.signature]))}"
            )
            found = ", ".join(sorted(request.inputs)) or "none"
            raise UsageError(where, expected, found, "write requests that all give the same inputs.")
        for name, array in request.inputs.items():
            tensors.setdefault(str(OutputRef(request.signature, name)), []).append(array)
        if request.examples:
            examples.setdefault(request.signature, []).extend(request.examples)
    named = {name: _joined(arrays, f"{where}, {name}") for name, arrays in tensors.items()}
    return Held(kind, named, {key: objects(encoded) for key, encoded in examples.items()})


def _joined(arrays: list[Array], where: str) -> Array:
    first = arrays[0]
    for position, array in enumerate(arrays):
        same_kind = array.dtype == first.dtype and array.shape[1:] == first.shape[1:] and array.ndim == first.ndim
        if not same_kind or (first.ndim == 0 and array != first):
            expected = f"{first.dtype.name}{list(first.shape)} but for the number of rows, as in the first request"
            remedy = "write requests whose rows have one shape."
            raise UsageError(f"{where}, request {position}", expected, f"{array.dtype.name}{list(array.shape)}", remedy)
    return np.concatenate(arrays) if first.ndim else first


def objects(items: list[bytes]) -> Array:
    """Strings as an array, whatever they end with."""
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array
