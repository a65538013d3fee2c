"""Every end of a smoke test names its cause and its server, and keeps the server's log."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from flows.cli.options import Options
from flows.cli.options import of as options_of
from tasks import report
from tasks import smoke_test as step
from tasks.errors import (
    ChildFailed,
    DamagedError,
    EnvironmentFailure,
    ParityError,
    SmokeRefused,
    UnsafeGraph,
    UsageError,
)
from tasks.records.serving import Cause, Endpoint, Exit, RuntimeIdentity, SmokeReport
from tasks.serving.checks import lifecycle
from tasks.serving.runtimes import choose
from tasks.serving.runtimes.docker.runtime import DockerRuntime
from tasks.step import Run, running
from tests.flows.cli.process import tfship
from tests.makers.exported import TOLERANCE, a_run, exported, serving

smoke_test = step.smoke_test
IMAGE = "tensorflow/serving:of-nobody"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A store for all of these tests: the steps before the smoke test run once."""
    with a_run(tmp_path_factory.mktemp("store")) as entered:
        yield entered


# XLA


def test_what_servers_do_not_compile_is_refused_unless_they_are_told_to(run: Run) -> None:
    jitted = exported("Jitted", "classify_models")
    with pytest.raises(SmokeRefused, match="XLA compilation disabled") as refused:
        smoke_test(*jitted, serving(), TOLERANCE)
    assert refused.value.cause == Cause.LOAD_ERROR, "a warmup request only brought it to light"
    assert "--xla_cpu_compilation_enabled" in refused.value.remedy and "jit_compile" in refused.value.remedy

    with pytest.raises(ParityError, match="XLA compilation disabled") as differs:
        smoke_test(*jitted, serving(flags=["--enable_model_warmup=false"]), TOLERANCE)
    assert differs.value.cause == Cause.ANSWER_DIFFERS
    assert "--xla_cpu_compilation_enabled" in differs.value.remedy

    assert smoke_test(*jitted, serving(flags=["--xla_cpu_compilation_enabled"]), TOLERANCE).refusal() is None


# Causes and logs


def hanging(endpoint: Endpoint, *_: object) -> None:
    """In a child: what a request finds that is not answered."""
    raise ChildFailed("the server over gRPC", "an answer within 1 s", "DEADLINE_EXCEEDED", "see its log.")


def test_a_server_that_stands_and_does_not_answer_is_named_and_its_log_outlives_the_step(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "examine", hanging)
    monkeypatch.setattr(lifecycle, "NOTICED_SECONDS", 0.0)
    with running(Run("hanging", run.store, run.observer)) as alone, pytest.raises(ChildFailed) as failed:
        smoke_test(*exported("Baked"), serving(request_timeout=11), TOLERANCE)
    error = failed.value
    assert (error.cause, error.server) == (Cause.TOO_SLOW, "embedded server")
    assert "The server's last words" in failed.value.remedy
    assert "Adding/updating models" in (error.log or ""), "from its first line on"
    assert [(one.server, one.verdict) for one in report.servers(alone)] == [("embedded server", "failed")]
    with running(alone):
        page = report.report(alone, "m", tmp_path, failed.value)
    assert (page.parent / "server.log").read_text() == error.log


def test_an_answer_that_differs_has_a_cause_and_the_servers_last_words(run: Run) -> None:
    with pytest.raises(ParityError) as differs:
        smoke_test(*exported("Jitted", "classify_models"), serving(flags=["--enable_model_warmup=0"]), TOLERANCE)
    error = differs.value
    assert (error.cause, error.server) == (Cause.ANSWER_DIFFERS, "embedded server")
    assert f"({Cause.ANSWER_DIFFERS.value})" in error.found
    assert "The server's last words" in error.remedy and error.log
    assert error.report.failures, "the comparison is still there"


FOUND_BEFORE = {
    Cause.UNSAFE: UnsafeGraph("graph", "ops that only compute", "ReadFile, which touches files", "take it out."),
    Cause.VALUE_DIFFERS: ParityError("w", "float32[1] sha256 a", "float32[1] sha256 b", "make it again."),
    Cause.DAMAGED: DamagedError("w", "its bytes", "others", "make it again."),
}


