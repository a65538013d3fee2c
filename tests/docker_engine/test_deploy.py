"""The deployment files refer to what exists, build, and run: read without an engine, then tried with one.

TFSHIP_DOCKER=1   build the worker on a local base, run the pipeline in it, bring the whole composition up;
                  no engine and no docker-compose are then failures, not skips (CI sets it)
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSE_FILE = ROOT / "deploy/compose.yaml"
DOCKERFILE = ROOT / "deploy/worker/Dockerfile"
# compose-spec, 05-services.md: the keys in use here. Another one has to be looked up before it is added.
SERVICE_KEYS = {
    "build",
    "cap_drop",
    "command",
    "depends_on",
    "environment",
    "healthcheck",
    "image",
    "init",
    "mem_limit",
}
SERVICE_KEYS |= {"ports", "read_only", "restart", "security_opt", "stop_grace_period", "tmpfs", "user", "volumes"}
HEALTH_KEYS = {"test", "interval", "timeout", "retries", "start_period"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The file as it stands, its variables unread."""
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE_FILE.read_text())
    return loaded


# Read ---------------------------------------------------------------------------------------------------------------


def test_only_keys_of_the_compose_specification_are_used(compose: dict[str, Any]) -> None:
    assert {key for key in compose if not key.startswith("x-")} == {"services", "volumes"}
    for name, service in compose["services"].items():
        assert set(service) <= SERVICE_KEYS, name
        assert set(service["healthcheck"]) <= HEALTH_KEYS, name
        for needed, how in (dict.fromkeys(service.get("depends_on", [])) | _mapping(service)).items():
            assert needed in compose["services"], f"{name} depends on {needed}"
            if how:
                assert how["condition"] != "service_healthy" or "healthcheck" in compose["services"][needed]


def _mapping(service: dict[str, Any]) -> dict[str, Any]:
    depends_on = service.get("depends_on", {})
    return depends_on if isinstance(depends_on, dict) else {}


def test_every_port_is_published_on_loopback_only(compose: dict[str, Any]) -> None:
    published = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert len(published) == 3
    assert all(re.fullmatch(r"127\.0\.0\.1:\$\{\w+:-\d+\}:\d+", port) for port in published)


def test_every_volume_is_declared_and_used(compose: dict[str, Any]) -> None:
    used = {mount.split(":")[0] for service in compose["services"].values() for mount in service["volumes"]}
    assert used == set(compose["volumes"])
    made = re.search(r"mkdir -p (.*)", DOCKERFILE.read_text())
    assert made is not None
    for mount in [*compose["services"]["worker"]["volumes"], *compose["services"]["prefect"]["volumes"]]:
        assert mount.split(":")[1] in made[1].split(), "a volume takes its owner from the image's folder"


def test_every_variable_is_explained_at_the_top_and_no_other(compose: dict[str, Any]) -> None:
    text = COMPOSE_FILE.read_text()
    header = text[: text.index("x-worker")]
    assert set(re.findall(r"\$\{(\w+)", text)) == set(re.findall(r"\b[A-Z]+_[A-Z]+\b", header))
    assert all(":-" in found for found in re.findall(r"\$\{[^}]*\}", text)), "every variable has a default"


