"""Find or pull an image, and check its platform and digest."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

from tasks.errors import EnvironmentFailure, UsageError

ELSEWHERE = "or choose --runtime binary or --runtime embedded."
SILENT_SECONDS = 300  # after which a pull without output counts as hung
_WHOLE = ("Verifying Checksum", "Download complete", "Extracting", "Pull complete")
Progress = Callable[[int, int], None]
"""Called with a pull's bytes: those downloaded, and the total known so far."""

# The engine passes on the registry's or the network's message (moby, distribution/errors.go and Go's net package).
_OUT_OF_REACH = re.compile(
    "connection refused|no such host|timeout|timed out|unreachable|context deadline|deadline exceeded|EOF|"
    "server misbehaving|connection reset|temporary failure|proxyconnect|gave HTTP response|tls: |x509: |status: 5",
    re.IGNORECASE,
)
_NOT_ALLOWED = re.compile("unauthorized|authentication required|no basic auth|denied: requested access", re.IGNORECASE)
_UNKNOWN = re.compile("manifest unknown|not found|does not exist|name unknown|NAME_UNKNOWN", re.IGNORECASE)


class _NoAnswer(EnvironmentFailure):
    """The registry did not answer a request about an image."""


def image_of(client: Any, reference: str, pull: str, progress: Progress | None = None) -> Any:
    """Return the image, pulled if `pull` (missing, always or never) says so, after checking its platform.

    Raises:
        EnvironmentFailure: the image is missing and may not or cannot be pulled, or is made for another platform; both
            are known before a byte of it is pulled.
    """
    image = None if pull == "always" else local(client, reference)
    if image is None:
        if pull == "never":
            raise EnvironmentFailure(
                f"image {reference}",
                "the image on this host",
                "no such image, and nothing is pulled",
                f"docker pull {reference}, {ELSEWHERE}",
            )
        with contextlib.suppress(_NoAnswer):  # the pull may use a mirror
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
    """Return the engine's own image, or None."""
    import docker.errors

    with _refusals(reference), contextlib.suppress(docker.errors.ImageNotFound):
        return client.images.get(reference)
    return None


def require_offered(client: Any, reference: str) -> None:
    """Check that the registry has the image, without pulling it.

    Raises:
        EnvironmentFailure: no registry, no such image, no permission, or no image for this platform.
    """
    with _refusals(reference, _NoAnswer):
        offered = client.images.get_registry_data(reference).attrs.get("Platforms") or []
        needed = _platform(client)
    platforms = {f"{one['os']}/{one['architecture']}" for one in offered if one.get("architecture")}
    if platforms and needed not in platforms:
        raise _other_platform(reference, needed, ", ".join(sorted(platforms)))


def _pull(client: Any, reference: str, progress: Progress) -> None:
    """Pull the image. A pull that has begun fails by an `error` in the stream (moby, pkg/jsonmessage)."""
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
        total = sum(size for _, size in layers.values())
        progress(total, total)  # the engine does not always report the last layer's end
    finally:
        client.api.timeout = patience


@contextlib.contextmanager
def _refusals(reference: str, failure: type[EnvironmentFailure] = EnvironmentFailure) -> Iterator[None]:
    """Raise a refusal by the engine or its registry as an error with a remedy."""
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
        raise failure(f"image {reference}", *_described(reference, found)) from error


def _described(reference: str, found: str) -> tuple[str, str, str]:
    """Return what was expected, what was found, and the remedy, by the engine's message."""
    registry = reference.partition("/")[0] if re.match(r"[^/]*[.:][^/]*/", reference) else "Docker Hub"
    loaded = f"load the image from a file (docker load), {ELSEWHERE}"
    if _NOT_ALLOWED.search(found) and "does not exist" not in found:
        return f"permission to pull from {registry}", found, f"docker login {registry}, then run again; or {loaded}"
    if _OUT_OF_REACH.search(found):
        silent = f"no image on this host, and no answer from its registry: {found}"
        remedy = f"check the network and the engine's proxy (`docker info` shows it), {loaded}"
        return f"the registry {registry} to answer", silent, remedy
    if _UNKNOWN.search(found) or "denied" in found:
        remedy = f"check the name and the tag (--image); if the image is private: docker login {registry}."
        return f"an image of that name in {registry}", f"none: {found}", remedy
    return "the engine to pull it", found, f"fix what it reports, {loaded}"


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
    """Return the image's `sha256:…` digest in the requested repository, else in any other, else its id."""
    repository = reference.partition("@")[0].removesuffix(f":{tag_of(reference)}")
    digests = [str(found) for found in image.attrs.get("RepoDigests") or ()]
    own = [found for found in digests if found.partition("@")[0] == repository]
    return (own or digests or [f"@{image.id}"])[0].partition("@")[2]


def tag_of(reference: str) -> str:
    """Return the tag in `registry:5000/name:tag@digest`, or an empty string."""
    return reference.partition("@")[0].rpartition("/")[2].partition(":")[2]
