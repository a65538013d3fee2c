"""Gather tasks into batches in several queues, and process the batches in threads that all queues share.

Rules and texts: `SharedBatchScheduler` in tensorflow/core/kernels/batching_util/shared_batch_scheduler.h. A queue is a
sequence of closed batches with an open one at its end. A batch is due when it is closed, or when it is the only one and
is full or `batch_timeout_seconds` old.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, Self, TypeVar

from tasks.serving.embedded.errors import Code, ServingError, invalid

_FULL = "The batch scheduling queue to which this task was submitted is full; "


class Sized(Protocol):
    """A task of `size` rows that can be divided."""

    @property
    def size(self) -> int:
        """The number of rows."""
        ...

    def rows(self, start: int, stop: int) -> Self:
        """Return a task with these rows alone."""
        ...


T = TypeVar("T", bound=Sized)


@dataclass(frozen=True)
class QueueOptions:
    """Options of one queue; sizes are in rows.

    With `splits`, a task of up to `max_batch_size` rows is divided to fill batches of `max_execution_batch_size`.
    """

    max_batch_size: int = 1000
    batch_timeout_seconds: float = 0.0
    max_enqueued_batches: int = 10
    splits: bool = False
    max_execution_batch_size: int = 1000

    @property
    def limit(self) -> int:
        """The maximum size of a batch."""
        return self.max_execution_batch_size if self.splits else self.max_batch_size


@dataclass
class _Batch(Generic[T]):
    tasks: list[T] = field(default_factory=list)
    size: int = 0
    opened_at: float = 0.0

    def add(self, task: T) -> None:
        if not self.tasks:
            self.opened_at = time.monotonic()
        self.tasks.append(task)
        self.size += task.size


class BatchQueue(Generic[T]):
    """Tasks that may share a batch. Made by `BatchScheduler.add_queue`."""

    def __init__(
        self, options: QueueOptions, process: Callable[[Sequence[T]], None], changed: threading.Condition
    ) -> None:
        self._options = options
        self._changed = changed
        self._batches: deque[_Batch[T]] = deque([_Batch()])
        self.process = process

    def schedule(self, task: T) -> list[T]:
        """Enqueue a task; return the enqueued tasks: the task itself, or the parts that it was divided into.

        Raises:
            ServingError: INVALID_ARGUMENT if it is too large for any batch, UNAVAILABLE if the queue is full.
        """
        options = self._options
        if task.size > options.max_batch_size:
            raise invalid(f"Task size {task.size} is larger than maximum input batch size {options.max_batch_size}")
        with self._changed:
            room = options.limit - self._batches[-1].size
            if task.size > room:
                self._require_capacity(task.size, room)
            parts = self._cut(task, room)
            for part in parts:
                if self._batches[-1].size + part.size > options.limit:
                    self._batches.append(_Batch())
                self._batches[-1].add(part)
            self._changed.notify_all()
        return parts

    def _require_capacity(self, size: int, room: int) -> None:
        options, enqueued = self._options, len(self._batches)
        if not options.splits:
            if enqueued >= options.max_enqueued_batches:
                reason = f"currently {enqueued} batches enqueued and max_enqueued_batches is"
                raise ServingError(Code.UNAVAILABLE, f"{_FULL}{reason} {options.max_enqueued_batches}")
            return
        capacity = (options.max_enqueued_batches - enqueued) * options.limit + room
        if size > capacity:
            raise ServingError(
                Code.UNAVAILABLE,
                f"{_FULL}task size is {size} but scheduling capacity is only {capacity} (num_enqueued_batches={enqueued},"
                f" max_enqueued_batches={options.max_enqueued_batches}, open_batch_size={self._batches[-1].size},"
                f" max_execution_batch_size={options.limit})",
            )

    def _cut(self, task: T, room: int) -> list[T]:
        if not self._options.splits or task.size <= room:
            return [task]
        starts = [*([0] if room else []), *range(room, task.size, self._options.limit)]
        return [task.rows(start, stop) for start, stop in zip(starts, [*starts[1:], task.size], strict=True)]

    def due(self) -> float | None:
        """Return the time at which the first batch is due (0: now), or None while there are no tasks."""
        if len(self._batches) > 1:
            return 0.0
        batch = self._batches[0]
        if not batch.tasks:
            return None
        full = batch.size >= self._options.limit
        return 0.0 if full else batch.opened_at + self._options.batch_timeout_seconds

    def take(self) -> list[T]:
        """Remove and return the tasks of the first batch, which must be due."""
        batch = self._batches.popleft()
        if not self._batches:
            self._batches.append(_Batch())
        return batch.tasks


class BatchScheduler(Generic[T]):
    """Threads that serve queues in turn, one batch at a time."""

    def __init__(self, threads: int, name: str) -> None:
        self._changed = threading.Condition()
        self._queues: deque[BatchQueue[T]] = deque()
        self._stopping = False
        for number in range(threads):
            threading.Thread(target=self._work, daemon=True, name=f"{name}_{number}").start()

    def add_queue(self, options: QueueOptions, process: Callable[[Sequence[T]], None]) -> BatchQueue[T]:
        """Add a queue whose batches are passed to `process`, which must not raise, in one of the threads."""
        queue = BatchQueue(options, process, self._changed)
        with self._changed:
            self._queues.append(queue)
        return queue

    def remove_queue(self, queue: BatchQueue[T]) -> None:
        """Remove a queue that has no tasks and gets no more."""
        with self._changed:
            self._queues.remove(queue)

    def stop(self) -> None:
        """Process no further batch, and let the threads end."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                while (queue := self._next()) is None:
                    if self._stopping:
                        return
                    times = [at for each in self._queues if (at := each.due()) is not None]
                    self._changed.wait(max(0.0, min(times) - time.monotonic()) if times else None)
                tasks = queue.take()
            queue.process(tasks)

    def _next(self) -> BatchQueue[T] | None:
        """Return the first queue with a batch that is due, and move it to the end of the turn."""
        if self._stopping:
            return None
        now = time.monotonic()
        for queue in self._queues:
            at = queue.due()
            if at is not None and at <= now:
                self._queues.remove(queue)
                self._queues.append(queue)
                return queue
        return None
