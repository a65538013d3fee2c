"""Fixtures of the runtimes' contract: a model made by TensorFlow, and every runtime that this host can have.

TFSHIP_DOCKER=1     test the docker runtime; no engine is then a failure, not a skip (CI sets it)
CONTRACT_IMAGE=REF   with that image instead of our stand-in's, which tests/docker_engine/images.py makes
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tasks import isolate
from tasks.serving.runtimes.binary import BinaryRuntime
from tasks.serving.runtimes.docker.runtime import DockerParameters, DockerRuntime
from tasks.serving.runtimes.embedded import EmbeddedRuntime
from tasks.serving.runtimes.protocol import ServingRuntime
from tests.makers import half_plus_two as half_plus_two_model

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def half_plus_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base path with version 1 of y = x / 2 + 2, with the modes of the store: 0444 in 0755."""
    base_path = tmp_path_factory.mktemp("models") / "half_plus_two"
    isolate.call(half_plus_two_model.write_half_plus_two, base_path / "1")
    for path in [base_path, *base_path.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o444)
    return base_path


@pytest.fixture
def truncated_model(half_plus_two: Path, tmp_path: Path) -> Path:
    """The same model with the end of its variables missing."""
    base_path = tmp_path / "truncated"
    shutil.copytree(half_plus_two, base_path)
    (bundle,) = base_path.glob("1/variables/variables.data-*")
    bundle.chmod(0o644)
    os.truncate(bundle, 4)
    return base_path


@pytest.fixture(scope="session")
def docker_image() -> str:
    """The image to test with, made here unless CONTRACT_IMAGE names one."""
    if named := os.environ.get("CONTRACT_IMAGE"):
        return named
    made = subprocess.run(
        [sys.executable, str(ROOT / "tests/docker_engine/images.py"), "serving"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, f"no image could be made:\n{made.stdout}{made.stderr}"
    return made.stdout.split()[-1]


@pytest.fixture
def model_server(tmp_path: Path) -> Path:
    """An executable named tensorflow_model_server that is our stand-in."""
    program = tmp_path / "bin" / "tensorflow_model_server"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = --version ]; then echo "TensorFlow ModelServer: 0.1.0 (stand-in)"; exit 0; fi\n'
        f'PYTHONPATH="{ROOT}" exec "{sys.executable}" -m tasks.serving.embedded "$@"\n'
    )
    program.chmod(0o755)
    return program


@pytest.fixture
def run_id() -> str:
    """Names what one test starts, so that it finds its own among others'."""
    return uuid.uuid4().hex


@pytest.fixture(params=["embedded", "binary", pytest.param("docker", marks=pytest.mark.engine)])
def kind(request: pytest.FixtureRequest) -> str:
    """The runtime under test, where this host can have it."""
    return str(request.param)


@pytest.fixture
def arguments(kind: str, request: pytest.FixtureRequest, tmp_path: Path, run_id: str) -> list[str]:
    """The arguments of `new_runtime` as strings, from which a test's subprocess makes the same runtime."""
    if kind == "docker":
        return [kind, request.getfixturevalue("docker_image"), run_id]
    if kind == "binary":
        return [kind, str(request.getfixturevalue("model_server")), str(tmp_path / "logs")]
    return [kind]


def new_runtime(kind: str, *details: str, flag_files: Mapping[str, str] | None = None) -> ServingRuntime:
    """A runtime that has not started."""
    files = dict(flag_files or {})
    if kind == "docker":
        return DockerRuntime(DockerParameters(image=details[0], run_id=details[1], pull="never", flag_files=files))
    if kind == "binary":
        return BinaryRuntime(Path(details[0]), Path(details[1]), flag_files=files)
    return EmbeddedRuntime(flag_files=files)


@pytest.fixture
def make(arguments: list[str]) -> Iterator[Callable[..., ServingRuntime]]:
    """Makes runtimes of the kind under test, with flag files where any are given; all stopped when the test ends."""
    made: list[ServingRuntime] = []

    def one(flag_files: Mapping[str, str] | None = None) -> ServingRuntime:
        made.append(new_runtime(*arguments, flag_files=flag_files))
        return made[-1]

    yield one
    for runtime in made:
        runtime.stop()
