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
_FEWEST_AT_ONCE = 2  # a server may mix up rows of two clients


class Budget:
    """Seconds for a number of measurements. What one of them leaves, the others share."""

    def __init__(self, seconds: float, measurements: int) -> None:
        self._end = time.monotonic() + seconds
        self._left = measurements

    def until(self) -> float:
        """Return the time on the monotonic clock at which the next measurement must end."""
        now = time.monotonic()
        share = max(self._end - now, 0.0) / max(self._left, 1)
        self._left -= 1
        return now + share


def one_at_a_time(known: Sequence[KnownRequest], requests: int, budget: Budget) -> Iterator[Latency]:
    """Send each known request up to `requests` times; fewer, but at least once, where the time is over.

    Raises:
        ChildFailed: a request was not answered.
        AnsweredError: one was answered with an error.
    """
    for request in known:
        until = budget.until()
        times: list[float] = []
        while len(times) < requests and (not times or time.monotonic() < until):
            started = time.perf_counter()
            request.predictor.predict(request.signature.key, request.inputs)
            times.append(time.perf_counter() - started)
        measured = _latency(request.predictor.form, request.rows, times, 1, request.rows * len(times) / sum(times))
        yield measured.model_copy(update={"signature": request.signature.key})


def clients_for(flags: Sequence[str], cpus: int | None) -> int:
    """Return the number of clients at once: eight, or what a server with these flags and CPUs (None: unknown) has threads for.

    It has four for each CPU unless `--grpc_max_threads` says otherwise, and one of them waits for requests (see
    `embedded/flags.py` and `embedded/grpc/services.py`).
    """
    given = [flag.partition("=")[2] for flag in flags if flag.lstrip("-").startswith("grpc_max_threads=")]
    threads = int(given[-1]) if given and given[-1].isdecimal() else cpus and 4 * cpus
    return max(min(AT_ONCE, threads - 1), _FEWEST_AT_ONCE) if threads else AT_ONCE


def at_once(
    known: Sequence[KnownRequest], requests: int, tolerance: Tolerance, clients: int, budget: Budget
) -> tuple[list[ParityRow], Latency]:
    """Send all known requests in turn from `clients` threads, over one protocol.

    Returns the worst answer of each output, and the latency. Each thread sends up to `requests`, and at least one.

    Raises:
        ChildFailed: a request was not answered.
    """
    predictor, until = known[0].predictor, budget.until()
    before = predictor.turned_away
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
    with ThreadPoolExecutor(clients) as pool:
        for future in [pool.submit(work, number) for number in range(clients)]:
            future.result()
    throughput = carried / (time.monotonic() - started)
    together = [row.model_copy(update={"candidate": f"{row.candidate}, {clients} at once"}) for row in rows]
    measured = _latency(predictor.form, 0, times, clients, throughput)
    return worst_of(together), measured.model_copy(update={"turned_away": predictor.turned_away - before})


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
