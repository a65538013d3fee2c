"""Choose one of the three runtimes for a smoke test, before its key is made and without starting anything."""

from __future__ import annotations

import importlib.metadata
import tempfile
from pathlib import Path

from tasks.errors import EnvironmentFailure, UsageError
from tasks.records.settings import Pull, RuntimeChoice, Serving
from tasks.serving.runtimes import binary as binary_runtime
from tasks.serving.runtimes.binary import BinaryRuntime
from tasks.serving.runtimes.docker import engine
from tasks.serving.runtimes.docker.image import Progress
from tasks.serving.runtimes.docker.runtime import DockerParameters, DockerRuntime
from tasks.serving.runtimes.embedded import EmbeddedRuntime
from tasks.serving.runtimes.protocol import ServingRuntime


def choose(
    serving: Serving,
    run_id: str,
    *,
    step: str = "smoke_test",
    model_config: str | None = None,
    progress: Progress | None = None,
) -> ServingRuntime:
    """Return the runtime that `serving` requests, for `step` of a run.

    `auto` is docker if an engine answers and has the image (auto never pulls), else a `tensorflow_model_server` on
    PATH, else the embedded server. With an image named, `auto` is docker or an error.

    `model_config` is the text of a `--model_config_file`, with `$MODEL_BASE_PATH` for the base path. `progress` is
    called with the bytes of an image's pull, which happens when the runtime's `identity` is read.

    Raises:
        EnvironmentFailure: the requested runtime is not available.
        UsageError: a file that a flag names cannot be read, or an image is named for a runtime without images.
    """
    require_docker_for(serving.image, serving.runtime)
    files = flag_files(serving)
    if model_config is not None:
        files["model_config_file"] = model_config
    image = serving.image or default_image()
    if serving.runtime is RuntimeChoice.DOCKER:
        return _docker(serving, image, run_id, step, serving.pull, files, progress)
    if serving.runtime is RuntimeChoice.AUTO and (serving.image or engine.available(image) is None):
        return _docker(serving, image, run_id, step, "never", files, progress)
    binary = serving.binary or binary_runtime.find()
    if serving.runtime in (RuntimeChoice.AUTO, RuntimeChoice.BINARY) and binary:
        return BinaryRuntime(Path(binary), Path(tempfile.gettempdir()), serving.flags, files)
    if serving.runtime is RuntimeChoice.BINARY:
        raise EnvironmentFailure(
            "runtime binary",
            f"a {binary_runtime.PROGRAM} on PATH",
            "none",
            "install TensorFlow Serving, name it with `serving.binary`, or choose --runtime docker or embedded.",
        )
    return EmbeddedRuntime(serving.flags, files)


def require_docker_for(image: str | None, runtime: RuntimeChoice | None) -> None:
    """Raise UsageError if `image` is named for a runtime that does not use images."""
    if image is not None and runtime in (RuntimeChoice.BINARY, RuntimeChoice.EMBEDDED):
        remedy = "choose --runtime docker or auto, or leave the image out."
        raise UsageError(f"image {image}", "the docker runtime", f"--runtime {runtime}", remedy)


def flag_files(serving: Serving) -> dict[str, str]:
    """Return the texts of the user's files by flag, without the model config, which is specific to one model.

    Raises:
        UsageError: a file cannot be read.
    """
    given = {
        "batching_parameters_file": serving.batching_parameters_file,
        "monitoring_config_file": serving.monitoring_config_file,
    }
    return {flag: _text(flag, path) for flag, path in given.items() if path is not None}


def _text(flag: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        found = getattr(error, "strerror", None) or "bytes that are not UTF-8"
        raise UsageError(f"setting serving.{flag} {path}", "a text file", str(found), "correct the path.") from None


def default_image() -> str:
    """Return the image of TensorFlow Serving with the installed TensorFlow's minor version, whose ops the model uses."""
    major, minor, *_ = importlib.metadata.version("tensorflow").split(".")
    return f"tensorflow/serving:{major}.{minor}.0"


def _docker(
    serving: Serving, image: str, run_id: str, step: str, pull: Pull, files: dict[str, str], progress: Progress | None
) -> DockerRuntime:
    parameters = DockerParameters(
        image=image,
        pull=pull,
        run_id=run_id,
        step=step,
        flags=serving.flags,
        flag_files=files,
        environment=serving.environment,
        mounts=serving.mounts,
        gpus=serving.gpus,
        memory_bytes=serving.memory,
        cpus=serving.cpus,
        pids=serving.pids,
    )
    return DockerRuntime(parameters, progress)
