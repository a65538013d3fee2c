"""The Docker engine of this host: whether one answers, which image it has, and what to say when it does not.

The SDK is imported inside functions, because it costs time.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator
from typing import Any

from tasks.errors import EnvironmentFailure

ENGINE_SECONDS = 60  # an engine that does not answer a call within this is called hung
ELSEWHERE = "or choose --runtime binary or --runtime embedded."


def available(image: str, host: str | None = None) -> str | None:
    """None if an engine answers on this host and has `image`, else the reason. Never pulls: this is for `auto`."""
    try:
        client = connect(host)
        try:
            image_of(client, image, "never")
        finally:
            client.close()
    except EnvironmentFailure as failure:
        return f"{failure.where}: {failure.found}"
    return None


def connect(host: str | None = None) -> Any:
    """A client of the engine on this host.

    Raises:
        EnvironmentFailure: the engine is on another host, or there is none, or this user may not use it.
    """
    import docker
    import docker.errors

    address = host or _default_address()
    if not address.startswith("unix://"):
        raise EnvironmentFailure(
            "docker engine",
            "an engine on this host, at a unix socket",
            f"a remote one, DOCKER_HOST={address}",
            "the model's folder is bind-mounted, which a remote engine cannot do: unset DOCKER_HOST to use the local "
            f"engine, {ELSEWHERE}",
        )
    _knock(address)
    with failures(f"docker engine at {address}"):
        return docker.DockerClient(base_url=address, version="auto", timeout=ENGINE_SECONDS)


def _default_address() -> str:
    from docker.context import ContextAPI
    from docker.utils import kwargs_from_env

    address = kwargs_from_env().get("base_url")
    if address is None:
        context = ContextAPI.get_current_context()
        address = context.Host if context is not None else None
    return str(address or "unix:///var/run/docker.sock").replace("http+unix://", "unix://")


def _knock(address: str) -> None:
    """Tell a missing socket from a forbidden and a deserted one, which the SDK does not."""
    path = address.removeprefix("unix://")
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ENGINE_SECONDS)
            connection.connect(path)
    except OSError as error:
        found, remedy = {
            errno.ENOENT: (f"no socket {path}", f"install and start Docker, {ELSEWHERE}"),
            errno.ECONNREFUSED: (
                f"a socket {path} at which nobody answers",
                f"start Docker (systemctl start docker), {ELSEWHERE}",
            ),
            errno.EACCES: (
                f"no permission to use {path}",
                f"add this user to the socket's group (usermod -aG docker USER; then log in again), {ELSEWHERE}",
            ),
        }.get(error.errno or 0, (f"{path}: {error}", f"start Docker, {ELSEWHERE}"))
        raise EnvironmentFailure("docker engine", "an engine that answers", found, remedy) from error


@contextlib.contextmanager
def failures(where: str) -> Iterator[None]:
    """What the engine refuses, or its silence, as an EnvironmentFailure. The SDK raises its own errors and OSErrors."""
    import docker.errors

    try:
        yield
    except (docker.errors.DockerException, OSError) as error:
        raise EnvironmentFailure(
            where,
            "the engine to do it",
            str(getattr(error, "explanation", None) or error),
            f"mend what the engine names (`docker info` shows its state), {ELSEWHERE}",
        ) from error


def image_of(client: Any, reference: str, pull: str) -> Any:
    """The image, fetched where `pull` says so, and made for this engine's platform."""
    import docker.errors

    image = None
    with failures(f"image {reference}"), contextlib.suppress(docker.errors.ImageNotFound):
        image = None if pull == "always" else client.images.get(reference)
    if image is None:
        if pull == "never":
            raise EnvironmentFailure(
                f"image {reference}",
                "the image on this host",
                "it is not there, and nothing is pulled here",
                f"docker pull {reference}, {ELSEWHERE}",
            )
        image = _pulled(client, reference)
    with failures("docker engine"):
        engine = client.version()
    made_for, needed = f"{image.attrs['Os']}/{image.attrs['Architecture']}", f"{engine['Os']}/{engine['Arch']}"
    if made_for != needed:
        raise _other_platform(reference, needed, made_for)
    return image


def _pulled(client: Any, reference: str) -> Any:
    import docker.errors

    try:
        return client.images.pull(reference)
    except (docker.errors.DockerException, OSError) as error:
        found = str(getattr(error, "explanation", None) or error)
        if "no matching manifest for" in found:
            raise _other_platform(reference, "this engine's platform", found) from error
        raise EnvironmentFailure(
            f"image {reference}",
            "the image on this host or in its registry",
            f"it is not here, and pulling it failed: {found}",
            "check the name and the network; without one, load it from a file (docker load), or choose --runtime "
            "binary or --runtime embedded.",
        ) from error


def _other_platform(reference: str, needed: str, found: str) -> EnvironmentFailure:
    return EnvironmentFailure(
        f"image {reference}",
        f"an image for {needed}",
        found,
        f"TensorFlow Serving crashes under emulation: name an image made for this platform, {ELSEWHERE}",
    )


def digest_of(image: Any, reference: str) -> str:
    """`sha256:…` of the repository that was asked for, of any other, or the image's id."""
    repository = reference.partition("@")[0].removesuffix(f":{tag_of(reference)}")
    digests = [str(found) for found in image.attrs.get("RepoDigests") or ()]
    own = [found for found in digests if found.partition("@")[0] == repository]
    return (own or digests or [f"@{image.id}"])[0].partition("@")[2]


def tag_of(reference: str) -> str:
    """The tag in `registry:5000/name:tag@digest`, or nothing."""
    return reference.partition("@")[0].rpartition("/")[2].partition(":")[2]
