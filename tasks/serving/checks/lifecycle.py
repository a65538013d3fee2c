"""A server's life in a test, of any runtime: start, wait, watch, stop; and the cause of a failure."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.errors import ChildFailed, EnvironmentFailure, ParityError, PipelineError, SmokeRefused
from tasks.records.parity import ParityTest
from tasks.records.serving import Cause, Endpoint
from tasks.serving.clients.grpc import status
from tasks.serving.runtimes.protocol import ServingRuntime

# A load that fails for one of these reasons says nothing about the model.
_MACHINE = re.compile(
    "RESOURCE_EXHAUSTED|No space left|Too many open files|Cannot allocate|address already in use", re.IGNORECASE
)
# tensorflow/core/framework/op.cc and op_kernel.cc
_UNKNOWN_OP = re.compile("Op type not registered|No OpKernel was registered|not registered in binary", re.IGNORECASE)
_WARMUP = re.compile("warm-?up", re.IGNORECASE)
# tensorflow/core/kernels/resource_variable_ops.cc, initializable_lookup_table.cc, common_runtime/executor.cc
_NOT_FILLED = re.compile("Could not find variable|uninitialized value|Table not initialized", re.IGNORECASE)
# tensorflow/compiler/jit/device_compiler.h; the flag is of tensorflow_serving/model_servers/main.cc
_NOT_COMPILED = "XLA compilation disabled"
_POLL_SECONDS = 0.05
_WATCH_SECONDS = 0.2
_LOG_TAIL = 6000
_FIX = "fix what it names and make the model again"
NOTICED_SECONDS = 15.0


@contextmanager
def serving(
    runtime: ServingRuntime,
    name: str,
    base_path: Path,
    version: int,
    load_timeout: float,
    memory: list[int] | None = None,
) -> Iterator[tuple[Endpoint, float]]:
    """Start a server and yield its endpoint and load time in seconds once `version` is AVAILABLE; stop it on exit.

    Samples of its resident memory, in bytes, are appended to `memory` from its start on: a load may take more than the
    answers after it.

    Raises:
        SmokeRefused: the server refused to load the model.
        ChildFailed: it ended for another reason, or was not AVAILABLE within `load_timeout` seconds.
        EnvironmentFailure: it could not be started.
    """
    started = time.monotonic()
    try:
        with _watched(runtime, memory):
            endpoint = runtime.start(name, base_path, deadline=load_timeout)
            wait_for(runtime, endpoint, name, version, started + load_timeout, load_timeout)
            yield endpoint, time.monotonic() - started
    finally:
        runtime.stop()


def wait_for(
    runtime: ServingRuntime, endpoint: Endpoint, name: str, version: int, deadline: float, load_timeout: float
) -> None:
    """Return when `version` is AVAILABLE. Raises as `serving` does if that does not happen."""
    what = f"{runtime.identity.called}, model {name} version {version}"
    while True:
        ended = runtime.exited()
        state, message = status(endpoint, name, 2.0).get(version, ("", ""))
        if state == "AVAILABLE":
            return
        if state == "END":
            raise not_loaded(runtime, what, message)
        if ended is not None:
            log = runtime.logs()
            number = _signal(ended.code)
            if ended.oom_killed:
                raise _ended(
                    runtime, Cause.CRASHED, what, "killed for want of memory (OOM-killed)", "raise `serving.memory`"
                )
            if re.search("address already in use|failed to bind", log, re.IGNORECASE):
                remedy = "end what listens there (`ss -ltnp` names it), or leave the ports out of `serving.flags`."
                raise EnvironmentFailure(what, "its ports free", "a port that is taken", remedy)
            if (line := load_error(log)) is not None:
                raise refused(runtime, _cause_of(line, log), what, "AVAILABLE", line)
            if number is not None:
                found = f"it crashed by signal {number} ({signal.Signals(number).name})"
                raise _ended(runtime, Cause.CRASHED, what, found, "see the end of its log")
            found = f"it did not start: it ended with exit code {ended.code}"
            raise _ended(runtime, Cause.DID_NOT_START, what, found, "see the end of its log")
        if time.monotonic() > deadline:
            found = f"{state or 'no answer'} after {load_timeout:g} s"
            raise _ended(runtime, Cause.NEVER_AVAILABLE, what, found, "raise `--load-timeout`")
        time.sleep(_POLL_SECONDS)


def not_loaded(runtime: ServingRuntime, what: str, message: str) -> PipelineError:
    """Return the error for a failed load by the server's message: a refusal, unless the host lacked resources."""
    if _MACHINE.search(message):
        return _ended(runtime, Cause.LOAD_ERROR, what, f"END: {message}", "free what it names, and run again")
    return refused(runtime, _cause_of(message, runtime.logs()), what, "AVAILABLE", f"END: {message}")


def _signal(code: int) -> int | None:
    number = -code if code < 0 else code - 128
    return number if 0 < number < signal.NSIG else None


def _cause_of(message: str, log: str) -> Cause:
    """Return the cause of a failed load by the server's message and log.

    A warmup that has begun and not ended is the cause ("Starting to read warmup data …", "Finished reading warmup data …",
    tensorflow_serving/servables/tensorflow/saved_model_warmup_util.cc).
    """
    if _UNKNOWN_OP.search(message):
        return Cause.UNKNOWN_OP
    if _NOT_FILLED.search(message) or _NOT_COMPILED in message:  # which a warmup request only brought to light
        return Cause.LOAD_ERROR
    begun, ended = log.rfind("Starting to read warmup data"), log.rfind("Finished reading warmup data")
    return Cause.WARMUP_REFUSED if _WARMUP.search(message) or begun > ended else Cause.LOAD_ERROR


