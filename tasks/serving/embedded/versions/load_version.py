"""One try at loading a version: the SavedModel, its batching and its warmup, with metrics and log lines.

Sources in tensorflow_serving/servables/tensorflow: saved_model_bundle_source_adapter.cc, saved_model_warmup_util.cc and
saved_model_warmup.cc. The log lines are the real server's, so that whoever waits for one need not know which server runs.
"""

from __future__ import annotations

import time
from pathlib import Path

from tasks.forms import warmup_requests
from tasks.serving.embedded import log, tensors
from tasks.serving.embedded.batching.scheduler import BatchScheduler
from tasks.serving.embedded.batching.session import BatchedServable, BatchingParameters, RunTask
from tasks.serving.embedded.errors import Code, ServingError, invalid
from tasks.serving.embedded.flags import Flags
from tasks.serving.embedded.inference import classify_regress, predict
from tasks.serving.embedded.monitoring import Metrics
from tasks.serving.embedded.versions.servable import LoadOptions, Servable, load
from tasks.serving.protos import PredictionLog


class VersionLoader:
    """Load versions as the flags say; without `batching`, every request runs by itself."""

    def __init__(self, flags: Flags, metrics: Metrics, batching: BatchingParameters | None) -> None:
        """Raise ServingError if the flags contradict each other."""
        kinds = (
            flags.tensorflow_session_parallelism,
            flags.tensorflow_intra_op_parallelism,
            flags.tensorflow_inter_op_parallelism,
        )
        if all(count > 0 for count in kinds):
            raise invalid(
                "Either configure server_options.tensorflow_session_parallelism or"
                " (server_options.tensorflow_intra_op_parallelism, server_options.tensorflow_inter_op_parallelism)"
                " separately. You cannot configure all."
            )
        of_all, intra_op, inter_op = kinds
        if not (intra_op or inter_op):
            intra_op = inter_op = of_all
        self._options = LoadOptions(frozenset(flags.saved_model_tags.split(",")), intra_op, inter_op)
        self._warms_up = flags.enable_model_warmup
        self._iterations = max(flags.num_request_iterations_for_warmup, 1)
        self._metrics = metrics
        self._batching = batching
        if batching is not None:
            self._scheduler = BatchScheduler[RunTask](batching.num_batch_threads, batching.thread_pool_name)

    def __call__(self, name: str, version: int, path: Path) -> Servable:
        """Load one version; return a servable that is ready to answer.

        Raises:
            ServingError: the load failed, with the real server's message.
        """
        with self._metrics.load(str(path)):
            servable: Servable = load(path, self._options)
        try:
            if self._batching is not None:
                log.info("Wrapping session to perform batch processing")
                servable = BatchedServable(servable, self._scheduler, self._batching)
            if self._warms_up:
                self._warm_up(servable, path)
        except BaseException:
            servable.close()
            raise
        return servable

    def _warm_up(self, servable: Servable, path: Path) -> None:
        file = path / warmup_requests.FILE
        if not file.exists():
            log.info(f"No warmup data file found at {file}")
            return
        log.info(f"Starting to read warmup data for model at {file} with model-warmup-options ")
        started = time.monotonic()
        records = _run_requests(servable, file, self._iterations)
        micros = (time.monotonic() - started) * 1e6
        self._metrics.warmed_up(str(path), micros)
        log.info(
            f"Finished reading warmup data for model at {file}. Number of warmup records read: {records}."
            f" Elapsed time (microseconds): {micros:.0f}."
        )


def _run_requests(servable: Servable, file: Path, iterations: int) -> int:
    """Run each request of the file `iterations` times and return the number of requests.

    The model name in a record is ignored.

    Raises:
        ServingError: a record that cannot be read or answered, or more than 1000 records.
    """
    import tensorflow as tf

    count = 0
    try:
        for record in warmup_requests.read(file):
            for _ in range(iterations):
                _run(servable, record)
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


def _run(servable: Servable, record: PredictionLog) -> None:
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
