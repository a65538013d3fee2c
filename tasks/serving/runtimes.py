"""Which of the three runtimes a smoke test uses, resolved before its key is made and without starting anything."""

from __future__ import annotations

import importlib.metadata
import tempfile
from pathlib import Path

from tasks.errors import EnvironmentFailure
from tasks.records.settings import Pull, RuntimeChoice, Serving
from tasks.serving import binary_runtime, docker_engine
from tasks.serving.binary_runtime import BinaryRuntime
from tasks.serving.docker_runtime import DockerParameters, DockerRuntime
from tasks.serving.embedded_runtime import EmbeddedRuntime
from tasks.serving.runtime import ServingRuntime


def choose(serving: Serving, run_id: str) -> ServingRuntime:
    """The runtime that `serving` asks for.

    `auto` is docker if an engine answers and the image is there (auto never pulls), else a `tensorflow_model_server`
    on PATH, else the embedded server.

    Raises:
        EnvironmentFailure: the one asked for by name is not to be had.
    """
    image = serving.image or default_image()
    if serving.runtime is RuntimeChoice.DOCKER:
        return _docker(serving, image, run_id, serving.pull)
    if serving.runtime is RuntimeChoice.AUTO and docker_engine.available(image) is None:
        return _docker(serving, image, run_id, "never")
    binary = serving.binary or binary_runtime.find()
    if serving.runtime in (RuntimeChoice.AUTO, RuntimeChoice.BINARY) and binary:
        return BinaryRuntime(Path(binary), Path(tempfile.gettempdir()), serving.flags)
    if serving.runtime is RuntimeChoice.BINARY:
        raise EnvironmentFailure(
            "runtime binary",
            f"a {binary_runtime.PROGRAM} on PATH",
            "none",
            "install TensorFlow Serving, name it with `serving.binary`, or choose --runtime docker or embedded.",
        )
    return EmbeddedRuntime(serving.flags)


def default_image() -> str:
    """TensorFlow Serving of the installed TensorFlow's minor version: the one whose ops the model was written with."""
    major, minor, *_ = importlib.metadata.version("tensorflow").split(".")
    return f"tensorflow/serving:{major}.{minor}.0"


def _docker(serving: Serving, image: str, run_id: str, pull: Pull) -> DockerRuntime:
    return DockerRuntime(
        DockerParameters(
            image=image,
            pull=pull,
            run_id=run_id,
            step="smoke_test",
            flags=serving.flags,
            memory_bytes=serving.memory,
            cpus=serving.cpus,
        )
    )
