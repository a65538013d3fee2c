"""Measure a server's latency: one request at a time, and several at once. Runs in a child, on the server's host.

Every answer to requests in flight at once is also compared, for a server may mix up the rows that it batches.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tasks.records.parity import ParityRow, Tolerance, worst_of
from tasks.records.serving import Latency
from tasks.serving.checks.requests import KnownRequest, compare_answers

AT_ONCE = 8
MEASURE_SECONDS = 10.0  # for one protocol: its signatures and batch sizes share them
AT_ONCE_SECONDS = 2.0  # for one protocol
FEWEST = 5


def one_at_a_time(known: Sequence[KnownRequest], requests: int) -> Iterator[Latency]:
    """Send each known request up to `requests` times; fewer, but at least `FEWEST`, if they are slow.

    Raises:
        ChildFailed: a request was not answered.
        AnsweredError: one was answered with an error.
    """
    for request in known:
        until = time.monotonic() + MEASURE_SECONDS / len(known)
        times: list[float] = []
        while len(times) < requests and (len(times) < FEWEST or time.monotonic() < until):
            started = time.perf_counter()
            request.predictor.predict(request.signature.key, request.inputs)
            times.append(time.perf_counter() - started)
        measured = _latency(request.predictor.form, request.rows, times, 1, request.rows * len(times) / sum(times))
        yield measured.model_copy(update={"signature": request.signature.key})


def at_once(known: Sequence[KnownRequest], requests: int, tolerance: Tolerance) -> tuple[list[ParityRow], Latency]:
    """Send all known requests in turn from eight threads, over one protocol.

    Returns the worst answer of each output, and the latency. Each thread sends up to `requests`, and at least one.

    Raises:
        ChildFailed: a request was not answered.
    """
    form, until = known[0].predictor.form, time.monotonic() + AT_ONCE_SECONDS
    rows: list[ParityRow] = []
    times: list[float] = []
    carried = 0
    lock = threading.Lock()

    def work(turn: int) -> None:
        nonlocal carried
        for sent in range(requests):
            if sent and time.monotonic() > until:
                break
            request = known[(turn + sent) % len(known)]
            began = time.perf_counter()
            answer = compare_answers(request, tolerance)
            taken = time.perf_counter() - began
            with lock:
                times.append(taken)
                carried += request.rows
                rows[:] = worst_of([*rows, *answer])

    started = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for future in [pool.submit(work, number) for number in range(AT_ONCE)]:
            future.result()
    throughput = carried / (time.monotonic() - started)
    together = [row.model_copy(update={"candidate": f"{row.candidate}, {AT_ONCE} at once"}) for row in rows]
    return worst_of(together), _latency(form, 0, times, AT_ONCE, throughput)


def _latency(protocol: str, batch: int, seconds: Sequence[float], concurrency: int, throughput: float) -> Latency:
    p50, p90, p99 = (round(float(value) * 1e3, 3) for value in np.percentile(seconds, [50, 90, 99]))
    return Latency(
        protocol=protocol,
        batch=batch,
        requests=len(seconds),
        concurrency=concurrency,
        p50=p50,
        p90=p90,
        p99=p99,
        throughput=round(throughput, 1),
    )
