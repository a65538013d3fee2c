"""Versions come, go, fail and are labelled as in TF Serving, and no request fails meanwhile."""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from tests.serving.embedded.embedded_server import START_SECONDS, RunningServer, launched, serving, wait_until

_SECONDS = 60.0
_CONFIG = """model_config_list {
  config { name: "swapped" base_path: "%(base)s/swapped" model_platform: "tensorflow" }
  config { name: "fragile" base_path: "%(base)s/fragile" model_platform: "tensorflow" }
  config { name: "warm" base_path: "%(base)s/warm" model_platform: "tensorflow" }
  config { name: "words" base_path: "%(base)s/words" model_platform: "tensorflow" }
}"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serving")


@pytest.fixture(scope="module")
def server(base: Path, models: Path) -> Iterator[RunningServer]:
    for name, model in (("swapped", "two"), ("fragile", "two"), ("warm", "warm"), ("words", "words")):
        publish(models / model, base / name / "1")
    (base / "models.config").write_text(_CONFIG % {"base": base})
    (base / "monitoring.config").write_text('prometheus_config { enable: true path: "/metrics" }')
    arguments = [
        f"--model_config_file={base}/models.config",
        f"--monitoring_config_file={base}/monitoring.config",
        "--max_num_load_retries=0",
    ]
    with serving(arguments, base) as running:
        yield running


def publish(model: Path, version: Path) -> None:
    staging = version.parent / f".staging-{version.name}"
    shutil.copytree(model, staging)
    staging.rename(version)


def predict(server: RunningServer, model: str) -> list[float]:
    answer = httpx.post(f"{server.url}/v1/models/{model}:predict", json={"instances": [1.0]}, timeout=_SECONDS)
    assert answer.status_code == 200, answer.text
    predictions: list[float] = answer.json()["predictions"]
    return predictions


class Traffic:
    """Clients of both protocols that ask without a pause; what each was answered, in its order."""

    def __init__(self, server: RunningServer, model: str) -> None:
        asking = (self._rest, self._rest, self._grpc, self._grpc)
        self.answers: list[list[float]] = [[] for _ in asking]
        self.failures: list[str] = []
        self._server, self._model = server, model
        self._done = threading.Event()
        self._clients = [
            threading.Thread(target=ask, args=(answers,)) for ask, answers in zip(asking, self.answers, strict=True)
        ]

    def __enter__(self) -> Traffic:
        for client in self._clients:
            client.start()
        wait_until(self.each_has(5), _SECONDS, "traffic")
        return self

    def __exit__(self, *error: object) -> None:
        wait_until(self.each_has(5), _SECONDS, "traffic to the end")
        self._done.set()
        for client in self._clients:
            client.join()

    def each_has(self, more: int) -> Callable[[], bool]:
        """Tell whether every client got that many more answers, or failed."""
        wanted = [len(answers) + more for answers in self.answers]

        def reached() -> bool:
            enough = all(map(int.__ge__, map(len, self.answers), wanted))
            return enough or bool(self.failures)

        return reached

    def _rest(self, answers: list[float]) -> None:
        url = f"{self._server.url}/v1/models/{self._model}:predict"
        with httpx.Client(timeout=_SECONDS) as client:
            self._ask(
                answers,
                lambda: (
                    client.post(url, json={"instances": [1.0]}, timeout=_SECONDS)
                    .raise_for_status()
                    .json()["predictions"][0]
                ),
            )

    def _grpc(self, answers: list[float]) -> None:
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest()
        request.model_spec.name = self._model
        request.inputs["x"].dtype = 1
        request.inputs["x"].tensor_shape.dim.add().size = 1
        request.inputs["x"].float_val.append(1.0)
        with grpc.insecure_channel(f"127.0.0.1:{self._server.grpc_port}") as channel:
            call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")

            def ask() -> float:
                answer = predict_pb2.PredictResponse.FromString(call(request.SerializeToString(), timeout=_SECONDS))
                value: float = answer.outputs["y"].float_val[0]
                assert value == {1: 2.5, 2: 3.5}[answer.model_spec.version.value], "its own version's answer"
                return value

            self._ask(answers, ask)

    def _ask(self, answers: list[float], ask: Callable[[], float]) -> None:
        while not self._done.is_set():
            try:
                answers.append(ask())
            except Exception as error:
                self.failures.append(repr(error))
                return


def test_versions_come_and_go_under_traffic_without_a_failed_request(
    server: RunningServer, base: Path, models: Path
) -> None:
    with Traffic(server, "swapped") as traffic:
        publish(models / "three", base / "swapped" / "2")
        wait_until(lambda: server.states("swapped") == {"2": "AVAILABLE", "1": "END"}, _SECONDS, "version 2 alone")
    assert traffic.failures == []
    for answers in traffic.answers:
        assert answers[0] == 2.5 and answers[-1] == 3.5
        assert answers == sorted(answers), "once the new version answers, the old one does not"

    with Traffic(server, "swapped") as traffic:
        shutil.rmtree(base / "swapped" / "2")
        wait_until(lambda: server.states("swapped") == {"2": "END", "1": "AVAILABLE"}, _SECONDS, "version 1 back")
    assert traffic.failures == []
    for answers in traffic.answers:
        assert answers[0] == 3.5 and answers[-1] == 2.5
        assert answers == sorted(answers, reverse=True)


def test_a_bad_version_under_traffic_fails_no_request(server: RunningServer, base: Path, models: Path) -> None:
    with Traffic(server, "swapped") as traffic:
        staging = base / "swapped" / "staging"
        shutil.copytree(models / "two", staging)
        _truncate_variables(staging)
        staging.rename(base / "swapped" / "9")
        wait_until(lambda: server.states("swapped").get("9") == "END", _SECONDS, "version 9 to end")
    shutil.rmtree(base / "swapped" / "9")
    assert traffic.failures == []
    assert {value for answers in traffic.answers for value in answers} == {2.5}


def _truncate_variables(version: Path) -> None:
    data = version / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:3])


def _cut_graph(version: Path) -> None:
    file = version / "saved_model.pb"
    file.write_bytes(file.read_bytes()[:-7])


@pytest.mark.parametrize(
    ("damage", "code", "words"),
    [
        pytest.param(
            lambda v: (v / "saved_model.pb").unlink(), "NOT_FOUND", "does not appear to contain", id="no-graph"
        ),
        pytest.param(_cut_graph, "OUT_OF_RANGE", "Read less bytes than requested", id="cut-graph"),
        pytest.param(
            lambda v: (v / "saved_model.pb").write_bytes(b"<html>not found</html>"),
            "DATA_LOSS",
            "as binary proto",
            id="another-file",
        ),
        pytest.param(lambda v: (v / "saved_model.pb").write_bytes(b""), "NOT_FOUND", "{ serve }", id="empty-graph"),
        pytest.param(_truncate_variables, "OUT_OF_RANGE", "Read less bytes than requested", id="truncated-variables"),
    ],
)
def test_a_broken_version_ends_with_the_reason_and_the_old_one_serves(
    server: RunningServer, base: Path, models: Path, damage: Callable[[Path], object], code: str, words: str
) -> None:
    _refused(server, base, models / "two", damage, code, words)


def test_a_failed_warmup_request_fails_the_load(server: RunningServer, base: Path, models: Path) -> None:
    _refused(
        server, base, models / "chilly", lambda _: None, "FAILED_PRECONDITION", 'signature key "nowhere" not found'
    )


def test_a_version_without_its_variables_is_available_takes_over_and_answers_nothing(
    server: RunningServer, base: Path, models: Path
) -> None:
    """Nothing tells a SavedModel whose variables were not copied from one that has none."""
    publish(models / "two", base / "bare" / "1")
    publish(models / "three", base / "bare" / "staging")
    shutil.rmtree(base / "bare" / "staging" / "variables")
    _reload_with(server, base, "", name="bare")
    (base / "bare" / "staging").rename(base / "bare" / "2")
    wait_until(lambda: server.states("bare") == {"2": "AVAILABLE", "1": "END"}, _SECONDS, "version 2 alone")
    answer = httpx.post(f"{server.url}/v1/models/bare:predict", json={"instances": [1.0]}, timeout=_SECONDS)
    assert answer.status_code == 400, answer.text


def _refused(
    server: RunningServer, base: Path, model: Path, damage: Callable[[Path], object], code: str, words: str
) -> None:
    number = 2 + max(map(int, server.states("fragile")))
    version = base / "fragile" / str(number)
    staging = base / "fragile" / "staging"
    shutil.copytree(model, staging)
    damage(staging)
    staging.rename(version)
    try:
        wait_until(lambda: server.states("fragile").get(str(number)) == "END", _SECONDS, f"version {number} to end")
        (status,) = httpx.get(f"{server.url}/v1/models/fragile/versions/{number}", timeout=_SECONDS).json()[
            "model_version_status"
        ]
        assert status["status"]["error_code"] == code
        assert words in status["status"]["error_message"]
        assert predict(server, "fragile") == [2.5]
    finally:
        shutil.rmtree(version)


def test_warmup_requests_run_before_the_version_serves(server: RunningServer) -> None:
    log = server.log()
    assert log.index("Number of warmup records read: 3.") < log.index(
        "Successfully loaded servable version {name: warm version: 1}"
    )


def test_tables_are_initialised_from_assets(server: RunningServer) -> None:
    answer = httpx.post(
        f"{server.url}/v1/models/words:predict", json={"instances": ["bird", "cat", "fish"]}, timeout=_SECONDS
    )
    assert answer.json() == {"predictions": [2, 0, -1]}


def test_metrics_count_requests_by_outcome(server: RunningServer) -> None:
    predict(server, "warm")
    httpx.post(f"{server.url}/v1/models/warm:predict", content=b"{}", timeout=_SECONDS)
    page = httpx.get(f"{server.url}/metrics", timeout=_SECONDS).text
    assert ':tensorflow:serving:request_count{model_name="warm",status="OK"}' in page
    assert ':tensorflow:serving:request_count{model_name="warm",status="INVALID_ARGUMENT"} 1' in page


def test_a_label_moves_only_to_an_available_version(server: RunningServer, base: Path, models: Path) -> None:
    """The three writes that move a label: serve both versions, move it, drop the old one."""
    publish(models / "two", base / "labelled" / "1")
    publish(models / "three", base / "labelled" / "2")
    _reload(server, base, [1], {})
    _reload(server, base, [1], {"stable": 1})
    assert _labelled(server) == [2.5]
    with pytest.raises(grpc.RpcError) as refused:
        _reload(server, base, [1, 2], {"stable": 2})
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert refused.value.details() == (
        "Request to assign label to version 2 of model labelled, which is not currently available for inference"
    )
    _reload(server, base, [1, 2], {"stable": 1})
    wait_until(lambda: server.states("labelled").get("2") == "AVAILABLE", _SECONDS, "both versions")
    _reload(server, base, [1, 2], {"stable": 2})
    assert _labelled(server) == [3.5]
    _reload(server, base, [2], {"stable": 2})
    wait_until(lambda: server.states("labelled") == {"2": "AVAILABLE", "1": "END"}, _SECONDS, "version 1 to end")
    assert _labelled(server) == [3.5]


def _labelled(server: RunningServer) -> Any:
    answer = httpx.post(
        f"{server.url}/v1/models/labelled/labels/stable:predict", json={"instances": [1.0]}, timeout=_SECONDS
    )
    return answer.json()["predictions"]


def _reload(server: RunningServer, base: Path, versions: list[int], labels: dict[str, int]) -> None:
    listed = " ".join(f"versions: {version}" for version in versions)
    labelled = " ".join(f'version_labels {{ key: "{label}" value: {version} }}' for label, version in labels.items())
    _reload_with(server, base, f"model_version_policy {{ specific {{ {listed} }} }} {labelled}")


def _reload_with(server: RunningServer, base: Path, entry: str, name: str = "labelled") -> None:
    """Serve one model more than the server began with."""
    model = f'config {{ name: "{name}" base_path: "{base}/{name}" model_platform: "tensorflow" {entry} }} }}'
    _reload_text(server, (_CONFIG % {"base": base}).rstrip().removesuffix("}") + model)


def _reload_text(server: RunningServer, config: str, seconds: float = _SECONDS) -> None:
    from google.protobuf import text_format
    from tensorflow_serving.apis import model_management_pb2

    request = model_management_pb2.ReloadConfigRequest()
    text_format.Parse(config, request.config)
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        reload = channel.unary_unary("/tensorflow.serving.ModelService/HandleReloadConfigRequest")
        reload(request.SerializeToString(), timeout=seconds)


def test_policies_say_which_versions_serve(server: RunningServer, base: Path, models: Path) -> None:
    for number in (1, 2, 10):
        publish(models / "two", base / "policed" / str(number))

    def serving_now() -> set[str]:
        return {number for number, state in server.states("policed").items() if state == "AVAILABLE"}

    for policy, versions in (
        ("latest { num_versions: 1 }", {"10"}),
        ("latest { num_versions: 2 }", {"10", "2"}),
        ("all { }", {"10", "2", "1"}),
        ("specific { versions: 1 versions: 2 }", {"2", "1"}),
        ("", {"10"}),
    ):
        _reload_with(server, base, f"model_version_policy {{ {policy} }}" if policy else "", name="policed")
        wait_until(lambda versions=versions: serving_now() == versions, _SECONDS, f"{versions} under {policy}")
    gone = httpx.post(f"{server.url}/v1/models/policed/versions/1:predict", json={"instances": [1.0]}, timeout=_SECONDS)
    assert (gone.status_code, gone.json()["error"]) == (404, "Servable not found for request: Specific(policed, 1)")


@pytest.mark.parametrize(
    ("entry", "code", "words"),
    [
        ('name: "warm" base_path: "/a" model_platform: "tensorflow"', "INVALID_ARGUMENT", "multiple times"),
        ('name: "n" base_path: "relative" model_platform: "tensorflow"', "INVALID_ARGUMENT", "absolute path"),
    ],
)
def test_an_illegal_configuration_changes_nothing(
    server: RunningServer, base: Path, entry: str, code: str, words: str
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        _reload_text(server, (_CONFIG % {"base": base}).rstrip().removesuffix("}") + f"config {{ {entry} }} }}")
    assert refused.value.code().name == code and words in refused.value.details()
    assert predict(server, "warm") == [2.5]


def test_a_model_that_is_added_and_does_not_load_fails_the_reload(server: RunningServer, base: Path) -> None:
    (base / "hopeless" / "1").mkdir(parents=True)
    with pytest.raises(grpc.RpcError) as refused:
        _reload_with(server, base, "", name="hopeless")
    assert refused.value.code() is grpc.StatusCode.UNKNOWN
    assert "1 servable(s) did not become available" in refused.value.details()
    assert predict(server, "warm") == [2.5]


def test_a_reload_waits_for_a_model_that_is_not_there_until_its_deadline(server: RunningServer, base: Path) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        _reload_text(server, _CONFIG.rstrip().removesuffix("}") % {"base": base} + _absent(base), seconds=0.5)
    assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert predict(server, "warm") == [2.5]
    _reload_text(server, _CONFIG % {"base": base})


def _absent(base: Path) -> str:
    return f'config {{ name: "absent" base_path: "{base}/absent" model_platform: "tensorflow" }} }}'


def test_an_empty_list_unloads_everything_and_a_full_one_loads_it_again(server: RunningServer, base: Path) -> None:
    _reload_text(server, "model_config_list { }")
    wait_until(lambda: set(server.states("warm").values()) == {"END"}, _SECONDS, "all to end")
    refused = httpx.post(f"{server.url}/v1/models/warm:predict", json={"instances": [1.0]}, timeout=_SECONDS)
    assert (refused.status_code, refused.json()["error"]) == (404, "Servable not found for request: Latest(warm)")
    _reload_text(server, _CONFIG % {"base": base})
    assert predict(server, "warm") == [2.5]


def test_a_broken_first_version_ends_the_server(tmp_path: Path) -> None:
    (tmp_path / "base" / "1").mkdir(parents=True)
    with launched([f"--model_base_path={tmp_path}/base", "--max_num_load_retries=0"], tmp_path) as server:
        assert server.process.wait(START_SECONDS) == 255
        assert "Failed to start server. Error: UNKNOWN: 1 servable(s) did not become available: " in server.log()


def test_a_config_file_is_followed_from_an_empty_start_to_sigterm(tmp_path: Path, models: Path) -> None:
    config = tmp_path / "models.config"
    entry = f'config {{ name: "%(name)s" base_path: "{tmp_path}/%(name)s" model_platform: "tensorflow" }}'
    config.write_text(f"model_config_list {{ {entry % {'name': 'first'}} }}")
    arguments = [f"--model_config_file={config}", "--model_config_file_poll_wait_seconds", "1", "--unheard_of=1"]
    with launched(arguments, tmp_path) as server:
        server.wait_for_log(f"Could not find base path {tmp_path}/first for servable first")
        assert "Ignoring unknown flag: --unheard_of=1" in server.log()
        assert "Running gRPC ModelServer" not in server.log(), "ports stay closed until the first load"
        publish(models / "two", tmp_path / "first" / "1")
        server.wait_for_log("Exporting HTTP/REST API at:")

        config.write_text("garbage {")
        server.wait_for_log("Invalid protobuf file")
        publish(models / "three", tmp_path / "second" / "5")
        config.write_text(f"model_config_list {{ {' '.join(entry % {'name': name} for name in ('first', 'second'))} }}")
        server.wait_for_log("Successfully loaded servable version {name: second version: 5}")

        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(_SECONDS) == 128 + signal.SIGTERM


def test_a_grpc_call_needs_no_deadline(server: RunningServer) -> None:
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name = "warm"
    request.inputs["x"].dtype = 1
    request.inputs["x"].tensor_shape.dim.add().size = 2
    request.inputs["x"].float_val.extend([1.0, 2.0])
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        answer = predict_pb2.PredictResponse.FromString(call(request.SerializeToString()))
    assert list(answer.outputs["y"].float_val) == [2.5, 3.0]
    assert (answer.model_spec.version.value, answer.model_spec.signature_name) == (1, "serving_default")
