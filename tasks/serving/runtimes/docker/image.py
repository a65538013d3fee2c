"""An image of the Docker engine: found, fetched with its progress shown, made for this platform, known by its digest."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

from tasks.errors import EnvironmentFailure, UsageError

ELSEWHERE = "or choose --runtime binary or --runtime embedded."
SILENT_SECONDS = 300  # a pull that says nothing for so long is called hung
_WHOLE = ("Verifying Checksum", "Download complete", "Extracting", "Pull complete")
Progress = Callable[[int, int], None]
"""Told of a pull's bytes: those that are here, and all that are known of so far."""

# The engine passes on the registry's or the network's words (moby, distribution/errors.go and Go's net package).
_OUT_OF_REACH = re.compile(
    "connection refused|no such host|timeout|timed out|unreachable|context deadline|deadline exceeded|EOF|"
    "server misbehaving|connection reset|temporary failure|proxyconnect|gave HTTP response|tls: |x509: |status: 5",
    re.IGNORECASE,
)
_NOT_ALLOWED = re.compile("unauthorized|authentication required|no basic auth|denied: requested access", re.IGNORECASE)
_UNKNOWN = re.compile("manifest unknown|not found|does not exist|name unknown|NAME_UNKNOWN", re.IGNORECASE)


class _NoAnswer(EnvironmentFailure):
    """The registry was asked about an image, and did not say."""


def image_of(client: Any, reference: str, pull: str, progress: Progress | None = None) -> Any:
    """The image, fetched where `pull` (missing, always or never) says so, and made for this engine's platform.

    Raises:
        EnvironmentFailure: it is not here and may not or cannot be fetched, or it is made for another platform; which
            of these is known before a byte of it is fetched.
    """
    image = None if pull == "always" else local(client, reference)
    if image is None:
        if pull == "never":
            raise EnvironmentFailure(
                f"image {reference}",
                "the image on this host",
                "it is not there, and nothing is pulled here",
                f"docker pull {reference}, {ELSEWHERE}",
            )
        with contextlib.suppress(_NoAnswer):  # the pull may have a mirror to ask
            require_offered(client, reference)
        _pull(client, reference, progress or (lambda done, total: None))
        image = local(client, reference)
        assert image is not None
    with _refusals(reference):
        needed, made_for = _platform(client), f"{image.attrs['Os']}/{image.attrs['Architecture']}"
    if made_for != needed:
        raise _other_platform(reference, needed, made_for)
    return image


def local(client: Any, reference: str) -> Any:
    """The image where the engine has it, or None."""
    import docker.errors

    with _refusals(reference), contextlib.suppress(docker.errors.ImageNotFound):
        return client.images.get(reference)
    return None


def require_offered(client: Any, reference: str) -> None:
    """Ask the registry for the image without fetching it.

    Raises:
        EnvironmentFailure: no registry there, no such image in it, not for this user, or not for this platform.
    """
    with _refusals(reference, _NoAnswer):
        offered = client.images.get_registry_data(reference).attrs.get("Platforms") or []
        needed = _platform(client)
    platforms = {f"{one['os']}/{one['architecture']}" for one in offered if one.get("architecture")}
    if platforms and needed not in platforms:
        raise _other_platform(reference, needed, ", ".join(sorted(platforms)))


def _pull(client: Any, reference: str, progress: Progress) -> None:
    """Fetch it. (moby, pkg/jsonmessage: an `error` in the stream is how a pull that began fails.)"""
    import docker.errors
    from docker.utils import parse_repository_tag

    repository, tag = parse_repository_tag(reference)
    patience, client.api.timeout = client.api.timeout, SILENT_SECONDS
    layers: dict[str, tuple[int, int]] = {}
    try:
        with _refusals(reference):
            for event in client.api.pull(repository, tag=tag or "latest", stream=True, decode=True):
                if "error" in event:
                    raise docker.errors.DockerException(event["error"])
                layer, detail = str(event.get("id", "")), event.get("progressDetail") or {}
                if event.get("status") == "Downloading" and detail.get("total"):
                    here = max(int(detail["current"]), layers.get(layer, (0, 0))[0])
                    layers[layer] = (here, int(detail["total"]))
                elif event.get("status") in _WHOLE and layer in layers:
                    layers[layer] = (layers[layer][1], layers[layer][1])
                else:
                    continue
                progress(sum(done for done, _ in layers.values()), sum(total for _, total in layers.values()))
        whole = sum(total for _, total in layers.values())
        progress(whole, whole)  # the engine does not always say so of the last layer
    finally:
        client.api.timeout = patience


@contextlib.contextmanager
def _refusals(reference: str, failure: type[EnvironmentFailure] = EnvironmentFailure) -> Iterator[None]:
    """What the engine or the registry behind it refuses, each with what to do about it."""
    import docker.errors

    try:
        yield
    except (docker.errors.DockerException, OSError) as error:
        found = str(getattr(error, "explanation", None) or error)
        if "no matching manifest for" in found:
            raise _other_platform(reference, "this engine's platform", found) from error
        if "invalid reference format" in found:
            remedy = "write it as [REGISTRY/]NAME[:TAG][@sha256:…], in lower case."
            raise UsageError(f"image {reference!r}", "the name of an image", found, remedy) from error
        raise failure(f"image {reference}", *_said(reference, found)) from error


def _said(reference: str, found: str) -> tuple[str, str, str]:
    """What was expected, what was found, and the remedy, by the engine's words."""
    registry = reference.partition("/")[0] if re.match(r"[^/]*[.:][^/]*/", reference) else "Docker Hub"
    loaded = f"load the image from a file (docker load), {ELSEWHERE}"
    if _NOT_ALLOWED.search(found) and "does not exist" not in found:
        return f"{registry} to let this user have it", found, f"docker login {registry}, then run again; or {loaded}"
    if _OUT_OF_REACH.search(found):
        silent = f"the image is not here, and its registry does not answer: {found}"
        remedy = f"check the network and the engine's proxy (docker info shows it), {loaded}"
        return f"the registry {registry} in reach", silent, remedy
    if _UNKNOWN.search(found) or "denied" in found:
        remedy = f"check the name and the tag (--image); where it is private: docker login {registry}."
        return f"an image of that name in {registry}", f"it has none: {found}", remedy
    return "the engine to fetch it", found, f"mend what it names, {loaded}"


def _platform(client: Any) -> str:
    engine = client.version()
    return f"{engine['Os']}/{engine['Arch']}"


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
