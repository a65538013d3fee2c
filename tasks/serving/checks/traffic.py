"""Send steady traffic to a server while its version changes, to measure what clients would see. Runs in a child."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from tasks.baseline.reference import Reference
from tasks.errors import ChildFailed
from tasks.forms import warmup_requests
from tasks.parity import compare
from tasks.records.rehearsal import Phase, Switch
from tasks.records.serving import Endpoint
from tasks.records.signature import Method
from tasks.serving.clients import plain_http
from tasks.serving.clients.admission import admitted
from tasks.serving.clients.grpc import AnsweredError, GrpcPredictor, reaching, status
from tasks.serving.clients.rest import IN_JSON, example, jsonable
from tasks.tensors import tensor_file

PAUSE_SECONDS = 0.01  # between two requests of one client
CLIENTS = 2  # for each protocol
_FAILURES_KEPT = 5
_POLL_SECONDS = 0.05
_CALL_OF = {Method.PREDICT: "Predict", Method.CLASSIFY: "Classify", Method.REGRESS: "Regress"}


@dataclass
class _Sent:
    """One client's record: when each request began, how long it took, and why it failed."""

    began: list[float] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)  # one for each request, empty if it was answered


@dataclass(frozen=True)
class _Settled:
    """Outcome of the change: whether the new version took over, its load time, and the server's message on a failure."""

    took_over: bool
    load_seconds: float | None = None
    ended: str = ""


def switched(
    endpoint: Endpoint,
    name: str,
    current: Path,
    staged: Path,
    reference: Reference,
    *,
    window: float,
    load_timeout: float,
    request_timeout: float,
) -> Switch | None:
    """Send requests that `current` answers, rename `staged` to the next version next to it, and go on sending.

    Traffic runs `window` seconds before and after the change. Returns None if there is no request that `current`
    answers.

    Raises:
        ChildFailed: the server did not answer, or stopped answering.
    """
    version = int(current.name) + 1
    over_grpc = GrpcPredictor(endpoint, name, {one.key: one for one in reference.names.signatures}, request_timeout)
    try:
        found = _requests(current, over_grpc, reference, name)
        if found is None:
            return None
        traffic, requests = found
        away: list[None] = []  # an entry for each attempt; appending is atomic
        calls = [
            call
            for request in requests
            for call in _calls(over_grpc, endpoint, name, *request, request_timeout, lambda: away.append(None))
        ]
        over = threading.Event()
        with ThreadPoolExecutor(len(calls) * CLIENTS) as pool:
            clients = [pool.submit(_client, call, over) for call in calls * CLIENTS]
            try:
                began = time.monotonic()
                time.sleep(window)
                changed = time.monotonic()
                os.rename(staged, current.with_name(str(version)))
                settled = wait_until_settled(endpoint, name, version, changed + load_timeout, request_timeout)
                done = time.monotonic()
                time.sleep(window if settled.took_over else 0.0)
                ended = time.monotonic()
            finally:
                over.set()
        sent = [client.result() for client in clients]
    finally:
        over_grpc.close()
    phases = (("before", began, changed), ("during", changed, done), ("after", done, ended))
    return Switch(
        previous=int(current.name),
        version=version,
        traffic=traffic,
        phases=tuple(_phase(label, sent, start, end) for label, start, end in phases),
        failures=tuple(dict.fromkeys(why for one in sent for why in one.failed if why))[:_FAILURES_KEPT],
        switch_seconds=round(done - changed, 3) if settled.took_over else None,
        load_seconds=settled.load_seconds,
        ended=settled.ended,
        turned_away=len(away),
    )


def _requests(
    current: Path, over_grpc: GrpcPredictor, reference: Reference, name: str
) -> tuple[str, list[tuple[str, Any]]] | None:
    """Return a label and requests that the current version answers: its warmup requests, else the new model's probe."""
    recorded = [request for request in _warmup(current / warmup_requests.FILE) if _answered(over_grpc, *request, name)]
    if recorded:
        return "the current version's warmup requests", recorded[:2]
    for signature in reference.names.signatures:
        inputs = compare.first_rows(tensor_file.select(reference.probe, signature.key), 1)
        request = (_CALL_OF[signature.called_by], over_grpc.call(signature.key, inputs)[0])
        if _answered(over_grpc, *request, name):
            return "one row of the new model's probe", [request]
    return None


def _warmup(file: Path) -> Iterator[tuple[str, Any]]:
    """Yield the requests of a warmup file, each with its PredictionService method."""
    for log in warmup_requests.read(file) if file.exists() else ():
        kind = log.WhichOneof("log_type")
        if kind in warmup_requests.CALLS:
            yield warmup_requests.CALLS[kind], getattr(log, kind).request


