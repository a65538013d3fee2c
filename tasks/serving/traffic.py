"""Steady traffic at a server while its version changes: what clients would feel. Runs in a child."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tasks.forms import parity, warmup
from tasks.forms.proof import Reference
from tasks.records.rehearsal import Phase, Switch
from tasks.records.serving import Endpoint
from tasks.records.signature import Method
from tasks.serving.client import AnsweredError, GrpcPredictor, reaching, status
from tasks.serving.rest_client import NOT_IN_JSON, jsonable

PAUSE_SECONDS = 0.01  # between two requests of one client
CLIENTS = 2  # for each protocol
_FAILURES_KEPT = 5
_POLL_SECONDS = 0.05


@dataclass
class _Sent:
    """What one client saw: when each request began, how long it took, and why it failed."""

    began: list[float] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)  # one for each request, empty where it was answered


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
    """Send what clients of `current` send, rename `staged` to the next version beside it, and go on sending.

    Traffic runs `window` seconds before and after the change. None: there is no request that `current` answers.

    Raises:
        ChildFailed: the server did not answer at all.
    """
    version = int(current.name) + 1
    over_grpc = GrpcPredictor(endpoint, name, {one.key: one for one in reference.names.signatures}, request_timeout)
    try:
        found = _requests(current, over_grpc, reference, name)
        if found is None:
            return None
        traffic, requests = found
        calls = [call for request in requests for call in _calls(over_grpc, endpoint, name, request, request_timeout)]
        over = threading.Event()
        with ThreadPoolExecutor(len(calls) * CLIENTS) as pool:
            clients = [pool.submit(_client, call, over) for call in calls * CLIENTS]
            try:
                began = time.monotonic()
                time.sleep(window)
                changed = time.monotonic()
                os.rename(staged, current.with_name(str(version)))
                settled = _settled(endpoint, name, version, changed + load_timeout)
                done = time.monotonic()
                time.sleep(window if settled else 0.0)
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
        switch_seconds=round(done - changed, 3) if settled else None,
    )


def _requests(current: Path, over_grpc: GrpcPredictor, reference: Reference, name: str) -> tuple[str, list[Any]] | None:
    """Predict requests that the current version answers: its own warmup requests, else the new model's probe."""
    recorded = [request for request in _warmup(current / warmup.FILE) if _answered(over_grpc, request, name)]
    if recorded:
        return "the current version's warmup requests", recorded[:2]
    for signature in reference.names.signatures:
        if signature.method is Method.PREDICT:
            inputs = parity.first_rows(parity.select(reference.probe, signature.key), 1)
            request = over_grpc.request(signature.key, inputs)
            if _answered(over_grpc, request, name):
                return "one row of the new model's probe", [request]
    return None


def _warmup(file: Path) -> Iterator[Any]:
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    if not file.exists():
        return
    for raw in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(raw)
        if log.WhichOneof("log_type") == "predict_log":
            yield log.predict_log.request


def _answered(over_grpc: GrpcPredictor, request: Any, name: str) -> bool:
    request.model_spec.name = name
    request.model_spec.ClearField("version_choice")
    try:
        with reaching("gRPC", over_grpc.seconds):
            over_grpc.service.Predict(request, timeout=over_grpc.seconds)
    except AnsweredError:
        return False
    return True


def _calls(
    over_grpc: GrpcPredictor, endpoint: Endpoint, name: str, request: Any, seconds: float
) -> Iterator[Callable[[], None]]:
    """The same request over gRPC and, where JSON can carry it, over REST."""
    import httpx
    import tensorflow as tf

    def over_wire() -> None:
        over_grpc.service.Predict(request, timeout=seconds)

    yield over_wire
    inputs = {alias: tf.make_ndarray(tensor) for alias, tensor in request.inputs.items()}
    if {tf.as_dtype(tensor.dtype).name for tensor in request.inputs.values()} & NOT_IN_JSON:
        return
    columns = {alias: jsonable(array) for alias, array in inputs.items()}
    body = json.dumps({"signature_name": request.model_spec.signature_name or "serving_default", "inputs": columns})
    client = httpx.Client(timeout=seconds, trust_env=False)
    url = f"{endpoint.rest}/v1/models/{name}:predict"

    def over_http() -> None:
        client.post(url, content=body).raise_for_status()

    over_http_works = client.post(url, content=body).status_code == 200
    if over_http_works:  # an output that JSON cannot carry is no failure of the change
        yield over_http


def _client(call: Callable[[], None], over: threading.Event) -> _Sent:
    """One client: a request, a pause, the next. A request that fails is counted, and the next one sent."""
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


def _settled(endpoint: Endpoint, name: str, version: int, deadline: float) -> bool:
    """Wait until the new version is AVAILABLE and no other is any more; False where it does not come to that."""
    while time.monotonic() < deadline:
        states = {number: state for number, (state, _) in status(endpoint, name, 2.0).items() if state != "END"}
        if states == {version: "AVAILABLE"}:
            return True
        time.sleep(_POLL_SECONDS)
    return False


def _phase(label: str, sent: list[_Sent], start: float, end: float) -> Phase:
    times, failed = [], 0
    for one in sent:
        for began, took, why in zip(one.began, one.took, one.failed, strict=True):
            if start <= began < end:
                times.append(took * 1e3)
                failed += bool(why)
    p50, p99 = (round(float(value), 3) for value in np.percentile(times, [50, 99])) if times else (None, None)
    return Phase(name=label, seconds=round(end - start, 3), requests=len(times), failed=failed, p50=p50, p99=p99)
