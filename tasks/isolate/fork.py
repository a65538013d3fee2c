"""A call in a fork of this process: for what reads files of strangers and needs no TensorFlow."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn, ParamSpec, TypeVar, get_type_hints

from pydantic import TypeAdapter

from tasks.errors import ChildFailed, EnvironmentFailure, PipelineError
from tasks.isolate.child import encoded
from tasks.isolate.client import current_limits
from tasks.isolate.launch import describe

P = ParamSpec("P")
T = TypeVar("T")
_PR_SET_PDEATHSIG = 1


def forked(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `function(*args, **kwargs)` in a fork of this process, which must have one thread, and return its value.

    The kernel holds it to the limits of `isolate.limits`: memory, and seconds of a CPU.

    Raises:
        PipelineError: the function's own error, in its own class.
        ChildFailed: it crashed or reached a limit.
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    if (pid := os.fork()) == 0:
        os.close(reading)
        _answer(writing, parent, function, args, kwargs)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        content = stream.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    name = f"{function.__module__}.{function.__qualname__}"
    try:
        answer = json.loads(content)
    except ValueError:
        bounds, how = current_limits(), f"it ended with {describe(code)}"
        if code == -signal.SIGXCPU:
            remedy = "raise `limits.seconds`."
            raise ChildFailed(name, f"an answer within {bounds.seconds:g} s", "none", remedy, function=name) from None
        raise ChildFailed(name, "an answer", how, "run again without --quick.", function=name) from None
    if "error" in answer:
        raise PipelineError.decode(answer["error"])
    if "unexpected" in answer:
        raise ChildFailed(name, "no error", answer["unexpected"], "run again without --quick.", function=name)
    adapter: TypeAdapter[T] = TypeAdapter(get_type_hints(function)["return"])
    return adapter.validate_python(answer["result"][0])


def _answer(writing: int, parent: int, function: Callable[..., Any], args: Any, kwargs: Any) -> NoReturn:
    answer = ""
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)
        bounds = current_limits()
        seconds = min(int(bounds.seconds) + 1, resource.RLIM_INFINITY if bounds.seconds == float("inf") else 2**31)
        resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + seconds, resource.RLIM_INFINITY))
        if bounds.memory:
            resource.setrlimit(resource.RLIMIT_AS, (bounds.memory, resource.RLIM_INFINITY))
        answer = '{"result": ' + encoded(function, function(*args, **kwargs)) + "}"
    except PipelineError as error:
        answer = json.dumps({"error": error.encode()})
    except OSError as error:
        answer = json.dumps({"error": EnvironmentFailure.from_os(error, function.__qualname__).encode()})
    except MemoryError:
        found = "MemoryError: it needs more than `limits.memory`"
        answer = json.dumps({"unexpected": found})
    except BaseException as error:
        traceback.print_exc()
        answer = json.dumps({"unexpected": f"{type(error).__name__}: {error}"[:4000]})
    finally:
        with os.fdopen(writing, "w") as stream:
            stream.write(answer)
        os._exit(0)
