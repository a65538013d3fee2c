"""A call in a fork of this process: for what reads files of strangers and needs no TensorFlow."""

from __future__ import annotations

import ctypes
import json
import math
import os
import resource
import signal
import time
from collections.abc import Callable
from typing import Any, NoReturn, ParamSpec, TypeVar

from tasks.errors import ChildFailed
from tasks.isolate.child import PR_SET_PDEATHSIG, answer_of, encoded
from tasks.isolate.client import current_limits, value_of
from tasks.isolate.launch import describe

P = ParamSpec("P")
T = TypeVar("T")


def forked(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `function(*args, **kwargs)` in a fork of this process, which must have one thread, and return its value.

    The kernel holds it to the limits of `isolate.limits`: memory, and seconds of a CPU. What it prints is lost.

    Raises:
        PipelineError: the function's own error, in its own class.
        ChildFailed: it crashed or reached a limit.
    """
    name = f"{function.__module__}.{function.__qualname__}"
    reading, writing = os.pipe()
    parent = os.getpid()
    if (pid := os.fork()) == 0:
        os.close(reading)
        _answer(writing, parent, name, function, args, kwargs)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        content = stream.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def failed(expected: str, found: str, remedy: str) -> ChildFailed:
        return ChildFailed(name, expected, found, f"{remedy}.", function=name, exit=code)

    if code == -signal.SIGXCPU:
        raise failed(f"an answer within {current_limits().seconds:g} s", "none", "raise `limits.seconds`")
    try:
        answer = json.loads(content)
    except ValueError:
        raise failed("an answer", f"it ended with {describe(code)}", "free memory if the system killed it") from None
    if answer.get("unexpected", {}).get("type") == "MemoryError":
        raise failed(f"at most {(current_limits().memory or 0) >> 20} MiB", "more", "raise `limits.memory`")
    return value_of(answer, function, failed)


def _answer(
    writing: int, parent: int, name: str, function: Callable[..., Any], args: Any, kwargs: dict[str, Any]
) -> NoReturn:
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):
            os.dup2(nowhere, descriptor)
        bounds = current_limits()
        if math.isfinite(bounds.seconds):
            most = int(time.process_time() + bounds.seconds) + 1
            resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))
        if bounds.memory:
            resource.setrlimit(resource.RLIMIT_AS, (bounds.memory, resource.RLIM_INFINITY))
        answer = answer_of(name, lambda: encoded(function, function(*args, **kwargs)))
        with os.fdopen(writing, "w") as stream:
            stream.write(answer)
    finally:
        os._exit(0)
