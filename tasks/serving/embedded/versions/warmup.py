"""Run a SavedModel's warmup requests before it serves.

Rules and texts: saved_model_warmup_util.cc and saved_model_warmup.cc in tensorflow_serving/servables/tensorflow.
"""

from __future__ import annotations

from pathlib import Path

from tasks.forms import warmup_requests
from tasks.serving.embedded import tensors
from tasks.serving.embedded.errors import Code, ServingError, invalid
from tasks.serving.embedded.inference import classify_regress, predict
from tasks.serving.embedded.tensors import Proto
from tasks.serving.embedded.versions.servable import Servable


def warm_up(servable: Servable, file: Path, iterations: int) -> int:
    """Run each request of the file `iterations` times and return the number of requests.

    The model name in a record is ignored.

    Raises:
        ServingError: a record that cannot be read or answered, or more than 1000 records.
    """
    import tensorflow as tf

    count = 0
    try:
        for log in warmup_requests.read(file):
            for _ in range(iterations):
                _run(servable, log)
            count += 1
            if count > warmup_requests.MOST:
                raise invalid(f"Number of warmup records exceeds the maximum ({warmup_requests.MOST}) at {file}")
    except warmup_requests.RecordError as error:
        shown = error.record.decode("utf-8", "replace")
        raise invalid(f"Failed to parse warmup record: {shown} from {file}") from None
    except tf.errors.DataLossError as error:
        raise ServingError(
            Code.DATA_LOSS, f"{error.message}. Please verify your warmup data is in TFRecord format."
        ) from error
    return count


def _run(servable: Servable, log: Proto) -> None:
    kind = log.WhichOneof("log_type")
    if kind == "predict_log":
        request = log.predict_log.request
        call = predict.PredictCall(
            request.model_spec.signature_name, dict(request.inputs), tensors.from_proto, list(request.output_filter)
        )
        predict.predict(servable, call, None)
    elif kind == "classify_log":
        classify_regress.classify(servable, log.classify_log.request, None)
    elif kind == "regress_log":
        classify_regress.regress(servable, log.regress_log.request, None)
    elif kind == "multi_inference_log":
        classify_regress.multi_inference(servable, log.multi_inference_log.request, None)
    elif kind == "session_run_log":
        field = log.DESCRIPTOR.fields_by_name[kind].number
        raise ServingError(Code.UNIMPLEMENTED, f"Unsupported log_type for warmup: {field}")
