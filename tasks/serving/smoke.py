"""What a smoke test asks of a server, and how it waits for one. Every check is made against any runtime alike."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tasks.errors import ChildFailed, EnvironmentFailure, SmokeRefused
from tasks.forms import parity
from tasks.forms.predictor import Predictor
from tasks.forms.proof import Reference
from tasks.forms.tensors import Tensors
from tasks.records.base import Record
from tasks.records.parity import ParityReport, ParityRow, ParityTest, Tolerance
from tasks.records.serving import Endpoint, Latency, RefusalCheck
from tasks.records.settings import Serving
from tasks.records.signature import Method
from tasks.serving.client import AnsweredError, GrpcPredictor, NotCarriedError, RestPredictor, reaching, status
from tasks.serving.runtime import ServingRuntime

# A load that fails for one of these says nothing about the model.
_MACHINE = re.compile(
    "RESOURCE_EXHAUSTED|No space left|Too many open files|Cannot allocate|address already in use", re.IGNORECASE
)
_POLL_SECONDS = 0.05
_MEASURE_SECONDS = 5.0  # for one protocol and batch size
_FEWEST = 5
_LOG_TAIL = 6000


class Findings(Record):
    """What the questions to a running server gave."""

    parity: ParityReport
    signature_difference: str
    version: int | None
    refusals: tuple[RefusalCheck, ...]
    latency: tuple[Latency, ...]


@contextmanager
def serving(
    runtime: ServingRuntime, name: str, base_path: Path, version: int, load_timeout: float
) -> Iterator[tuple[Endpoint, float]]:
    """A server with `version` AVAILABLE, and the seconds that took; stopped on the way out, whatever happens.

    Raises:
        SmokeRefused: the server would not load the model.
        ChildFailed: it ended for another reason, or did not get that far within `load_timeout` seconds.
        EnvironmentFailure: it could not be started.
    """
    started = time.monotonic()
    try:
        endpoint = runtime.start(name, base_path, deadline=load_timeout)
        _wait(runtime, endpoint, name, version, started + load_timeout, load_timeout)
        yield endpoint, time.monotonic() - started
    finally:
        runtime.stop()


def _wait(
    runtime: ServingRuntime, endpoint: Endpoint, name: str, version: int, deadline: float, load_timeout: float
) -> None:
    what = f"{runtime.identity.runtime} server, model {name} version {version}"
    while True:
        ended = runtime.exited()
        state, message = status(endpoint, name, 2.0).get(version, ("", ""))
        if state == "AVAILABLE":
            return
        if state == "END":
            if _MACHINE.search(message):
                raise _ended(runtime, what, f"END: {message}", "free what it names, and run again")
            raise refused(runtime, "load error", what, "AVAILABLE", f"END: {message}")
        if ended is not None:
            log = runtime.logs()
            if ended.oom_killed:
                raise _ended(runtime, what, "killed for want of memory", "raise `serving.memory`")
            if re.search("address already in use|failed to bind", log, re.IGNORECASE):
                remedy = "end what listens there (`ss -ltnp` names it), or leave the ports out of `serving.flags`."
                raise EnvironmentFailure(what, "its ports free", "a port that is taken", remedy)
            if (line := _load_error(log)) is not None:
                raise refused(runtime, "load error", what, "AVAILABLE", line)
            raise _ended(runtime, what, f"it ended with {ended.code}", "see the end of its log above")
        if time.monotonic() > deadline:
            seen = state or "no answer"
            raise _ended(runtime, what, f"{seen} after {load_timeout:g} s", "raise `serving.load_timeout`")
        time.sleep(_POLL_SECONDS)


def _load_error(log: str) -> str | None:
    """The server's own words for a model that it could not load, not for a machine that had no room for it.

    ("Loading servable: {name: … version: …} failed: …", tensorflow_serving/core/loader_harness.cc.)
    """
    for line in reversed(log.splitlines()):
        if re.search(r"servable.*fail|fail.*servable", line, re.IGNORECASE) and not _MACHINE.search(line):
            return line.strip()[-400:]
    return None


def require_alive(runtime: ServingRuntime) -> None:
    """Raise where the server has ended during the test.

    Raises:
        SmokeRefused: it crashed, or left by itself: whatever it was asked, it must not.
        ChildFailed: somebody or something else ended it.
    """
    ended = runtime.exited()
    if ended is None:
        return
    what = f"{runtime.identity.runtime} server"
    number = -ended.code if ended.code < 0 else ended.code - 128
    if ended.oom_killed or number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        how = "for want of memory" if ended.oom_killed else f"by signal {number}"
        raise _ended(runtime, what, f"it was killed {how}", "see who ended it, or raise `serving.memory`; run again")
    raise refused(runtime, "died during the test", what, "it to go on serving", f"it ended: {ended.code}")


def refused(runtime: ServingRuntime, cause: str, what: str, expected: str, found: str) -> SmokeRefused:
    """The verdict against the model, with the end of the server's log."""
    remedy = "the log of the server below says more; export the model again once its cause is mended."
    log = runtime.logs()[-_LOG_TAIL:]
    return SmokeRefused(what, expected, f"{found} ({cause})", remedy, facts={"cause": cause, "log": log})