@pytest.mark.parametrize("cause", FOUND_BEFORE)
def test_what_is_found_before_a_server_starts_has_a_cause_too(
    run: Run, cause: Cause, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(*_: object) -> None:
        raise FOUND_BEFORE[cause]

    made = exported("Baked")
    monkeypatch.setattr(step.isolate, "call", look)
    gates = {"max_p99_ms": 50_000 + len(cause)}  # another key
    with pytest.raises(type(FOUND_BEFORE[cause])) as found:
        smoke_test(*made, serving(gates=gates), TOLERANCE)
    assert found.value.attributes == {"cause": cause, "server": "embedded server"}


def test_what_no_log_proves_and_what_was_not_tried_is_in_the_lines_of_the_run_too(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "warmup_word", lambda log, records: "not proven")
    smoked = smoke_test(*exported("Baked"), serving(request_timeout=12), TOLERANCE)
    written = SmokeReport.model_validate_json((smoked.path / "smoke.json").read_bytes())
    (smoked.path / "smoke.json").chmod(0o644)
    (smoked.path / "smoke.json").write_text(
        written.model_copy(update={"notes": ("labels not tried",)}).model_dump_json()
    )
    alone = Run("notes", run.store, run.observer, artifacts={"smoke_test": smoked})  # and nothing else
    notes = report.summary(alone, "m", None).notes
    assert "embedded server: labels not tried" in notes
    assert "embedded server, as configured: its warmup requests are not proven" in notes


# Images


@pytest.mark.parametrize("runtime", ["embedded", "binary"])
def test_an_image_for_a_runtime_that_has_none_is_a_contradiction(runtime: str) -> None:
    with pytest.raises(UsageError, match=IMAGE):
        choose.choose(serving(runtime=runtime, image=IMAGE), "run")


def test_the_command_line_says_so_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    answer = tfship("run", "half_plus_two", "--image", IMAGE, "--runtime", "embedded", "--no-server")
    assert answer.code == 2 and IMAGE in answer.err
    assert not list(tmp_path.iterdir())
    settings = Options(options_of("run"), {"source": "half_plus_two", "image": [IMAGE]}).settings()
    assert settings.images == (IMAGE,)


def test_each_image_that_could_not_be_tested_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/engine.sock")
    made = exported("Baked")
    with running(Run("images", run.store, run.observer)) as alone:
        for image in (IMAGE, "another:1"):
            with pytest.raises(EnvironmentFailure, match="no/engine"):
                smoke_test(*made, serving(runtime="auto", image=image), TOLERANCE)
    assert [one.server for one in report.servers(alone)] == ["another:1", IMAGE]


def test_an_image_that_is_named_is_tested_or_nothing_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/engine.sock")
    runtime = choose.choose(serving(runtime="auto", image=IMAGE), "run", step="rehearse")
    assert isinstance(runtime, DockerRuntime)
    assert (runtime.parameters.image, runtime.parameters.pull, runtime.parameters.step) == (IMAGE, "never", "rehearse")
    with pytest.raises(EnvironmentFailure, match="no/engine"):
        _ = runtime.identity
    assert choose.choose(serving(runtime="auto"), "run").identity.runtime != "docker", "nobody named one"


# Memory


class Heavy:
    """A server that is larger while it loads, and AVAILABLE only once somebody has seen that."""

    identity = RuntimeIdentity(runtime="fake", version="1", stand_in=True)

    def __init__(self) -> None:
        self.loading = self.started = False
        heavy = self

        class Status(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                state = "LOADING" if heavy.loading else "AVAILABLE"
                body = json.dumps({"model_version_status": [{"version": "1", "state": state, "status": {}}]})
                self.send_response(200)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                pass

        self.http = HTTPServer(("127.0.0.1", 0), Status)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def start(self, name: str, base_path: Path, *, deadline: float) -> Endpoint:
        self.loading = self.started = True
        return Endpoint(grpc="127.0.0.1:1", rest=f"http://127.0.0.1:{self.http.server_port}")

    def memory(self) -> int | None:
        if self.loading:
            self.loading = False
            return 1000
        return 10 if self.started else None

    def logs(self) -> str:
        return ""

    def exited(self) -> Exit | None:
        return None

    def stop(self) -> None:
        self.http.shutdown()


def test_what_a_load_takes_counts_for_the_peak(tmp_path: Path) -> None:
    memory: list[int] = []
    with lifecycle.serving(Heavy(), "m", tmp_path, 1, 60.0, memory):
        pass
    assert max(memory) == 1000


def test_a_failure_of_who_asks_is_not_the_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "NOTICED_SECONDS", 0.0)
    with pytest.raises(ChildFailed) as failed, lifecycle.examining(Heavy()):
        where = "tasks.smoke_test.examine"
        raise ChildFailed(where, "an end within 3600 s", "none", "raise `limits.seconds`.", function=where)
    assert failed.value.cause is None
