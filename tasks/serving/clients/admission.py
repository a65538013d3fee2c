"""Requests that a full server turns away: told from other errors, and sent again within their deadline."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_FIRST_PAUSE_SECONDS = 0.005
_LONGEST_PAUSE_SECONDS = 0.2
# What a server says that has no thread for a request (grpc/src/cpp/server/server_cc.cc), and no place in a batching queue
# (tensorflow/core/kernels/batching_util/shared_batch_scheduler.h, basic_batch_scheduler.h).
NO_THREAD = "Server Threadpool Exhausted"
_FULL = (NO_THREAD, "queue to which this task was submitted is full")


def is_full(message: str) -> bool:
    """Return True if an error's message says that the server was full, which is no verdict on the model."""
    return any(words in message for words in _FULL)


def admitted(send: Callable[[float], T], seconds: float, turned_away: Callable[[], None]) -> T:
    """Return the answer of `send(seconds left)`, called again, after a growing pause, while the server is full.

    `turned_away` is called for each attempt that the server turned away.

    Raises:
        grpc.RpcError, httpx.HTTPError: what `send` raised, if it was another error or the time is over.
    """
    import grpc
    import httpx

    deadline = time.monotonic() + seconds
    pause = _FIRST_PAUSE_SECONDS
    while True:
        try:
            return send(max(deadline - time.monotonic(), 0.001))
        except (grpc.RpcError, httpx.HTTPStatusError) as error:
            said = error.details() if isinstance(error, grpc.RpcError) else error.response.text
            if not is_full(said or ""):
                raise
            turned_away()
            if time.monotonic() + pause > deadline:
                raise
        time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - so that clients do not come back together
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