def _ended(runtime: ServingRuntime, what: str, found: str, remedy: str) -> ChildFailed:
    log = runtime.logs()[-_LOG_TAIL:]
    tail = "".join(f"\n    | {line}" for line in log.splitlines()[-8:])
    return ChildFailed(what, "AVAILABLE", f"{found}{tail}", f"{remedy}.", facts={"log": log})


def examine(endpoint: Endpoint, name: str, reference: Reference, settings: Serving, tolerance: Tolerance) -> Findings:
    """In a child: ask everything, in an order in which the first surprise is the most telling one."""
    signatures = {signature.key: signature for signature in reference.names.signatures}
    over_grpc = GrpcPredictor(endpoint, name, signatures, settings.request_timeout)
    over_rest = RestPredictor(endpoint, name, signatures, settings.request_timeout)
    try:
        difference = parity.signature_difference(list(signatures.values()), over_grpc.metadata())
        rows: list[ParityRow] = []
        if not difference:
            for protocol in (over_grpc, over_rest):
                rows += ask_everything(protocol, reference, tolerance)
        report = ParityReport(baseline=reference.baseline.form, rows=tuple(rows))
        refusals: tuple[RefusalCheck, ...] = ()
        latency: tuple[Latency, ...] = ()
        if rows and not report.failures:
            refusals = tuple(must_be_refused(endpoint, over_grpc, over_rest, reference, settings))
            again = [row for row in ask_everything(over_grpc, reference, tolerance) if row.passed is False]
            if again:
                report = ParityReport(baseline=reference.baseline.form, rows=(*rows, *again))
            latency = tuple(measure(over_grpc, over_rest, reference, settings.latency_requests))
        return Findings(
            parity=report,
            signature_difference=difference,
            version=over_grpc.version,
            refusals=refusals,
            latency=latency,
        )
    finally:
        over_grpc.close()
        over_rest.close()


def ask_everything(predictor: Predictor, reference: Reference, tolerance: Tolerance) -> list[ParityRow]:
    """The whole probe through every signature, then its first rows alone, where the live model was asked that too."""
    rows: list[ParityRow] = []
    for signature in reference.names.signatures:
        probe, expected = reference.probe, reference.outputs
        batches = [(predictor.form, probe, expected)]
        for count, answers in reference.smaller.items():
            if parity.select(answers, signature.key):
                batches.append((f"{predictor.form}, batch {count}", parity.first_rows(probe, count), answers))
        for form, inputs, outputs in batches:
            try:
                rows += parity.outputs(
                    _Named(predictor, form), [signature], inputs, outputs, ParityTest.SERVED, tolerance
                )
            except NotCarriedError as reason:
                rows.append(
                    ParityRow(
                        candidate=form,
                        signature=signature.key,
                        output="*",
                        test=ParityTest.SERVED,
                        passed=None,
                        note=f"not made: {reason.where} cannot carry {reason.found}",
                    )
                )
    return rows


class _Named:
    """A predictor under another form's name."""

    def __init__(self, predictor: Predictor, form: str) -> None:
        self.form, self.signatures = form, predictor.signatures
        self.predict, self.values = predictor.predict, predictor.values


