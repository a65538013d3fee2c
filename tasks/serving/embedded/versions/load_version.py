"""One try at loading a version: the SavedModel, its batching, its warmup, and what the metrics and the log say of it.

Source: tensorflow_serving/servables/tensorflow/saved_model_bundle_source_adapter.cc; the log's lines are those of
saved_model_warmup_util.cc, so that who waits for them need not know which server it is.
"""

from __future__ import annotations

import time
from pathlib import Path

from tasks.forms import warmup_requests
from tasks.serving.embedded import log
from tasks.serving.embedded.batching.scheduler import BatchScheduler
from tasks.serving.embedded.batching.session import BatchedServable, BatchingParameters, RunTask
from tasks.serving.embedded.errors import invalid
from tasks.serving.embedded.flags import Flags
from tasks.serving.embedded.monitoring import Metrics
from tasks.serving.embedded.versions.servable import LoadOptions, Servable, load
from tasks.serving.embedded.versions.warmup import warm_up


class VersionLoader:
    """Loads versions as the flags say; without `batching`, every request runs by itself."""

    def __init__(self, flags: Flags, metrics: Metrics, batching: BatchingParameters | None) -> None:
        """Raise ServingError where the flags contradict each other."""
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
        """The servable, ready to answer.

        Raises:
            ServingError: what failed, in the real server's words.
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
        records = warm_up(servable, file, self._iterations)
        micros = (time.monotonic() - started) * 1e6
        self._metrics.warmed_up(str(path), micros)
        log.info(
            f"Finished reading warmup data for model at {file}. Number of warmup records read: {records}."
            f" Elapsed time (microseconds): {micros:.0f}."
        )
