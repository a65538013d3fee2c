"""An image is fetched by a real engine from a local registry, with progress, and each refusal is reported."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from tasks.errors import EnvironmentFailure, PipelineError, UsageError
from tasks.serving.runtimes.docker.engine import connect
from tasks.serving.runtimes.docker.image import image_of, require_offered
from tests.docker_engine import registry as registries
from tests.docker_engine.registry import LAYER_BYTES, OCI, Registry

pytestmark = pytest.mark.engine


@pytest.fixture
def registry() -> Iterator[Registry]:
    with registries.serving() as served:
        yield served


@pytest.fixture
def client(registry: Registry) -> Iterator[Any]:
    """The engine, with nothing left in it of what was pulled."""
    import docker.errors

    engine = connect()
    architecture = engine.version()["Arch"]
    registry.add("good", architecture)
    other = "s390x" if architecture != "s390x" else "amd64"
    registry.add("other", other)
    registry.add("other-oci", other, OCI)
    yield engine
    for tag in registry.manifests:
        with contextlib.suppress(docker.errors.ImageNotFound, docker.errors.APIError):
            engine.images.remove(f"{registry.host}/tiny:{tag}")
    engine.close()


def test_a_pull_shows_its_bytes_to_the_last(client: Any, registry: Registry) -> None:
    seen: list[tuple[int, int]] = []
    image = image_of(client, f"{registry.host}/tiny:good", "missing", lambda done, total: seen.append((done, total)))
    assert image.attrs["RepoDigests"]
    assert seen
    done, total = seen[-1]
    assert done == total >= LAYER_BYTES
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_what_is_here_is_not_fetched_again_unless_always(client: Any, registry: Registry) -> None:
    reference = f"{registry.host}/tiny:good"
    image_of(client, reference, "missing")
    registry.fetched.clear()
    image_of(client, reference, "missing")
    image_of(client, reference, "never")
    assert registry.fetched == []
    image_of(client, reference, "always")
    assert "manifests" in registry.fetched


def test_another_platforms_image_is_refused_before_a_byte_of_it_is_fetched(client: Any, registry: Registry) -> None:
    reference = f"{registry.host}/tiny:other"
    with pytest.raises(EnvironmentFailure, match=r"expected an image for linux/\w+, found linux/\w+") as refused:
        image_of(client, reference, "missing")
    assert "made for this platform" in refused.value.remedy
    assert all(size < LAYER_BYTES for size in registry.sent)
    with pytest.raises(EnvironmentFailure, match="made for this platform"):
        require_offered(client, reference)


def test_where_the_registry_does_not_say_the_platform_the_image_does(client: Any, registry: Registry) -> None:
    """An engine of 2020 reads no platform off an OCI manifest that stands alone."""
    with pytest.raises(EnvironmentFailure, match=r"expected an image for linux/\w+, found linux/\w+"):
        image_of(client, f"{registry.host}/tiny:other-oci", "missing")


def test_each_refusal_has_its_own_words_and_remedy(client: Any, registry: Registry) -> None:
    def said(reference: str, pull: str = "missing") -> PipelineError:
        with pytest.raises(PipelineError) as refused:
            image_of(client, reference, pull)
        return refused.value

    missing = said(f"{registry.host}/tiny:none")
    registry.denied = True
    private = said(f"{registry.host}/tiny:private")
    unreachable = said("127.0.0.1:1/nothing:0")  # port 1 of loopback is no registry, wherever this runs
    misnamed = said("No Such Name")
    never = said(f"{registry.host}/tiny:none", "never")

    assert "none: manifest unknown" in missing.found
    assert "check the name and the tag" in missing.remedy
    assert f"docker login {registry.host}" in private.remedy
    assert "no answer from its registry" in unreachable.found
    assert "docker load" in unreachable.remedy
    assert isinstance(misnamed, UsageError)
    assert f"docker pull {registry.host}/tiny:none" in never.remedy
    assert {error.exit_code for error in (missing, private, unreachable, never)} == {4}
    assert len({error.remedy for error in (missing, private, unreachable, never, misnamed)}) == 5


def test_a_mirror_may_have_what_the_registry_does_not_say(
    client: Any, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine asks its mirrors when it pulls, not when it is asked about an image."""
    import docker.errors

    def out_of_reach(*_: object) -> None:
        raise docker.errors.APIError("dial tcp: i/o timeout")

    monkeypatch.setattr("docker.models.images.ImageCollection.get_registry_data", out_of_reach)
    assert image_of(client, f"{registry.host}/tiny:good", "missing")