def test_no_image_floats(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert re.fullmatch(r"\$\{\w+:-[\w./-]+:[\w.-]+\}", service["image"])
        assert ":latest" not in service["image"]


def test_the_workers_build_names_what_exists(compose: dict[str, Any]) -> None:
    build = compose["services"]["worker"]["build"]
    assert (COMPOSE_FILE.parent / build["context"]).resolve() == ROOT
    assert ROOT / build["dockerfile"] == DOCKERFILE
    dockerfile = DOCKERFILE.read_text()
    assert f"ARG BASE={build['args']['BASE'].partition(':-')[2].rstrip('}')}\n" in dockerfile
    copied = [path for line in re.findall(r"^COPY (.+) \S+$", dockerfile, re.MULTILINE) for path in line.split()]
    assert [path for path in copied if not (ROOT / path).exists()] == []
    kept = re.findall(r"^!(.+)$", DOCKERFILE.with_name("Dockerfile.dockerignore").read_text(), re.MULTILINE)
    assert set(kept) == set(copied), "the build context holds what is copied, and nothing else"


def test_the_worker_runs_as_nobody_in_particular() -> None:
    users = re.findall(r"^USER (.+)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert users[-1:] == ["10001:10001"]


# Try ----------------------------------------------------------------------------------------------------------------


def made(image: str) -> str:
    """The name of a local image, made or found made."""
    run = subprocess.run(
        [sys.executable, str(ROOT / "tests/docker_engine/images.py"), image],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-6000:]
    return run.stdout.split()[-1]


@pytest.fixture(scope="module")
def worker_image() -> str:
    """deploy/worker/Dockerfile, built."""
    return made("worker")


@pytest.fixture
def composed(worker_image: str) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Runs docker-compose commands on the file, in a project of its own that is taken down at the end."""
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
    program = ["docker", "compose"] if plugin else ["docker-compose"]
    assert plugin or shutil.which("docker-compose"), "install docker-compose (Debian: apt-get install docker-compose)"
    project = f"tfshiptest{uuid.uuid4().hex[:8]}"
    ports = [str(port) for port in free_ports(3)]
    environment = {
        **os.environ,
        **dict(zip(("PREFECT_PORT", "GRPC_PORT", "REST_PORT"), ports, strict=True)),
        "WORKER_IMAGE": worker_image,
        "SERVING_IMAGE": made("serving"),
    }

    def run(*words: str, deadline: float = 240) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*program, "--project-name", project, "--file", str(COMPOSE_FILE), *words],
            env=environment,
            capture_output=True,
            text=True,
            timeout=deadline,
            check=False,
        )

    yield run
    run("down", "--volumes", "--timeout", "10")


@pytest.mark.engine
def test_docker_compose_accepts_the_file(composed: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    configured = composed("config")
    assert configured.returncode == 0, configured.stderr
    assert set(yaml.safe_load(configured.stdout)["services"]) == {"prefect", "worker", "serving"}


@pytest.mark.engine
def test_the_pipeline_runs_inside_the_workers_image(worker_image: str) -> None:
    """As the user of the image, without network, with nothing of this checkout in reach."""
    command = ["docker", "run", "--rm", "--init", "--network=none", "--cap-drop=ALL", worker_image]
    command += ["tfship", "run", "half_plus_two", "--no-server", "--runtime", "embedded", "--json"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-6000:]
    report = json.loads(run.stdout)
    assert report["smoke"]["passed"]
    assert report["promotion"]["version"] == 1


@pytest.mark.engine
def test_what_the_worker_promotes_is_served_beside_it(
    composed: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    up = composed("up", "--detach", "--no-build")
    assert up.returncode == 0, up.stderr
    ran = composed("exec", "-T", "worker", "tfship", "run", "half_plus_two", "--no-server", "--runtime", "embedded")
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-6000:]
    address = composed("port", "serving", "8501").stdout.strip()
    assert address.startswith("127.0.0.1:")

    until = time.monotonic() + 60
    answer: Any = None
    while time.monotonic() < until and not (isinstance(answer, dict) and "predictions" in answer):
        try:
            answer = httpx.post(
                f"http://{address}/v1/models/half_plus_two:predict", json={"instances": [1.0, 2.0]}, timeout=5
            ).json()
        except httpx.HTTPError as error:
            answer = error
            time.sleep(0.2)
    assert answer == {"predictions": [2.5, 3.0]}, composed("logs", "serving").stdout[-3000:]

    states = composed("ps").stdout
    assert "unhealthy" not in states, states
    pools = httpx.post(f"http://{composed('port', 'prefect', '4200').stdout.strip()}/api/work_pools/filter", json={})
    assert [pool["name"] for pool in pools.json()] == ["tfship"], "the worker has found its server"


def free_ports(count: int) -> list[int]:
    """Ports of loopback that are free now."""
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in held]
    for one in held:
        one.close()
    return ports
