"""Connect to the Docker engine, and word its failures.

The SDK is imported inside functions, because its import is slow.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from tasks.errors import EnvironmentFailure, PipelineError
from tasks.serving.runtimes.docker import address as docker_address
from tasks.serving.runtimes.docker import image as docker_image
from tasks.serving.runtimes.docker.address import EngineAddress
from tasks.serving.runtimes.docker.image import ELSEWHERE

ENGINE_SECONDS = 60  # after which an engine that does not answer a call counts as hung
KNOCK_SECONDS = 10


def available(image: str, host: str | None = None) -> str | None:
    """Return None if an engine answers and has `image`, else the reason. Never pulls: this is for `auto`."""
    try:
        client = connect(host)
        try:
            docker_image.image_of(client, image, "never")
        finally:
            client.close()
    except PipelineError as failure:
        return f"{failure.where}: {failure.found}"
    return None


def connect(host: str | None = None) -> Any:
    """Connect to the engine at `host`, by default DOCKER_HOST, else the docker context.

    Raises:
        EnvironmentFailure: there is no engine, it cannot be reached, or this user may not use it.
        UsageError: the address's scheme is not supported.
    """
    import docker

    address = docker_address.resolve(host)
    url = docker_address.socket_of(address.url) if address.behind_ssh else address.url
    _knock(EngineAddress(url))
    with failures(f"docker engine at {address.url}"):
        return docker.DockerClient(base_url=url, version="auto", timeout=ENGINE_SECONDS, tls=address.tls or False)


def _knock(address: EngineAddress) -> None:
    """Tell a missing socket from a forbidden one and from one without an engine, which the SDK does not."""
    if address.remote:
        _knock_far(address)
        return
    path = address.url.removeprefix("unix://")
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ENGINE_SECONDS)
            connection.connect(path)
    except OSError as error:
        found, remedy = {
            errno.ENOENT: (f"no socket {path}", f"install and start Docker, {ELSEWHERE}"),
            errno.ECONNREFUSED: (
                f"a socket {path} at which no engine answers",
                f"start Docker (systemctl start docker), {ELSEWHERE}",
            ),
            errno.EACCES: (
                f"no permission to use {path}",
                f"add this user to the socket's group (usermod -aG docker USER; then log in again), {ELSEWHERE}",
            ),
        }.get(error.errno or 0, (f"{path}: {error}", f"start Docker, {ELSEWHERE}"))
        raise EnvironmentFailure("docker engine", "an engine that answers", found, remedy) from error


def _knock_far(address: EngineAddress) -> None:
    parts = urlsplit(address.url)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 2375), timeout=KNOCK_SECONDS).close()
    except OSError as error:
        remedy = "start the engine there, open its port, or unset DOCKER_HOST to use this host's engine, " + ELSEWHERE
        found = f"no answer at DOCKER_HOST={address.url}: {error}"
        raise EnvironmentFailure("docker engine", "an engine that answers", found, remedy) from error


@contextlib.contextmanager
def failures(where: str) -> Iterator[None]:
    """Raise an engine's refusals and timeouts as EnvironmentFailure. The SDK raises its own errors and OSError."""
    import docker.errors

    try:
        yield
    except (docker.errors.DockerException, OSError) as error:
        found = str(getattr(error, "explanation", None) or error)
        raise EnvironmentFailure(where, "the engine to succeed", found, _remedy(found)) from error


def _remedy(found: str) -> str:
    if "could not select device driver" in found:
        return "install the NVIDIA Container Toolkit on the engine's host, or leave `serving.gpus` out."
    if "cannot assign requested address" in found:
        return "set DOCKER_HOST to an address of the engine's own host, or to ssh://USER@HOST."
    if "no space left on device" in found:
        return (
            "free disk space on the engine's host (`docker system df` shows its use, `docker system prune` frees some), "
            "then run again."
        )
    return f"fix what the engine reports (`docker info` shows its state), {ELSEWHERE}"


def is_rootless(info: dict[str, Any]) -> bool:
    """Tell whether the engine runs without root, in a user namespace where root is the user who started it."""
    return any("name=rootless" in option for option in info.get("SecurityOptions") or ())


def impossible_limits(info: dict[str, Any]) -> tuple[str, ...]:
    """Return the limits (memory, CPU, process) that this engine cannot enforce, for lack of a cgroup."""
    able = {"memory": "MemoryLimit", "CPU": "CpuCfsQuota", "process": "PidsLimit"}
    return tuple(what for what, key in able.items() if not info.get(key))
