"""Effects of flags: batching, health, time limits, body limits, warmup, channel arguments, the version."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from tasks.errors import ChildFailed
from tasks.records.serving import Cause, Endpoint
from tasks.records.signature import Method, Signature, TensorSpec
from tasks.serving.clients.grpc import GrpcPredictor
from tasks.serving.clients.rest import RestPredictor
from tests.serving.embedded.embedded_server import REPOSITORY, RunningServer, launched, serving, wait_until

_LIMIT = 200_000
_BATCHING = """
max_batch_size { value: 4 }
batch_timeout_micros { value: 20000 }
max_enqueued_batches { value: 2 }
num_batch_threads { value: 1 }
"""


def _config(directory: Path, models: Path, *names: str) -> str:
    entries = []
    for name in names:
        shutil.copytree(models / name, directory / name / "1")
        entries.append(f'config {{ name: "{name}" base_path: "{directory}/{name}" model_platform: "tensorflow" }}')
    (directory / "models.config").write_text(f"model_config_list {{ {' '.join(entries)} }}")
    return f"--model_config_file={directory}/models.config"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[RunningServer]:
    directory = tmp_path_factory.mktemp("flags")
    arguments = [
        _config(directory, models, "two", "slow", "warm"),
        f"--rest_api_max_body_bytes={_LIMIT}",
        "--rest_api_timeout_in_ms=3000",
        "--rest_api_num_threads=3",
        "--grpc_max_threads=4",
        "--enable_grpc_healthcheck_service",
        f"--grpc_socket_path={directory}/grpc.sock",
        "--grpc_channel_arguments=grpc.max_connection_age_ms=600000,grpc.primary_user_agent=tfship",
        "--num_request_iterations_for_warmup=2",
        "--tensorflow_session_parallelism=1",
        f"--monitoring_config_file={directory}/monitoring.config",
    ]
    (directory / "monitoring.config").write_text("prometheus_config { enable: true }")
    with serving(arguments, directory) as running:
        yield running


def _stands(client: httpx.Client) -> None:
    assert client.post("/v1/models/two:predict", json={"instances": [1.0]}).json() == {"predictions": [2.5]}


# Health


def _health(target: str, method: str, service: bytes = b"") -> Any:
    with grpc.insecure_channel(target) as channel:
        request = b"" if not service else b"\x0a" + bytes([len(service)]) + service
        if method == "Check":
            return channel.unary_unary("/grpc.health.v1.Health/Check")(request, timeout=10)
        return next(channel.unary_stream("/grpc.health.v1.Health/Watch")(request, timeout=10))


def test_health_is_asked_and_watched(server: RunningServer) -> None:
    target = f"127.0.0.1:{server.grpc_port}"
    assert _health(target, "Check") == b"\x08\x01", "status: SERVING"
    assert _health(target, "Watch") == b"\x08\x01"
    assert _health(target, "Watch", b"nobody") == b"\x08\x03", "status: SERVICE_UNKNOWN"
    with pytest.raises(grpc.RpcError) as refused:
        _health(target, "Check", b"nobody")
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


def test_watchers_take_no_thread_from_requests(server: RunningServer, client: httpx.Client) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        watches = [channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=30) for _ in range(12)]
        assert [next(watch) for watch in watches] == [b"\x08\x01"] * 12
        assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=5) == b"\x08\x01"
        for watch in watches:
            watch.cancel()


def test_the_grpc_socket_answers_too(server: RunningServer) -> None:
    assert _health(f"unix:{server.log_file.parent}/grpc.sock", "Check") == b"\x08\x01"


# Threads

ROW = TensorSpec(tensor="x:0", dtype="float32", shape=(None,))
SLOW = {
    "serving_default": Signature(key="serving_default", method=Method.PREDICT, inputs={"x": ROW}, outputs={"y": ROW})
}


def _endpoint(server: RunningServer) -> Endpoint:
    return Endpoint(grpc=f"127.0.0.1:{server.grpc_port}", rest=server.url)


def _counting(to: float) -> dict[str, Any]:
    return {"x": np.array([to], np.float32)}


def test_a_request_beyond_the_threads_is_refused_and_admitted_when_it_is_sent_again(server: RunningServer) -> None:
    """Of four threads one waits for requests, so that three work."""
    patient, hasty = (GrpcPredictor(_endpoint(server), "slow", SLOW, seconds) for seconds in (60.0, 0.2))
    request, call = patient.call("serving_default", _counting(1e9))
    quick, _ = patient.call("serving_default", _counting(1.0))
    busy: list[Any] = []

    def keep_busy() -> None:
        """Have three requests at work: one that came beside a fourth was refused itself, and one has an end."""
        busy[:] = [one for one in busy if not one.done()]
        busy.extend(call.future(request, timeout=3.0) for _ in range(3 - len(busy)))

    def refused() -> bool:
        keep_busy()
        try:
            call(quick, timeout=5.0)
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, error
            return error.details() == "Server Threadpool Exhausted"
        return False

    def given_up() -> bool:
        keep_busy()
        try:
            hasty.predict("serving_default", _counting(2.0))
        except ChildFailed as error:
            return error.cause is Cause.FULL and "--grpc_max_threads" in error.remedy
        return False

    def sent_again() -> bool:
        keep_busy()
        assert patient.predict("serving_default", _counting(3.0))["y"].tolist() == [3.0]
        return patient.turned_away > 0

    for condition in (refused, given_up, sent_again):
        wait_until(condition, 60.0, condition.__name__)
    patient.close(), hasty.close()


# Time


def test_rest_calls_end_at_their_time_limit(client: httpx.Client) -> None:
    answer = client.post("/v1/models/slow:predict", json={"instances": [1e9]}, timeout=300)  # it would never end
    assert answer.status_code == 504, answer.text
    assert client.post("/v1/models/slow:predict", json={"instances": [3.0]}).json() == {"predictions": [3.0]}


def test_grpc_calls_end_at_their_deadline_and_leave_the_server_free(
    server: RunningServer, client: httpx.Client
) -> None:
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name = "slow"
    request.inputs["x"].dtype = 1
    request.inputs["x"].tensor_shape.dim.add().size = 1
    request.inputs["x"].float_val.append(1e9)
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        for _ in range(6):  # more than it has threads
            with pytest.raises(grpc.RpcError) as refused:
                call(request.SerializeToString(), timeout=0.3)
            assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    _stands(client)


# Bodies


def test_a_body_over_the_limit_is_refused_and_the_server_stands(client: httpx.Client) -> None:
    within = json.dumps({"instances": [1.0] * 1000}).encode()
    assert client.post("/v1/models/two:predict", content=within).status_code == 200
    for body in (b" " * (_LIMIT + 1), b"[" * 20 * _LIMIT):
        answer = client.post("/v1/models/two:predict", content=body)
        assert (answer.status_code, answer.json()) == (413, {"error": f"Request body is larger than {_LIMIT} bytes"})
        _stands(client)


def test_a_chunked_body_has_the_same_limit(client: httpx.Client) -> None:
    answer = client.post("/v1/models/two:predict", content=(b" " * 1000 for _ in range(300)))
    assert answer.status_code == 413
    _stands(client)


def test_a_client_that_promises_more_than_it_sends_holds_nobody_up(server: RunningServer, client: httpx.Client) -> None:
    import socket

    with socket.create_connection(("127.0.0.1", server.rest_port)) as connection:
        connection.sendall(b"POST /v1/models/two:predict HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999\r\n\r\n{")
        _stands(client)


def test_gzip_is_read_and_never_written(client: httpx.Client) -> None:
    body = gzip.compress(json.dumps({"instances": [1.0] * 5000}).encode())
    headers = {"content-encoding": "gzip", "accept-encoding": "gzip"}
    answer = client.post("/v1/models/two:predict", content=body, headers=headers)
    assert answer.json() == {"predictions": [2.5] * 5000}
    assert "content-encoding" not in answer.headers


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"not gzip at all", id="plain"),
        pytest.param(gzip.compress(b'{"instances": [1.0]}')[:-4], id="cut"),
    ],
)
def test_what_does_not_unpack_is_an_empty_document(client: httpx.Client, body: bytes) -> None:
    answer = client.post("/v1/models/two:predict", content=body, headers={"content-encoding": "gzip"})
    assert answer.status_code == 400
    assert "JSON Parse error" in answer.json()["error"]
    _stands(client)


def test_a_gzip_bomb_is_bounded(server: RunningServer, client: httpx.Client) -> None:
    bomb = gzip.compress(b" " * (101 * 2**20), 9)  # one MiB more than is unpacked
    assert len(bomb) <= _LIMIT
    before = _resident_peak(server)
    answer = client.post("/v1/models/two:predict", content=bomb, headers={"content-encoding": "gzip"})
    assert (answer.status_code, answer.json()) == (400, {"error": "JSON Parse error: The document is empty"})
    assert _resident_peak(server) - before < 400 * 2**20
    _stands(client)


def _resident_peak(server: RunningServer) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
@pytest.mark.parametrize("depth", [900, 1_100, 30_000])
def test_nesting_crashes_nothing(client: httpx.Client, depth: int, opening: bytes) -> None:
    closing = {b"[": b"]"}.get(opening, b"}")
    for key in (b"instances", b"inputs", b"signature_name"):
        body = b'{"' + key + b'":' + opening * depth + b"1" + closing * depth + b"}"
        answer = client.post("/v1/models/two:predict", content=body)
        assert answer.status_code == 400, answer.text[:300]
        assert "error" in answer.json()
        assert answer.elapsed.total_seconds() < 10
    _stands(client)


# Warmup, metrics, version


def test_metrics_tell_of_requests_loads_and_warmups(server: RunningServer, client: httpx.Client) -> None:
    _stands(client)
    client.post("/v1/models/two:predict", content=b"{}")
    page = client.get("/monitoring/prometheus/metrics").text
    lines = page.splitlines()
    path = f"{server.log_file.parent}/warm/1"
    assert "# TYPE :tensorflow:serving:request_count counter" in lines
    assert "# TYPE :tensorflow:serving:request_latency histogram" in lines
    assert any(line.startswith(':tensorflow:serving:request_count{model_name="two",status="OK"} ') for line in lines)
    counted = ':tensorflow:serving:request_latency_count{API="Predict",entrypoint="REST",model_name="two"} '
    assert any(line.startswith(counted) for line in lines)
    assert f':tensorflow:cc:saved_model:load_attempt_count{{model_path="{path}",status="success"}} 1.0' in lines
    assert any(line.startswith(f':tensorflow:cc:saved_model:load_latency{{model_path="{path}"}} ') for line in lines)
    assert f':tensorflow:serving:model_warmup_latency_count{{model_path="{path}",status="OK"}} 1.0' in lines
    other = f"{server.log_file.parent}/two/1"
    assert f':tensorflow:serving:model_warmup_latency_count{{model_path="{other}"' not in page
    assert "Number of warmup records read: 3." in server.log()


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tasks.serving.embedded", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)


def test_the_version_is_said_without_loading_anything() -> None:
    said = _run("--version")
    assert said.returncode == 0
    assert said.stdout.startswith("TensorFlow ModelServer: ") and "stand-in" in said.stdout
    assert "TensorFlow Library: 2." in said.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--batching_parameters_file=/nowhere"], "without setting server_options.enable_batching to true"),
        (["--enable_batching", "--batching_parameters_file=/nowhere"], "NOT_FOUND: /nowhere"),
        (["--grpc_channel_arguments=age"], "gRPC channel argument without a value: age"),
        (
            [f"--tensorflow_{kind}_parallelism=1" for kind in ("session", "intra_op", "inter_op")],
            "You cannot configure all",
        ),
    ],
)
def test_flags_that_cannot_be_end_the_start(arguments: list[str], words: str) -> None:
    refused = _run("--model_base_path=/nowhere", *arguments)
    assert refused.returncode == 255
    assert words in refused.stderr and "Traceback" not in refused.stderr


# Batching


@pytest.fixture(scope="module")
def batching(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[RunningServer]:
    directory = tmp_path_factory.mktemp("batching")
    (directory / "batching.config").write_text(_BATCHING)
    arguments = ["--enable_batching", f"--batching_parameters_file={directory}/batching.config"]
    arguments += ["--rest_api_num_threads=32", "--rest_api_timeout_in_ms=300000"]
    with serving([_config(directory, models, "rows", "slow", "warm"), *arguments], directory) as running:
        yield running


def _sums(client: httpx.Client, rows: list[list[float]], n: list[int]) -> httpx.Response:
    instances = [{"a": row, "n": number} for row, number in zip(rows, n, strict=True)]
    return client.post("/v1/models/rows:predict", json={"instances": instances})


def test_batched_answers_are_the_unbatched_ones(batching: RunningServer) -> None:
    def ask(number: int) -> None:
        size = number % 4 + 1
        rows = [[float(number), row / 2] for row in range(size)]
        n = [number + row for row in range(size)]
        with httpx.Client(base_url=batching.url, timeout=30) as client:
            while (answer := _sums(client, rows, n)).status_code == 503:  # its queue is short
                time.sleep(0.01)
        assert answer.json() == {
            "predictions": [
                {"y": (number + row / 2) * (number + row), "named": f"{number + row}!"} for row in range(size)
            ]
        }

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, range(60)))
    assert "Wrapping session to perform batch processing" in batching.log()


def test_batching_refuses_as_the_real_server_does(batching: RunningServer) -> None:
    with httpx.Client(base_url=batching.url, timeout=30) as client:
        too_large = _sums(client, [[1.0]] * 5, [1] * 5)
        assert too_large.status_code == 400
        assert too_large.json() == {"error": "Task size 5 is larger than maximum input batch size 4"}
        uneven = client.post("/v1/models/rows:predict", json={"inputs": {"a": [[1.0]], "n": [1, 2]}})
        assert uneven.json() == {"error": "Batching Run() input tensors must have equal 0th-dimension size"}
        whole = client.post("/v1/models/rows:predict", json={"signature_name": "whole", "instances": [[1.0]]})
        assert (whole.status_code, whole.json()) == (400, {"error": "Batched output tensor has 0 dimensions"})
        assert _sums(client, [[2.0]], [2]).json() == {"predictions": [{"y": 4.0, "named": "2!"}]}


def test_a_full_queue_is_unavailable_and_empties(batching: RunningServer) -> None:
    body = {"instances": [3e5] * 4}  # a whole batch, and some time

    def ask(number: int) -> int:
        return httpx.post(f"{batching.url}/v1/models/slow:predict", json=body, timeout=300).status_code

    def ask_again(number: int) -> int:
        client = RestPredictor(_endpoint(batching), "slow", SLOW, 300.0)
        assert client.post(f"{client.model}:predict", json.dumps(body)).status_code == 200
        return client.turned_away

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(8))) == {200, 503}
        assert sum(pool.map(ask_again, range(8))) > 0, "the client that is turned away comes again"
    answer = httpx.post(f"{batching.url}/v1/models/slow:predict", json={"instances": [1.0]}, timeout=60)
    assert answer.json() == {"predictions": [1.0]}


def test_warmup_requests_go_through_the_batcher(tmp_path: Path, models: Path) -> None:
    """Their one row waits for a batch that never fills, and its time."""
    (tmp_path / "batching.config").write_text("batch_timeout_micros { value: 300000 } max_batch_size { value: 2 }")
    shutil.copytree(models / "warm", tmp_path / "warm" / "1")
    arguments = [f"--model_base_path={tmp_path}/warm", "--enable_batching"]
    with launched([*arguments, f"--batching_parameters_file={tmp_path}/batching.config"], tmp_path) as server:
        server.wait_for_log("Finished reading warmup data")
        micros = int(server.log().partition("Elapsed time (microseconds): ")[2].partition(".")[0])
        assert micros >= 3 * 300_000


# XLA


def test_what_must_be_compiled_is_answered_with_an_error_unless_a_flag_allows_it(tmp_path: Path, models: Path) -> None:
    asked = {"signature_name": "serving_default", "instances": [1.0]}
    for flag, status in (((), 500), (("--xla_cpu_compilation_enabled",), 200)):
        folder = tmp_path / str(status)
        folder.mkdir()
        with serving([_config(folder, models, "jitted"), *flag], folder) as running:
            url = f"{running.url}/v1/models/jitted:predict"
            answer = httpx.post(url, json=asked, timeout=60)
            assert answer.status_code == status, answer.text
            assert ("XLA compilation disabled" in answer.text) == (not flag)
            plain = httpx.post(url, json=asked | {"signature_name": "plain"}, timeout=60)
            assert plain.json() == {"predictions": [2.5]}, "what need not be compiled answers either way"
