"""The container of a model server, with no more than it needs.

It gets the base path read-only, two loopback ports that the engine chooses, resource limits, no capabilities, no root
and no writable root file system.

The image's interface (MODEL_NAME, /models, 8500 and 8501, flags after the entry point):
tensorflow_serving/tools/docker/Dockerfile.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import Field

from tasks.errors import UsageError
from tasks.records.base import Record
from tasks.serving.runtimes import flag_files
from tasks.serving.runtimes.docker import copy_in, owner
from tasks.serving.runtimes.docker import engine as docker_engine
from tasks.serving.runtimes.docker.address import EngineAddress

GRPC_PORT, REST_PORT = "8500/tcp", "8501/tcp"
MODELS, FLAG_FILES = "/models", "/tfship"
NOBODY, ROOT = "65534:65534", "0:0"
_OURS = (MODELS, FLAG_FILES, "/tmp", "/proc", "/dev", "/sys")  # noqa: S108  # the container's own


class DockerParameters(Record):
    """Parameters of the container. `memory_bytes`, `cpus` and `pids` limit it; None is no limit.

    `pull` says when the image is pulled. `user` is `uid:gid`; by default the caller's, or `nobody` if the caller is
    root. `host` is the engine's address; by default DOCKER_HOST, else the docker context, as the docker command does.
    `flag_files` maps flags to the texts of the files that they name (see `flag_files.py`), `mounts` folders of this
    host to paths in the container, read-only; `gpus` is a number or `all`.
    """

    image: str
    run_id: str
    step: str = "smoke_test"
    pull: Literal["missing", "always", "never"] = "missing"
    flags: tuple[str, ...] = ()
    flag_files: dict[str, str] = Field(default_factory=dict)
    environment: dict[str, str] = Field(default_factory=dict)
    mounts: dict[Path, str] = Field(default_factory=dict)
    gpus: int | Literal["all"] | None = None
    memory_bytes: int | None = None
    cpus: float | None = None
    pids: int | None = 1024
    user: str | None = None
    host: str | None = None


def require_mounts(mounts: dict[Path, str]) -> None:
    """Raise UsageError if a mount's folder does not exist, or its path in the container is invalid or taken."""
    for folder, target in mounts.items():
        where = f"setting serving.mounts {folder}"
        if not folder.is_dir():
            raise UsageError(
                where, "a folder of this host", "a file" if folder.exists() else "nothing", "correct the path."
            )
        path = PurePosixPath(target)
        if not path.is_absolute() or ".." in path.parts or path == PurePosixPath("/"):
            raise UsageError(where, "an absolute path in the container", repr(target), "choose one, such as /opt/ops.")
        if any(path.is_relative_to(ours) for ours in _OURS):
            taken = f"{target}, which the server itself needs"
            raise UsageError(where, f"a path outside {', '.join(_OURS)}", taken, "choose another, such as /opt/ops.")


def create(
    engine: Any, address: EngineAddress, parameters: DockerParameters, image_id: str, name: str, base_path: Path
) -> tuple[Any, list[str]]:
    """Create the container that serves `base_path` as `name`; return it and notes on limits that the engine lacks.

    A remote engine does not see this host's folders: they are copied into the container. The flags' files always are.
    """
    from docker.types import LogConfig, Ulimit

    info = engine.info()
    limits, notes = limits_of(parameters, info)
    folders = {base_path: f"{MODELS}/{name}", **parameters.mounts}
    texts = flag_files.filled(parameters.flag_files, f"{MODELS}/{name}")
    files = flag_files.arguments(texts, FLAG_FILES)
    container = engine.containers.create(
        image_id,
        command=["--max_num_load_retries=0", *files, *parameters.flags],
        environment={**parameters.environment, "MODEL_NAME": name, "MODEL_BASE_PATH": MODELS},
        mounts=[_place(folder, target, address) for folder, target in folders.items()]
        + ([copy_in.place(FLAG_FILES)] if texts else []),
        ports=dict.fromkeys((GRPC_PORT, REST_PORT), (address.publishing_address(), None)),
        labels={owner.RUN: parameters.run_id, owner.STEP: parameters.step, **owner.owner()},
        user=parameters.user or user_of(info, address),
        device_requests=_devices(parameters.gpus),
        cap_drop=["ALL"],
        security_opt=["no-new-privileges:true"],
        read_only=True,
        tmpfs={"/tmp": "rw,nosuid,nodev,size=256m,mode=1777"},  # noqa: S108  # the container's own
        init=True,  # as process 1, TensorFlow Serving ignores SIGTERM
        ulimits=[Ulimit(name="core", soft=0, hard=0)],
        log_config=LogConfig(type="json-file", config={"max-size": "1m", "max-file": "2"}),
        detach=True,
        **limits,
    )
    try:
        if address.remote:
            for folder, target in folders.items():
                copy_in.bring_folder(container, target, folder)
        if texts:
            copy_in.bring_texts(container, FLAG_FILES, texts)
    except BaseException:
        owner.remove(container)
        raise
    return container, notes


def _place(folder: Path, target: str, address: EngineAddress) -> Any:
    from docker.types import Mount

    if address.remote:
        return copy_in.place(target)
    return Mount(target, str(folder.resolve()), type="bind", read_only=True)


def _devices(gpus: int | Literal["all"] | None) -> list[Any] | None:
    from docker.types import DeviceRequest

    if gpus is None:
        return None
    return [DeviceRequest(count=-1 if gpus == "all" else gpus, capabilities=[["gpu"]])]


def user_of(info: dict[str, Any], address: EngineAddress) -> str:
    """Return the `uid:gid` of the server: a user that may read the model and nothing more.

    Root in a container of a rootless engine is the engine's own user outside it, which here is the caller; any other
    number would belong to no user, and could not read files that are private to the caller.
    """
    if address.remote:
        return NOBODY
    if docker_engine.is_rootless(info):
        return ROOT
    return f"{os.getuid()}:{os.getgid()}" if os.getuid() else NOBODY


def limits_of(parameters: DockerParameters, info: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the limits that this engine can enforce, as arguments of the creation, and a note on each that it cannot."""
    notes = []
    requested: dict[str, dict[str, Any]] = {}
    if parameters.memory_bytes:
        swap = {"memswap_limit": parameters.memory_bytes} if info.get("SwapLimit") else {}
        requested["memory"] = {"mem_limit": parameters.memory_bytes, **swap}
    if parameters.cpus:
        cpus = min(parameters.cpus, float(info.get("NCPU") or parameters.cpus))
        if cpus < parameters.cpus:
            notes.append(f"the engine has {cpus:g} CPUs, fewer than the requested {parameters.cpus:g}")
        requested["CPU"] = {"nano_cpus": int(cpus * 1e9)}
    if parameters.pids:
        requested["process"] = {"pids_limit": parameters.pids}
    impossible = docker_engine.impossible_limits(info)
    limits: dict[str, Any] = {}
    for what, arguments in requested.items():
        if what in impossible:
            notes.append(f"this engine cannot enforce a {what} limit (no such cgroup): the server runs without one")
        else:
            limits |= arguments
    return limits, notes
