"""A misbehaving server is refused by its own cause within its deadline, and leaves nothing.

Each is an image (tests/docker_engine/misbehave.py) in which the step tests a model that is good.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flows import telemetry
from flows.config import PipelineConfig
from flows.train_to_serve import run_pipeline, summaries
from tasks.errors import ChildFailed, ParityError, PipelineError, SmokeRefused
from tasks.records.serving import Cause
from tasks.serving.runtimes.docker.engine import connect
from tasks.serving.runtimes.docker.owner import PID
from tasks.serving.runtimes.docker.runtime import STOP_SECONDS

pytestmark = pytest.mark.engine
ROOT = Path(__file__).resolve().parents[3]
MIB = 1024 * 1024
LOAD_SECONDS = 300.0  # for those that are to come up, beside whatever else this machine does
SHORT_SECONDS = 6.0  # for those that never do
AROUND_SECONDS = 100.0  # the engine's, and the step's own, around that
TEST_SECONDS = 400.0  # where the questions are asked

Smoke = Callable[..., float]


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    engine = connect()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def images() -> dict[str, str]:
    """The image of each way to misbehave."""
    made = subprocess.run(
        [sys.executable, str(ROOT / "tests/docker_engine/images.py"), "misbehaving"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, f"no image could be made:\n{made.stdout}{made.stderr}"
    names = made.stdout.split()
    return {name.removeprefix("tfship/misbehaving-").removesuffix(":local"): name for name in names}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which everything before the smoke test is made."""
    made = tmp_path_factory.mktemp("misbehaving")
    _run(made, {"runtime": "embedded"}, until="export")
    return made


def _run(folder: Path, serving: dict[str, Any], until: str | None, **settings: Any) -> None:
    config = PipelineConfig.model_validate(
        settings
        | {
            "source": "half_plus_two",
            "store": folder / "store",
            "serving_root": folder / "serving",
            "reports": folder / "reports",
            "until": until,
            "serving": {"latency_requests": 3, "pull": "never", **serving},
        }
    )
    with telemetry.shown(quiet=True):
        run_pipeline.fn(config)


@pytest.fixture
def smoke(client: Any, images: dict[str, str], folder: Path) -> Smoke:
    """Smoke-tests in the image that misbehaves so; the seconds that took. Nothing may be left, whatever comes of it."""

    def test(how: str, **serving: Any) -> float:
        began = time.monotonic()
        try:
            _run(folder, {"runtime": "docker", "image": images[how], **serving}, until="smoke_test")
        finally:
            left = client.containers.list(all=True, filters={"label": f"{PID}={os.getpid()}"})
            assert left == [], "a container is left"
        return time.monotonic() - began

    return test


def refusal(smoke: Smoke, kind: type[PipelineError], within: float, how: str, **serving: Any) -> PipelineError:
    """The error that a test in that image ends with, `within` seconds."""
    began = time.monotonic()
    with pytest.raises(kind) as raised:
        smoke(how, **serving)
    assert time.monotonic() - began < within
    return raised.value


@pytest.mark.parametrize(
    ("how", "cause", "words"),
    [
        ("exits-at-once", Cause.DID_NOT_START, "exit code 3"),
        ("crashes", Cause.CRASHED, "SIGILL"),
    ],
)
def test_one_that_ends_is_noticed_at_once(smoke: Smoke, how: str, cause: Cause, words: str) -> None:
    error = refusal(smoke, ChildFailed, AROUND_SECONDS, how, load_timeout=LOAD_SECONDS)
    assert error.cause == cause
    assert words in error.found
    assert "misbehave: " in error.remedy, "its last words are shown"


@pytest.mark.parametrize("how", ["never-opens-its-port", "never-answers"])
def test_one_that_is_never_available_is_waited_for_as_long_as_was_said(smoke: Smoke, how: str) -> None:
    error = refusal(smoke, ChildFailed, SHORT_SECONDS + AROUND_SECONDS, how, load_timeout=SHORT_SECONDS)
    assert error.cause == Cause.NEVER_AVAILABLE
    assert f"{SHORT_SECONDS:g} s" in error.found
    assert "misbehave: " in (error.log or "")


def test_wrong_values_are_a_verdict_that_names_the_output(smoke: Smoke) -> None:
    error = refusal(smoke, ParityError, TEST_SECONDS, "answers-wrong-values", load_timeout=LOAD_SECONDS)
    assert isinstance(error, ParityError)
    assert "gRPC" in error.where
    assert "test served" in error.where
    assert {row.test.value for row in error.report.failures} == {"served"}, "the files are as they should be"
    failed = " ".join(row.candidate for row in error.report.failures)
    assert "gRPC" in failed
    assert "REST" in failed


def test_one_that_dies_in_the_middle_is_held_against_the_model(smoke: Smoke) -> None:
    error = refusal(smoke, SmokeRefused, TEST_SECONDS, "dies-at-the-third-request", load_timeout=LOAD_SECONDS)
    assert error.cause == Cause.DIED
    assert "signal 6" in error.found


def test_one_that_outgrows_its_memory_is_said_to(client: Any, smoke: Smoke) -> None:
    """Where the engine reports that it can hold no memory limit, the server's log says so instead."""
    error = refusal(smoke, ChildFailed, TEST_SECONDS, "outgrows-its-memory", memory=256 * MIB)
    if client.info()["MemoryLimit"]:
        assert error.cause == Cause.CRASHED
        assert "OOM" in error.found
        assert "serving.memory" in error.remedy
    else:
        assert "cannot enforce a memory limit" in (error.log or "")


def test_one_that_ignores_sigterm_passes_and_goes_all_the_same(smoke: Smoke, folder: Path) -> None:
    assert smoke("ignores-sigterm", load_timeout=LOAD_SECONDS) < LOAD_SECONDS + STOP_SECONDS
    assert {step.name: step.state for step in summaries[-1].steps}["smoke_test"] == "built"


def test_several_servers_are_each_asked_and_the_table_says_which_take_the_model(
    folder: Path, images: dict[str, str], docker_image: str
) -> None:
    dies, exits = images["dies-at-the-third-request"], images["exits-at-once"]
    serving = {"runtime": "docker", "load_timeout": TEST_SECONDS}
    with pytest.raises(PipelineError):
        _run(folder, serving, "smoke_test", images=(docker_image, dies, exits))
    found = {one.server: (one.verdict, one.reason) for one in summaries[-1].servers}
    assert found.keys() == {docker_image, dies, exits}
    assert found[docker_image][0].startswith("passed")
    assert found[dies][0] == "refused" and Cause.DIED.value in found[dies][1]
    assert found[exits][0] == "failed" and Cause.DID_NOT_START.value in found[exits][1]


def test_a_change_of_versions_is_rehearsed_in_a_container(client: Any, folder: Path, docker_image: str) -> None:
    serving = {"runtime": "docker", "image": docker_image, "load_timeout": LOAD_SECONDS}
    _run(folder, serving, until=None)
    _run(folder, serving, until="rehearse", rehearsal={"wanted": True, "window": 1.0})
    rehearsal = summaries[-1].rehearsal
    assert rehearsal is not None and rehearsal.passed and rehearsal.switch is not None, rehearsal
    assert [phase.failed for phase in rehearsal.switch.phases] == [0, 0, 0]
    assert rehearsal.peak_memory or not client.info()["MemoryLimit"]
    assert client.containers.list(all=True, filters={"label": f"{PID}={os.getpid()}"}) == []