def _answered(over_grpc: GrpcPredictor, call: str, request: Any, name: str) -> bool:
    for spec in [task.model_spec for task in request.tasks] if call == "MultiInference" else [request.model_spec]:
        spec.name = name
        spec.ClearField("version_choice")
    try:
        over_grpc.send(getattr(over_grpc.service, call), request)
    except AnsweredError:
        return False
    return True


def _calls(
    over_grpc: GrpcPredictor,
    endpoint: Endpoint,
    name: str,
    call: str,
    request: Any,
    seconds: float,
    turned_away: Callable[[], None],
) -> Iterator[Callable[[], None]]:
    """Yield calls that send the request over gRPC and, if JSON can carry it, over REST, and again while the server is full."""

    send = getattr(over_grpc.service, call)

    def over_wire() -> None:
        admitted(lambda left: send(request, timeout=left), seconds, turned_away)

    yield over_wire
    if (document := _document(call, request)) is None:
        return
    body = json.dumps({"signature_name": request.model_spec.signature_name or "serving_default", **document})
    client = plain_http.client(seconds)
    url = f"{endpoint.rest}/v1/models/{name}:{call.lower()}"

    def over_http() -> None:
        admitted(lambda left: client.post(url, content=body, timeout=left).raise_for_status(), seconds, turned_away)

    with reaching("REST", seconds):
        over_http_works = client.post(url, content=body).status_code == 200
    if over_http_works:  # an output that JSON cannot carry is not a failure of the change
        yield over_http


def _document(call: str, request: Any) -> dict[str, Any] | None:
    """Return the request as REST's JSON, or None if JSON cannot carry it."""
    import tensorflow as tf

    if call in ("Classify", "Regress"):
        examples = request.input.example_list.examples
        return {"examples": [example(one.SerializeToString()) for one in examples]} if examples else None
    if call != "Predict" or {tf.as_dtype(one.dtype).name for one in request.inputs.values()} - IN_JSON:
        return None
    return {"inputs": {alias: jsonable(tf.make_ndarray(tensor)) for alias, tensor in request.inputs.items()}}


def _client(call: Callable[[], None], over: threading.Event) -> _Sent:
    """Send requests with a pause between two until `over`, counting those that fail."""
    import grpc
    import httpx

    sent = _Sent()
    while not over.is_set():
        began = time.monotonic()
        why = ""
        try:
            call()
        except grpc.RpcError as error:
            why = f"gRPC: {error.code().name}: {error.details()}"
        except httpx.HTTPStatusError as error:
            why = f"REST: {error.response.status_code} {error.response.text[:200]}"
        except httpx.TransportError as error:
            why = f"REST: {type(error).__name__}: {error}"
        sent.began.append(began)
        sent.took.append(time.monotonic() - began)
        sent.failed.append(why)
        over.wait(PAUSE_SECONDS)
    return sent


def wait_until_settled(endpoint: Endpoint, name: str, version: int, deadline: float, silence: float) -> _Settled:
    """Wait until the new version alone is AVAILABLE, or has failed, or the deadline has passed.

    Raises:
        ChildFailed: the server does not listen any more, or has not answered for `silence` seconds.
    """
    noticed: float | None = None
    load_seconds: float | None = None
    heard = time.monotonic()
    while time.monotonic() < deadline:
        requested = time.monotonic()
        states = status(endpoint, name, 2.0)
        if states:
            heard = time.monotonic()
        elif time.monotonic() - heard > silence or not _listens(endpoint):
            remedy = "check in its log whether the server still runs, or raise `serving.request_timeout`."
            raise ChildFailed("the server over REST", "its status while it changes versions", "no answer", remedy)
        state, message = states.get(version, ("", ""))
        noticed = requested if state and noticed is None else noticed
        if state == "END":
            return _Settled(took_over=False, ended=message or "END")
        if state == "AVAILABLE" and load_seconds is None and noticed is not None:
            load_seconds = round(time.monotonic() - noticed, 3)
        if {number: state for number, (state, _) in states.items() if state != "END"} == {version: "AVAILABLE"}:
            return _Settled(took_over=True, load_seconds=load_seconds)
        time.sleep(_POLL_SECONDS)
    return _Settled(took_over=False, load_seconds=load_seconds)


def _listens(endpoint: Endpoint) -> bool:
    parts = urlsplit(endpoint.rest)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 0), timeout=2.0).close()
    except ConnectionRefusedError:
        return False
    except OSError:
        pass  # no answer yet: the caller's deadlines decide
    return True


def _phase(label: str, sent: list[_Sent], start: float, end: float) -> Phase:
    times, failed = [], 0
    for one in sent:
        for began, took, why in zip(one.began, one.took, one.failed, strict=True):
            if start <= began < end:
                times.append(took * 1e3)
                failed += bool(why)
    p50, p99 = (round(float(value), 3) for value in np.percentile(times, [50, 99])) if times else (None, None)
    return Phase(name=label, seconds=round(end - start, 3), requests=len(times), failed=failed, p50=p50, p99=p99)