def must_be_refused(
    endpoint: Endpoint, over_grpc: GrpcPredictor, over_rest: RestPredictor, reference: Reference, settings: Serving
) -> Iterator[RefusalCheck]:
    """Requests that no server may answer: each must get a client's error, over gRPC and over REST."""

    def over_wire(case: str, call: Callable[[], Any]) -> RefusalCheck:
        allowed = ("INVALID_ARGUMENT", "FAILED_PRECONDITION", "NOT_FOUND")
        try:
            with reaching("gRPC", settings.request_timeout):
                call()
            answered, passed = "OK", False
        except AnsweredError as error:
            answered = str(error).partition(":")[0]
            passed = answered in allowed
        return RefusalCheck(protocol="gRPC", case=case, expected="INVALID_ARGUMENT", answered=answered, passed=passed)

    def over_http(case: str, url: str, body: str) -> RefusalCheck:
        with reaching("REST", settings.request_timeout):
            code = over_rest.client.post(url, content=body).status_code
        return RefusalCheck(protocol="REST", case=case, expected="4xx", answered=str(code), passed=400 <= code < 500)

    predicts = [s for s in reference.names.signatures if s.method is Method.PREDICT and s.inputs]
    model = over_rest.model
    yield over_http("broken JSON", f"{model}:predict", '{"inputs": [')
    yield over_http("neither inputs nor instances", f"{model}:predict", "{}")
    yield over_http("unknown signature", f"{model}:predict", '{"signature_name": "no such", "inputs": [1.0]}')
    yield over_http("unknown model", f"{endpoint.rest}/v1/models/no_such_model:predict", '{"inputs": [1.0]}')
    for signature in predicts[:1]:
        inputs = parity.select(reference.probe, signature.key)
        good = over_grpc.request(signature.key, inputs)

        def ask(change: Callable[[Any], None], base: Any = good) -> Callable[[], Any]:
            request = type(base)()
            request.CopyFrom(base)
            change(request)
            return lambda: over_grpc.service.Predict(request, timeout=settings.request_timeout)

        name = next(iter(inputs))

        def drop(request: Any, name: str = name) -> None:
            del request.inputs[name]

        def retype(request: Any, name: str = name) -> None:
            _retype(request, name)

        yield over_wire("unknown signature", ask(lambda r: setattr(r.model_spec, "signature_name", "no such")))
        yield over_wire("missing input", ask(drop))
        yield over_wire("wrong dtype", ask(retype))
        yield over_wire("unknown model", ask(lambda r: setattr(r.model_spec, "name", "no_such_model")))


def _retype(request: Any, name: str) -> None:
    import tensorflow as tf

    wrong = np.zeros((1,), dtype=bool)
    if request.inputs[name].dtype == tf.bool.as_datatype_enum:
        wrong = np.zeros((1,), dtype=np.int64)
    request.inputs[name].CopyFrom(tf.make_tensor_proto(wrong))


def measure(
    over_grpc: GrpcPredictor, over_rest: RestPredictor, reference: Reference, requests: int
) -> Iterator[Latency]:
    """Latency of `serving_default`, or of the first signature where there is none, over both protocols, one row and the whole probe at a time."""
    by_key = {signature.key: signature for signature in reference.names.signatures}
    signature = by_key.get("serving_default", reference.names.signatures[0])
    inputs = parity.select(reference.probe, signature.key)
    count = parity.rows_of(signature, reference.probe)
    batches = {1: {name: array[:1] for name, array in inputs.items()}, count: inputs} if count > 1 else {1: inputs}
    for protocol, predictor in (("gRPC", over_grpc), ("REST", over_rest)):
        for batch, tensors in batches.items():
            try:
                times = _times(predictor, signature.key, tensors, requests)
            except NotCarriedError:
                continue
            p50, p90, p99 = (float(value) for value in np.percentile(times, [50, 90, 99]))
            yield Latency(protocol=protocol, batch=batch, requests=len(times), p50=p50, p90=p90, p99=p99)


def _times(predictor: Predictor, signature: str, inputs: Tensors, requests: int) -> list[float]:
    """Milliseconds of up to `requests` requests; of fewer, but some, where they take long. The report says how many."""
    until = time.monotonic() + _MEASURE_SECONDS
    times: list[float] = []
    while len(times) < requests and (len(times) < _FEWEST or time.monotonic() < until):
        times.append(_timed(predictor, signature, inputs))
    return times


def _timed(predictor: Predictor, signature: str, inputs: Tensors) -> float:
    started = time.perf_counter()
    predictor.predict(signature, inputs)
    return (time.perf_counter() - started) * 1e3