def load_error(log: str) -> str | None:
    """Return the log's last message on a model that could not be loaded, unless the host lacked resources for it.

    ("Loading servable: {name: … version: …} failed: …", tensorflow_serving/core/loader_harness.cc.)
    """
    for line in reversed(log.splitlines()):
        if re.search(r"servable.*fail|fail.*servable", line, re.IGNORECASE) and not _MACHINE.search(line):
            return line.strip()[-400:]
    return None


def require_alive(runtime: ServingRuntime, within: float = 0.0) -> None:
    """Raise if the server has ended during the test, or ends `within` seconds: an engine notices later than clients do.

    Raises:
        SmokeRefused: it crashed or exited by itself, which no request may cause.
        ChildFailed: another process or the kernel ended it.
    """
    until = time.monotonic() + within
    while (ended := runtime.exited()) is None:
        if time.monotonic() >= until:
            return
        time.sleep(_POLL_SECONDS)
    what = runtime.identity.called
    number = _signal(ended.code)
    if ended.oom_killed or number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        how = "for want of memory (OOM-killed)" if ended.oom_killed else f"by signal {number}"
        remedy = "find what ended it, or raise `serving.memory`; run again"
        raise _ended(runtime, Cause.DIED, what, f"it was killed {how}", remedy)
    found = f"it ended by signal {number}" if number else f"it ended with exit code {ended.code}"
    raise refused(runtime, Cause.DIED, what, "it to keep serving", found)


@contextmanager
def examining(runtime: ServingRuntime) -> Iterator[None]:
    """Raise a failure inside the block as the server's end if that is the reason, else as it is.

    Raises:
        SmokeRefused: the server crashed or exited by itself.
        ChildFailed: another process ended it; or it runs and did not answer, whose cause is `too slow` or `full`.
    """
    try:
        yield
    except ChildFailed as error:
        require_alive(runtime, NOTICED_SECONDS)
        if error.function is not None:  # the child that sent the requests has failed, not the server
            raise
        what = f"{runtime.identity.called}, {error.where}"
        cause = error.cause or Cause.TOO_SLOW
        raise _ended(runtime, cause, what, error.found, error.remedy, error.expected) from error
    except Exception:
        require_alive(runtime, NOTICED_SECONDS)
        raise
    require_alive(runtime)


@contextmanager
def _watched(runtime: ServingRuntime, samples: list[int] | None) -> Iterator[None]:
    """Sample the server's resident memory while the block runs."""
    if samples is None:
        yield
        return
    over = threading.Event()

    def look() -> None:
        if memory := runtime.memory():
            samples.append(memory)

    def watch() -> None:
        while not over.wait(_WATCH_SECONDS):
            look()

    thread = threading.Thread(target=watch, daemon=True, name="memory of the server")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        look()


def refused(runtime: ServingRuntime, cause: Cause, what: str, expected: str, found: str) -> SmokeRefused:
    """Return the refusal of the model, with the end of the server's log."""
    measured = cause in (Cause.TOO_SLOW, Cause.TOO_LARGE, Cause.FULL)
    remedy = "measure again on a quiet machine (--refresh), or raise the gate" if measured else _FIX
    return SmokeRefused(
        what,
        expected,
        f"{found} ({cause.value})",
        f"{_remedy(found, remedy)}.{_fenced(runtime)}",
        cause=cause,
        server=runtime.identity.called,
        log=runtime.logs()[-_LOG_TAIL:],
    )


def differs(runtime: ServingRuntime, error: ParityError) -> ParityError:
    """Return the refusal of the model's answers, with its cause and the end of the server's log."""
    structural = error.report.failures and error.report.failures[0].test is ParityTest.STRUCTURE
    cause = Cause.STRUCTURE_DIFFERS if structural else Cause.ANSWER_DIFFERS
    where = error.where
    if image := runtime.identity.image:  # one among several, perhaps
        where = f"{image}: {where}"
    remedy = f"{_remedy(error.found, error.remedy.removesuffix('.'))}.{_fenced(runtime)}"
    found = error.changed(where=where, found=f"{error.found} ({cause.value})", remedy=remedy)
    found.cause, found.server, found.log = cause, runtime.identity.called, runtime.logs()[-_LOG_TAIL:]
    return found


def _remedy(found: str, otherwise: str) -> str:
    """Return the remedy that the server's message implies, or `otherwise`."""
    if _NOT_COMPILED in found:
        return (
            "make the model without `jit_compile`, or start its servers, here (`serving.flags`) and in production, "
            "with --xla_cpu_compilation_enabled"
        )
    return otherwise


def _ended(
    runtime: ServingRuntime, cause: Cause, what: str, found: str, remedy: str, expected: str = "AVAILABLE"
) -> ChildFailed:
    """Return a failure that is no verdict. Nothing of the step is kept, so the error carries the whole log."""
    found, remedy = f"{found} ({cause.value})", f"{remedy.removesuffix('.')}.{_fenced(runtime)}"
    return ChildFailed(what, expected, found, remedy, cause=cause, server=runtime.identity.called, log=runtime.logs())


def _fenced(runtime: ServingRuntime) -> str:
    """Quote the end of the server's log."""
    lines = runtime.logs()[-_LOG_TAIL:].splitlines()[-8:]
    return "".join(["\nThe server's last words:", *(f"\n    | {line[:300]}" for line in lines)]) if lines else ""
