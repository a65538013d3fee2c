"""Server-side batching: run requests for one signature of one version together, concatenated along dimension 0.

Rules and texts, all of TensorFlow Serving: `BatchingSession` in batching/batching_session.cc and batching/batching_util.cc;
`BatchingParameters` in servables/tensorflow/session_bundle_config.proto; defaults and checks in
servables/tensorflow/bundle_factory_util.cc and .h.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from tasks.serving.embedded import log, model_configs
from tasks.serving.embedded.batching.scheduler import BatchQueue, BatchScheduler, QueueOptions
from tasks.serving.embedded.descriptors import Field, message_classes
from tasks.serving.embedded.errors import Code, ServingError, invalid
from tasks.serving.embedded.tensors import Array, data_type_name, data_type_of
from tasks.serving.embedded.versions.servable import Servable
from tasks.serving.protos import OptionalFields

_BYPASS_LOG_SECONDS = 120.0
_DIFFERENT_SHAPES = (
    "Tensors with name '{}' from different tasks have different shapes and padding is turned off."
    "Set pad_variable_length_inputs to true, or ensure that all tensors with the same name"
    "have equal dimensions starting with the first dim."
)


@dataclass(frozen=True)
class BatchingParameters:
    """A `BatchingParameters` message with its defaults filled in."""

    queue: QueueOptions = field(default_factory=QueueOptions)
    num_batch_threads: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    thread_pool_name: str = "model_server_batch_threads"
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False


def read_parameters(file: Path) -> BatchingParameters:
    """Read `--batching_parameters_file`.

    Raises:
        ServingError: the file is missing, or holds another message or invalid values.
    """
    given = model_configs.read_text_proto(file, _message())
    most = _value(given, "max_batch_size", QueueOptions.max_batch_size)
    queue = QueueOptions(
        max_batch_size=most,
        batch_timeout_seconds=_value(given, "batch_timeout_micros", 0) / 1e6,
        max_enqueued_batches=_value(given, "max_enqueued_batches", QueueOptions.max_enqueued_batches),
        splits=_value(given, "enable_large_batch_splitting", False),
        max_execution_batch_size=_value(given, "max_execution_batch_size", most),
    )
    threads = _value(given, "num_batch_threads", len(os.sched_getaffinity(0)))
    allowed = tuple(given.allowed_batch_sizes)
    for name, number in (
        ("max_batch_size", most),
        ("max_execution_batch_size", queue.limit),
        ("num_batch_threads", threads),
    ):
        if number < 1:
            raise invalid(f"{name} must be positive; was {number}")
    for name, number in (
        ("batch_timeout_micros", queue.batch_timeout_seconds),
        ("max_enqueued_batches", queue.max_enqueued_batches),
    ):
        if number < 0:
            raise invalid(f"{name} must be non-negative; was {int(_value(given, name, 0))}")
    if any(after <= before for before, after in itertools.pairwise(allowed)):
        raise invalid("allowed_batch_sizes entries must be monotonically increasing")
    if allowed and allowed[-1] != queue.limit:
        limit = "max_execution_batch_size" if queue.splits else "max_batch_size"
        raise invalid(
            f"Last entry in allowed_batch_sizes must match {limit}; last entry was {allowed[-1]}; expected {queue.limit}"
        )
    name = _value(given, "thread_pool_name", "batch_threads")
    return BatchingParameters(queue, threads, name, allowed, given.pad_variable_length_inputs)


def _message() -> Any:
    wrapped = {"Int64Value": "int64", "StringValue": "string", "BoolValue": "bool"}
    classes = message_classes(
        "tfship.batching",
        {
            **{name: [Field("value", 1, kind)] for name, kind in wrapped.items()},
            "BatchingParameters": [
                Field("max_batch_size", 1, "Int64Value"),
                Field("batch_timeout_micros", 2, "Int64Value"),
                Field("max_enqueued_batches", 3, "Int64Value"),
                Field("num_batch_threads", 4, "Int64Value"),
                Field("thread_pool_name", 5, "StringValue"),
                Field("allowed_batch_sizes", 6, "int64", repeated=True),
                Field("pad_variable_length_inputs", 7, "bool"),
                Field("enable_large_batch_splitting", 8, "BoolValue"),
                Field("max_execution_batch_size", 9, "Int64Value"),
            ],
        },
    )
    return classes["BatchingParameters"]()


def _value(message: OptionalFields, name: str, default: Any) -> Any:
    return getattr(message, name).value if message.HasField(name) else default


@dataclass
class RunTask:
    """One session run that waits for its batch."""

    inputs: Mapping[str, Array]
    size: int
    deadline: float | None
    outputs: Future[dict[str, Array]] = field(default_factory=Future)

    def rows(self, start: int, stop: int) -> Self:
        """Return a run with these rows alone."""
        return type(self)({name: array[start:stop] for name, array in self.inputs.items()}, stop - start, self.deadline)


class BatchedServable:
    """A servable that batches its runs. A run that does not match a complete signature is not batched."""

    def __init__(self, single: Servable, scheduler: BatchScheduler[RunTask], parameters: BatchingParameters) -> None:
        self.signatures = single.signatures
        self._single = single
        self._scheduler = scheduler
        self._parameters = parameters
        self.queues: dict[tuple[frozenset[str], frozenset[str]], BatchQueue[RunTask]] = {}
        self._bypass_logged = -_BYPASS_LOG_SECONDS
        for signature in single.signatures.values():
            feeds = frozenset(info.name for info in signature.inputs.values())
            fetches = frozenset(info.name for info in signature.outputs.values())
            if (feeds, fetches) not in self.queues:
                self.queues[feeds, fetches] = scheduler.add_queue(parameters.queue, self._processor(sorted(fetches)))

    def run(self, feeds: Mapping[str, Array], fetches: Sequence[str], timeout_ms: int | None = None) -> list[Array]:
        """Do as `Servable.run`, in a batch with other runs.

        Raises:
            ServingError: also for a run that cannot be batched, and if the batch failed.
        """
        queue = self.queues.get((frozenset(feeds), frozenset(fetches)))
        if queue is None:
            if time.monotonic() >= self._bypass_logged + _BYPASS_LOG_SECONDS:
                self._bypass_logged = time.monotonic()
                log.warning("Request doesn't match any declared signature. Bypassing batcher.")
            return self._single.run(feeds, fetches, timeout_ms)
        deadline = None if timeout_ms is None else time.monotonic() + timeout_ms / 1000
        parts = queue.schedule(RunTask(feeds, _rows(feeds), deadline))
        outputs = [part.outputs.result() for part in parts]
        if len(outputs) == 1:
            return [outputs[0][name] for name in fetches]
        return [np.concatenate([output[name] for output in outputs]) for name in fetches]

    def close(self) -> None:
        """As `Servable.close`."""
        for queue in self.queues.values():
            self._scheduler.remove_queue(queue)
        self._single.close()

    def _processor(self, fetches: list[str]) -> Any:
        def process(tasks: Sequence[RunTask]) -> None:
            try:
                outputs = self._run_together(tasks, fetches)
            except Exception as error:  # raised in every run that waits for this batch
                for task in tasks:
                    task.outputs.set_exception(error)
            else:
                for task, own in zip(tasks, outputs, strict=True):
                    task.outputs.set_result(own)

        return process

    def _run_together(self, tasks: Sequence[RunTask], fetches: list[str]) -> list[dict[str, Array]]:
        timeout_ms = _remaining_ms(tasks)
        rows = sum(task.size for task in tasks)
        padding = next((size for size in self._parameters.allowed_batch_sizes if size >= rows), rows) - rows
        merged = {
            name: _merged(name, [task.inputs[name] for task in tasks], padding if rows else 0, self._parameters)
            for name in tasks[0].inputs
        }
        combined = dict(zip(fetches, self._single.run(merged, fetches, timeout_ms), strict=True))
        total = rows + (padding if rows else 0)
        for output in combined.values():
            if not output.ndim:
                raise ServingError(Code.FAILED_PRECONDITION, "Batched output tensor has 0 dimensions")
            if output.shape[0] != total:
                raise ServingError(
                    Code.FAILED_PRECONDITION,
                    "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes"
                    " of the input tensors",
                )
        split: list[dict[str, Array]] = []
        start = 0
        for task in tasks:
            split.append({name: output[start : start + task.size] for name, output in combined.items()})
            start += task.size
        return split


def _rows(feeds: Mapping[str, Array]) -> int:
    """`ComputeTensorBatchSize`."""
    if not feeds:
        raise invalid("Batching Run() must have at least one input tensor")
    if not all(array.ndim for array in feeds.values()):
        raise invalid("Batching Run() input tensors must have at least one dimension")
    sizes = {array.shape[0] for array in feeds.values()}
    if len(sizes) > 1:
        raise invalid("Batching Run() input tensors must have equal 0th-dimension size")
    return int(sizes.pop())


def _remaining_ms(tasks: Sequence[RunTask]) -> int | None:
    """Return the longest remaining time of the tasks in milliseconds; None is no limit."""
    now = time.monotonic()
    deadlines = [task.deadline for task in tasks]
    if all(deadline is not None and deadline <= now for deadline in deadlines):
        raise ServingError(Code.RESOURCE_EXHAUSTED, "Run() timeout exceeded while waiting in batching queue")
    if None in deadlines:
        return None
    return max(1, int((max(deadline for deadline in deadlines if deadline is not None) - now) * 1000))


def _merged(name: str, arrays: list[Array], padding: int, parameters: BatchingParameters) -> Array:
    """Concatenate one input of every task, and rows that fill the batch up to an allowed size."""
    first = arrays[0]
    if any(array.shape[1:] != first.shape[1:] for array in arrays):
        if not parameters.pad_variable_length_inputs or any(array.ndim != first.ndim for array in arrays):
            raise ServingError(Code.FAILED_PRECONDITION, _DIFFERENT_SHAPES.format(name))
        largest = tuple(max(sizes) for sizes in zip(*(array.shape[1:] for array in arrays), strict=True))
        arrays = [_padded(array, largest) for array in arrays]
    strange = next((array for array in arrays if array.dtype != first.dtype), None)
    if strange is not None:
        words = [data_type_name(data_type_of(array.dtype)) for array in (first, strange)]
        raise ServingError(
            Code.INTERNAL,
            "Tensor concat operation failed: INVALID_ARGUMENT: Cannot concatenate tensors that have different data"
            f" types. Got {words[0]} and {words[1]}.",
        )
    if padding:
        valid_row = next(array for array in reversed(arrays) if len(array))[:1]
        arrays = [*arrays, *[valid_row] * padding]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _padded(array: Array, sizes: tuple[int, ...]) -> Array:
    """Pad the dimensions after the first to `sizes` with the tensor's own first value (`AddPadding`)."""
    if array.shape[1:] == sizes:
        return array
    if not array.size:
        raise invalid("Got empty tensor in batch of non-empty tensors.")
    padded = np.empty((array.shape[0], *sizes), array.dtype)
    padded.fill(array.flat[0])
    padded[tuple(slice(size) for size in array.shape)] = array
    return padded
