"""`tfship doctor`: checks this host with the functions that a run itself calls."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import typer

from flows.cli import termination
from flows.cli.options import Options, command
from flows.config import PipelineConfig
from tasks.errors import EnvironmentFailure, ExitCode, PipelineError
from tasks.isolate import memory
from tasks.presentation.terminal import cell, console, say
from tasks.records.base import Record
from tasks.records.settings import RuntimeChoice, Serving

FREE_BYTES = 2 * 2**30
MEMORY_BYTES = 2 * 2**30  # TensorFlow twice: the step, and the server under test
START_SECONDS = 60


class Finding(Record):
    """The result of one check. `unused` means failed but not needed, because another runtime is used instead."""

    check: str
    found: str
    verdict: Literal["ok", "unused", "failed"]
    remedy: str = ""


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "doctor", doctor)


def doctor(options: Options) -> int:
    """Check everything that a run needs on this host, and say how to fix what is missing."""
    settings = options.settings()
    findings = list(checks(settings))
    failed = any(finding.verdict == "failed" for finding in findings)
    if options["as_json"]:
        import json

        termination.show(json.dumps({"passed": not failed, "checks": [one.model_dump() for one in findings]}, indent=1))
    else:
        _show(findings)
    return ExitCode.ENVIRONMENT if failed else ExitCode.DONE


def checks(settings: PipelineConfig) -> Iterator[Finding]:
    """Yield the result of each check, one after the other."""
    yield _looked("python", _python)
    yield _looked("tensorflow", _tensorflow)
    yield _looked("memory and cores", _machine)
    yield _looked("store", lambda: _writable(settings.store, "--store"))
    yield _looked("serving root", lambda: _writable(settings.serving_root, "--serving-root"))
    yield _looked("prefect", _prefect)
    images = settings.images or (settings.serving.image,)  # those of `images`, else the one of `serving`, else none
    serving = settings.serving.model_copy(update={"image": images[0]})
    if serving.runtime in (RuntimeChoice.AUTO, RuntimeChoice.DOCKER):
        yield from _docker(serving, images)
    if serving.runtime is not RuntimeChoice.DOCKER:
        yield _looked("runtime", lambda: _chosen(serving))
    if serving.runtime is RuntimeChoice.EMBEDDED or (serving.runtime is RuntimeChoice.AUTO and not serving.image):
        yield _looked("embedded server", _embedded)


def _looked(check: str, look: Callable[[], str], otherwise: Literal["failed", "unused"] = "failed") -> Finding:
    try:
        return Finding(check=check, found=look(), verdict="ok")
    except OSError as error:
        failure: PipelineError = EnvironmentFailure.from_os(error, check)
    except PipelineError as error:
        failure = error
    return Finding(check=check, found=f"{failure.where}: {failure.found}", verdict=otherwise, remedy=failure.remedy)


def _python() -> str:
    from packaging.specifiers import SpecifierSet

    needed = importlib.metadata.metadata("tfship")["Requires-Python"]
    if platform.python_version() not in SpecifierSet(needed):
        remedy = "make an environment with such a Python, and install tfship there."
        raise EnvironmentFailure(sys.executable, f"Python {needed}", platform.python_version(), remedy)
    return f"{platform.python_version()} ({platform.system()} {platform.machine()})"


def _tensorflow() -> str:
    """Require TensorFlow and its serving client, of one minor version: their protos may differ otherwise."""
    versions = {}
    for name in ("tensorflow", "tensorflow-serving-api"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            raise EnvironmentFailure(name, "an installed package", "none", f"pip install {name}.") from None
    found = ", ".join(f"{name} {version}" for name, version in versions.items())
    if len({tuple(version.split(".")[:2]) for version in versions.values()}) > 1:
        remedy = f"pip install 'tensorflow-serving-api=={versions['tensorflow']}'."
        raise EnvironmentFailure(
            "tensorflow", "tensorflow and tensorflow-serving-api of one minor version", found, remedy
        )
    return found


def _machine() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    here = memory()
    found = f"{_gigabytes(here.available)} of {_gigabytes(here.total)} free, {cores} cores"
    if here.available < MEMORY_BYTES:
        remedy = "end processes that use much memory, or take a larger machine, or give the container more."
        raise EnvironmentFailure("memory", f"{_gigabytes(MEMORY_BYTES)} free", found, remedy)
    return found


def _writable(folder: Path, option: str) -> str:
    """Require that a folder can be written, or created: its nearest existing ancestor is tried. Creates nothing."""
    folder = folder.absolute()
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    with tempfile.TemporaryFile(dir=nearest):  # a folder may be writable by its mode, and its file system not
        pass
    free = shutil.disk_usage(nearest).free
    if free < FREE_BYTES:
        remedy = f"free some space there (`tfship gc` shows what can go), or choose another {option}."
        raise EnvironmentFailure(str(folder), f"{_gigabytes(FREE_BYTES)} free", _gigabytes(free), remedy)
    return f"{folder}, {_gigabytes(free)} free" + ("" if nearest == folder else ", will be made")


def _prefect() -> str:
    from flows import prefect_server

    prefect_server.settle(verbose=False)
    with termination.at_once():  # seconds
        from prefect.settings import get_current_settings
    url = get_current_settings().api.url
    if not url:
        return "no PREFECT_API_URL: a run starts a server of its own"
    with prefect_server.provided(needed=True, verbose=False):
        return f"{url} answers"


def _docker(serving: Serving, images: tuple[str | None, ...]) -> Iterator[Finding]:
    """Yield the checks of the engine, its images, limits and mounts. A failure counts where Docker or an image is required."""
    from tasks.serving.runtimes import choose
    from tasks.serving.runtimes.docker import container
    from tasks.serving.runtimes.docker import engine as docker_engine

    needed = serving.runtime is RuntimeChoice.DOCKER or serving.image is not None
    otherwise: Literal["failed", "unused"] = "failed" if needed else "unused"
    clients: list[Any] = []

    def engine() -> str:
        clients.append(docker_engine.connect())
        with docker_engine.failures("docker engine"):
            info, version = clients[0].info(), clients[0].version()
        kind = ", rootless" if docker_engine.is_rootless(info) else ""
        return f"{version['Version']} on {version['Os']}/{version['Arch']}{kind}"

    def limits() -> str:
        with docker_engine.failures("docker engine"):
            missing = docker_engine.impossible_limits(clients[0].info())
        if missing:
            remedy = "give it cgroups: a rootless engine needs cgroup 2 and systemd's Delegate=cpu memory pids."
            found = f"no limits of {', '.join(missing)}: containers run without them"
            raise EnvironmentFailure("docker engine", "limits of containers", found, remedy)
        return "memory, CPU and processes can be limited"

    def mounts() -> str:
        container.require_mounts(serving.mounts)
        return ", ".join(f"{folder} at {target}" for folder, target in serving.mounts.items())

    yield _looked("docker engine", engine, otherwise)
    if not clients:
        return
    with contextlib.closing(clients[0]):
        for image in images:
            reference = image or choose.default_image()
            check = f"docker image {reference}" if len(images) > 1 else "docker image"
            yield _looked(check, partial(look_at_image, clients[0], reference, serving), otherwise)
        yield _looked("docker limits", limits, "unused")  # a warning in the log of each server too
        if serving.mounts:
            yield _looked("docker mounts", mounts, otherwise)


def look_at_image(client: Any, reference: str, serving: Serving) -> str:
    """Return where an image would come from. Pulls nothing: queries the registry where a run would pull."""
    from tasks.serving.runtimes.docker import image as docker_image

    fetched = serving.runtime is RuntimeChoice.DOCKER and serving.pull != "never"
    if not fetched or (serving.pull == "missing" and docker_image.local(client, reference) is not None):
        image = docker_image.image_of(client, reference, "never")
        return f"{reference} is here, {docker_image.digest_of(image, reference)[:19]}"
    docker_image.require_offered(client, reference)
    return f"{reference} is offered by its registry; the first run fetches it"


def _chosen(serving: Serving) -> str:
    from tasks.serving.runtimes import choose

    identity = choose.choose(serving, "doctor").identity
    return f"{identity.runtime} {identity.version}" + (" (stand-in)" if identity.stand_in else "")


def _embedded() -> str:
    """Start the embedded server without a model, and wait until it answers."""
    import httpx

    from tasks.serving.runtimes.embedded import EmbeddedRuntime

    server = EmbeddedRuntime(flag_files={"model_config_file": "model_config_list {}"})
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as nothing:
        try:
            endpoint = server.start("doctor", Path(nothing), deadline=START_SECONDS)
            while server.exited() is None and time.monotonic() - started < START_SECONDS:
                with contextlib.suppress(httpx.HTTPError):
                    httpx.get(f"{endpoint.rest}/v1/models/doctor", timeout=5)
                    return f"answers {time.monotonic() - started:.1f} s after its start"
                time.sleep(0.1)
        finally:
            server.stop()
    last = (server.logs().strip().splitlines() or ["no output"])[-1]
    raise EnvironmentFailure("embedded server", "an answer", last[-200:], "see whether `tfship serve` says more.")


def _gigabytes(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def _show(findings: list[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    marks = {"ok": ("✓ ok", "green"), "unused": ("- unused", "yellow"), "failed": ("✗ failed", "red")}
    table = Table(box=None, pad_edge=False)
    for column in ("check", "found", "verdict", "remedy"):
        table.add_column(column, overflow="fold", no_wrap=column in ("check", "verdict"))
    for one in findings:
        words, color = marks[one.verdict]
        table.add_row(one.check, cell(one.found), Text(words, color), cell(one.remedy))
    console().print(table)
    failed = [one.check for one in findings if one.verdict == "failed"]
    say(f"\n{', '.join(failed)}: see the remedy" if failed else "\neverything that a run needs is here")
    say("next    tfship doctor" if failed else "next    tfship run")
