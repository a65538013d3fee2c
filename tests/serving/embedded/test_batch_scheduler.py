"""Batches form as `SharedBatchScheduler` forms them, and what comes out is what each run alone would give."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.serving.embedded.batching.scheduler import BatchScheduler, QueueOptions
from tasks.serving.embedded.batching.session import BatchedServable, BatchingParameters, RunTask, read_parameters
from tasks.serving.embedded.errors import Code, ServingError
from tasks.serving.embedded.tensors import Array


class Sums:
    """In NumPy what a model does: the sum of a row of `a`, times `n`; and how large each run was."""

    def __init__(self, before: Callable[[], object] = lambda: None) -> None:
        self.runs: list[int] = []
        self.closed = False
        self._before = before
        names = {alias: SimpleNamespace(name=f"{alias}:0") for alias in ("a", "n", "y")}
        signature = SimpleNamespace(inputs={alias: names[alias] for alias in "an"}, outputs={"y": names["y"]})
        self.signatures: Mapping[str, Any] = {"serving_default": signature}

    def run(self, feeds: Mapping[str, Array], fetches: Sequence[str], timeout_ms: int | None = None) -> list[Array]:
        self.runs.append(len(feeds["n:0"]))
        self._before()
        assert list(fetches) == ["y:0"]
        a = feeds["a:0"]
        return [a.sum(1) * feeds["n:0"]]

    def close(self) -> None:
        self.closed = True


@contextmanager
def batched(single: Sums, threads: int = 1, **parameters: Any) -> Iterator[BatchedServable]:
    scheduler = BatchScheduler[RunTask](threads, "batch")
    chosen = {name: parameters.pop(name) for name in list(parameters) if name in QueueOptions.__dataclass_fields__}
    servable = BatchedServable(
        single, scheduler, BatchingParameters(QueueOptions(**chosen), threads, "b", **parameters)
    )
    try:
        yield servable
    finally:
        servable.close()
        scheduler.stop()


def feeds(rows: int, value: float = 1.0, width: int = 2) -> dict[str, Array]:
    return {"a:0": np.full((rows, width), value, np.float32), "n:0": np.arange(rows, dtype=np.int64)}


_RUNS = st.lists(st.tuples(st.integers(0, 6), st.floats(-100, 100, width=32)), min_size=1, max_size=12)


@settings(max_examples=60)
@given(
    runs=_RUNS,
    threads=st.integers(1, 3),
    most=st.integers(6, 9),
    allowed=st.booleans(),
    splits=st.booleans(),
    timeout=st.sampled_from([0.0, 0.002]),
)
def test_answers_are_those_of_the_run_alone(
    runs: list[tuple[int, float]], threads: int, most: int, allowed: bool, splits: bool, timeout: float
) -> None:
    execution = 4 if splits else most
    single = Sums()
    options: dict[str, Any] = {"max_batch_size": most, "batch_timeout_seconds": timeout, "max_enqueued_batches": 100}
    options |= {"splits": splits, "max_execution_batch_size": execution}
    options["allowed_batch_sizes"] = (2, execution) if allowed else ()
    with batched(single, threads, **options) as servable, ThreadPoolExecutor(len(runs)) as pool:
        answers = list(pool.map(lambda run: servable.run(feeds(*run), ["y:0"])[0], runs))
    for (rows, value), answer in zip(runs, answers, strict=True):
        assert answer.tolist() == Sums().run(feeds(rows, value), ["y:0"])[0].tolist()
    assert max(single.runs) <= execution
    if allowed:
        assert set(single.runs) <= {0, 2, execution}


def test_runs_that_fill_a_batch_do_not_wait_for_its_time() -> None:
    single = Sums()
    with (
        batched(single, max_batch_size=4, batch_timeout_seconds=86_400.0) as servable,
        ThreadPoolExecutor(2) as pool,
    ):
        list(pool.map(lambda _: servable.run(feeds(2), ["y:0"]), range(2)))
    assert single.runs == [4]
    assert single.closed


def test_a_batch_that_does_not_fill_goes_when_its_time_is_over() -> None:
    single = Sums()
    with batched(single, max_batch_size=4, batch_timeout_seconds=0.2) as servable:
        started = time.monotonic()
        servable.run(feeds(1), ["y:0"])
        assert time.monotonic() - started >= 0.2


def test_too_large_is_refused_and_so_is_what_a_full_queue_has_no_room_for() -> None:
    entered, go_on = threading.Event(), threading.Event()

    def block() -> None:
        entered.set()
        go_on.wait(30)

    single = Sums(block)
    with batched(single, max_batch_size=4, max_enqueued_batches=1) as servable, ThreadPoolExecutor(2) as pool:
        with pytest.raises(ServingError) as refused:
            servable.run(feeds(5), ["y:0"])
        assert refused.value.code is Code.INVALID_ARGUMENT
        assert refused.value.message == "Task size 5 is larger than maximum input batch size 4"

        running = pool.submit(servable.run, feeds(3), ["y:0"])
        assert entered.wait(30)
        queued = pool.submit(servable.run, feeds(3), ["y:0"])
        while not servable.queues[frozenset({"a:0", "n:0"}), frozenset({"y:0"})].due():
            time.sleep(0.01)
        with pytest.raises(ServingError) as refused:
            servable.run(feeds(2), ["y:0"])
        assert refused.value.code is Code.UNAVAILABLE
        assert refused.value.message.startswith("The batch scheduling queue to which this task was submitted is full")
        go_on.set()
        assert [len(future.result(30)[0]) for future in (running, queued)] == [3, 3]
        assert len(servable.run(feeds(4), ["y:0"])[0]) == 4, "it goes on"


@pytest.mark.parametrize(
    ("given_feeds", "message"),
    [
        (
            {"a:0": np.ones((2, 2)), "n:0": np.ones(3)},
            "Batching Run() input tensors must have equal 0th-dimension size",
        ),
        ({"a:0": np.ones((2, 2)), "n:0": np.ones(())}, "Batching Run() input tensors must have at least one dimension"),
    ],
)
def test_what_has_no_common_rows_cannot_be_batched(given_feeds: dict[str, Array], message: str) -> None:
    with batched(Sums()) as servable, pytest.raises(ServingError) as refused:
        servable.run(given_feeds, ["y:0"])
    assert (refused.value.code, refused.value.message) == (Code.INVALID_ARGUMENT, message)


def _together(servable: BatchedServable, *runs: dict[str, Array]) -> list[Any]:
    def answer(given_feeds: dict[str, Array]) -> Any:
        try:
            return servable.run(given_feeds, ["y:0"])[0].tolist()
        except ServingError as error:
            return error

    with ThreadPoolExecutor(len(runs)) as pool:
        return list(pool.map(answer, runs))


def test_rows_of_different_width_need_padding() -> None:
    wide, narrow = feeds(2, 1.0, 3), feeds(2, 2.0, 1)
    with batched(Sums(), max_batch_size=4, batch_timeout_seconds=60.0) as servable:
        refusals = _together(servable, wide, narrow)
    assert [refusal.code for refusal in refusals] == [Code.FAILED_PRECONDITION] * 2
    assert "have different shapes and padding is turned off" in refusals[0].message
    with batched(Sums(), max_batch_size=4, batch_timeout_seconds=60.0, pad_variable_length_inputs=True) as servable:
        # A row's own first value fills it up: three times 2.
        assert _together(servable, wide, narrow) == [[0.0, 3.0], [0.0, 6.0]]


def test_what_goes_wrong_in_a_batch_goes_wrong_for_all_of_it_and_for_no_other() -> None:
    def fail() -> None:
        if len(single.runs) == 1:
            raise ServingError(Code.RESOURCE_EXHAUSTED, "out of memory")

    single = Sums(fail)
    with batched(single, max_batch_size=4, batch_timeout_seconds=60.0) as servable:
        assert [error.code for error in _together(servable, feeds(2), feeds(2))] == [Code.RESOURCE_EXHAUSTED] * 2
        assert len(servable.run(feeds(4), ["y:0"])[0]) == 4


def test_who_waited_too_long_is_refused() -> None:
    single = Sums()
    with (
        batched(single, max_batch_size=4, batch_timeout_seconds=0.2) as servable,
        pytest.raises(ServingError) as refused,
    ):
        servable.run(feeds(1), ["y:0"], timeout_ms=50)
    assert refused.value.code is Code.RESOURCE_EXHAUSTED
    assert refused.value.message == "Run() timeout exceeded while waiting in batching queue"
    assert single.runs == []


def test_a_run_of_something_else_than_a_signature_goes_by_itself() -> None:
    class Any2(Sums):
        def run(self, feeds: Mapping[str, Array], fetches: Sequence[str], timeout_ms: int | None = None) -> list[Array]:
            return [np.zeros(()) for _ in fetches]

    with batched(Any2(), batch_timeout_seconds=60.0) as servable:
        assert len(servable.run(feeds(2), ["a:0", "y:0"])) == 2


def test_parameters_are_read_with_their_defaults(tmp_path: Path) -> None:
    file = tmp_path / "batching.config"
    file.write_text(
        "max_batch_size { value: 8 } batch_timeout_micros { value: 2500 } max_enqueued_batches { value: 3 }"
        "num_batch_threads { value: 2 } allowed_batch_sizes: 2 allowed_batch_sizes: 8 # two sizes\n"
    )
    read = read_parameters(file)
    assert (read.queue.max_batch_size, read.queue.batch_timeout_seconds, read.queue.max_enqueued_batches) == (
        8,
        0.0025,
        3,
    )
    assert (read.num_batch_threads, read.allowed_batch_sizes) == (2, (2, 8))
    file.write_text("")
    assert read_parameters(file).queue == QueueOptions()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_batch_size: 8", "Invalid protobuf file"),
        ("max_batch_sizes { value: 8 }", "Invalid protobuf file"),
        ("num_batch_threads { value: 0 }", "num_batch_threads must be positive; was 0"),
        ("max_batch_size { value: -1 }", "max_batch_size must be positive; was -1"),
        ("batch_timeout_micros { value: -1 }", "batch_timeout_micros must be non-negative; was -1"),
        (
            "max_batch_size { value: 8 } allowed_batch_sizes: 4",
            "must match max_batch_size; last entry was 4; expected 8",
        ),
        ("max_batch_size { value: 8 } allowed_batch_sizes: [4, 2, 8]", "must be monotonically increasing"),
    ],
)
def test_parameters_that_cannot_be_are_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "batching.config").write_text(text)
    with pytest.raises(ServingError, match=words) as refused:
        read_parameters(tmp_path / "batching.config")
    assert refused.value.code is Code.INVALID_ARGUMENT


def test_an_answer_that_has_not_the_batchs_rows_is_split_among_nobody() -> None:
    class Shortened(Sums):
        def run(self, feeds: Mapping[str, Array], fetches: Sequence[str], timeout_ms: int | None = None) -> list[Array]:
            return [output[:-1] for output in super().run(feeds, fetches, timeout_ms)]

    with batched(Shortened(), max_batch_size=4, batch_timeout_seconds=60.0) as servable:
        refusals = _together(servable, feeds(2), feeds(2))
    assert [refusal.code for refusal in refusals] == [Code.FAILED_PRECONDITION] * 2
    assert "does not equal the sum of the 0th dimension sizes" in refusals[0].message
