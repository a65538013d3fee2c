"""The requests a SavedModel brings to be run before it serves: `assets.extra/tf_serving_warmup_requests`.

A TFRecord file of `PredictionLog`s. Rules and texts: saved_model_warmup_util.cc and saved_model_warmup.cc in
tensorflow_serving/servables/tensorflow.
"""

from __future__ import annotations

from pathlib import Path

from tasks.serving.embedded import tensors
from tasks.serving.embedded.errors import Code, ServingError, invalid
from tasks.serving.embedded.inference import classify_regress, predict
from tasks.serving.embedded.tensors import Proto
from tasks.serving.embedded.versions.servable import Servable

MAX_RECORDS = 1000


def warmup_file(path: Path) -> Path:
    """Where a version directory keeps its warmup requests, if it has any."""
    return path / "assets.extra" / "tf_serving_warmup_requests"


def warm_up(servable: Servable, file: Path, iterations: int) -> int:
    """Run each of the file's requests `iterations` times; how many requests there are.

    The model a record names is not looked at.

    Raises:
        ServingError: a record that cannot be read or answered, or more than 1000 records.
    """
    import tensorflow as tf
    from google.protobuf.message import DecodeError
    from tensorflow_serving.apis import prediction_log_pb2

    count = 0
    try:
        for record in tf.compat.v1.io.tf_record_iterator(str(file)):
            try:
                request = prediction_log_pb2.PredictionLog.FromString(record)
            except DecodeError:
                shown = record.decode("utf-8", "replace")
                raise invalid(f"Failed to parse warmup record: {shown} from {file}") from None
            for _ in range(iterations):
                _run(servable, request)
            count += 1
            if count > MAX_RECORDS:
                raise invalid(f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {file}")
    except tf.errors.DataLossError as error:
        raise ServingError(
            Code.DATA_LOSS, f"{error.message}. Please verify your warmup data is in TFRecord format."
        ) from error
    return count


def _run(servable: Servable, record: Proto) -> None:
    kind = record.WhichOneof("log_type")
    if kind == "predict_log":
        request = record.predict_log.request
        call = predict.PredictCall(
            request.model_spec.signature_name, dict(request.inputs), tensors.from_proto, list(request.output_filter)
        )
        predict.predict(servable, call, None)
    elif kind == "classify_log":
        classify_regress.classify(servable, record.classify_log.request, None)
    elif kind == "regress_log":
        classify_regress.regress(servable, record.regress_log.request, None)
    elif kind == "multi_inference_log":
        classify_regress.multi_inference(servable, record.multi_inference_log.request, None)
    elif kind == "session_run_log":
        field = record.DESCRIPTOR.fields_by_name[kind].number
        raise ServingError(Code.UNIMPLEMENTED, f"Unsupported log_type for warmup: {field}")
