"""TensorFlow Serving in a Docker container: the real server, wherever a Docker engine answers.

The container (see `container.py`) is always removed: by `stop`, or, when its owner was killed before that, by the next
`start` of any run. The SDK is imported inside functions, because its import is slow.
"""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path
from typing import Any

from tasks.isolate.process import BoundProcess
from tasks.records.serving import Endpoint, Exit, RuntimeIdentity
from tasks.serving.runtimes.docker import address as docker_address
from tasks.serving.runtimes.docker import container as docker_container
from tasks.serving.runtimes.docker import owner
from tasks.serving.runtimes.docker.address import EngineAddress
from tasks.serving.runtimes.docker.container import GRPC_PORT, REST_PORT, DockerParameters
from tasks.serving.runtimes.docker.engine import connect, failures
from tasks.serving.runtimes.docker.image import Progress, digest_of, image_of, tag_of

__all__ = ["DockerParameters", "DockerRuntime"]

STAND_IN_LABEL = "tfship.stand-in"
VERSION_LABELS = ("tensorflow_serving_github_branchtag", "org.opencontainers.image.version")
LOG_BYTES = 256 * 1024
STOP_SECONDS = 10
_OOM_SECONDS = 0.5  # the engine may learn of the end before it learns that memory was the reason


class DockerRuntime:
    """A `ServingRuntime` that is one container of `parameters.image`.

    `progress` is called during a pull with the bytes downloaded and the total known so far.
    """

    def __init__(self, parameters: DockerParameters, progress: Progress | None = None) -> None:
        self.parameters = parameters
        self.progress = progress
        self._client: Any = None
        self._container: Any = None
        self._identity: RuntimeIdentity | None = None
        self._image_id = ""
        self._begun = False
        self._exit: Exit | None = None
        self._log = ""
        self._notes: list[str] = []
        self._tunnel: BoundProcess | None = None
        self._measured = True
        self._cpus: int | None = None

    @property
    def identity(self) -> RuntimeIdentity:
        """The image by its registry digest, or by its id if it was never in a registry. May pull."""
        if self._identity is None:
            image = image_of(self._engine(), self.parameters.image, self.parameters.pull, self.progress)
            self._image_id = str(image.id)
            version = next((image.labels[label] for label in VERSION_LABELS if label in image.labels), None)
            self._identity = RuntimeIdentity(
                runtime="docker",
                version=version or tag_of(self.parameters.image) or "unknown",
                stand_in=image.labels.get(STAND_IN_LABEL) == "true",
                image=self.parameters.image,
                image_digest=digest_of(image, self.parameters.image),
            )
        return self._identity

    @property
    def cpus(self) -> int | None:
        """See `ServingRuntime`; known once it is started."""
        return self._cpus

    def start(self, name: str, base_path: Path, *, deadline: float) -> Endpoint:
        """Create and start the container, from exactly the image of `identity`.

        A server that has ended already has no ports any more: the endpoint then has port 0, where nothing listens.

        Raises:
            UsageError: a mount's folder or its path in the container cannot be used.
        """
        if self._begun:
            raise RuntimeError("a runtime starts once")
        self._begun = True
        docker_container.require_mounts(self.parameters.mounts)
        self.identity  # resolves the image, or raises
        engine, address = self._engine(), docker_address.resolve(self.parameters.host)
        engine.api.timeout = max(1.0, deadline)
        try:
            with failures(f"starting {self.parameters.image}"):
                owner.reap(engine, remote=address.remote)
                made = docker_container.create(
                    engine, address, self.parameters, self._image_id, name, base_path.resolve()
                )
                self._container, notes = made
                self._notes += notes
                info = engine.info()
                self._measured = info.get("CgroupDriver") != "none"  # then stats are the engine's own
                self._cpus = info.get("NCPU")  # the quota of `cpus` is a time share, which a server does not see
                self._container.start()
                self._container.reload()
            return self._endpoint(address)
        except BaseException:
            self.stop()
            raise

    def logs(self) -> str:
        """Return the container's output, after notes on the limits that the engine could not enforce."""
        if self._container is not None:
            import docker.errors

            with contextlib.suppress(docker.errors.NotFound):  # removed by another process: keep what was read last
                raw = self._container.logs(stdout=True, stderr=True)[-LOG_BYTES:]
                self._log = raw.decode("utf-8", errors="replace")
        return "".join([*(f"tfship: {note}\n" for note in self._notes), self._log])[-LOG_BYTES:]

    def exited(self) -> Exit | None:
        """Return how the server ended, or None. A container that another process removed counts as killed.

        Docker reports an end by signal N as 128+N.
        """
        if self._container is not None and self._exit is None:
            import docker.errors

            try:
                self._container.reload()
                if self._container.attrs["State"]["ExitCode"] == 128 + signal.SIGKILL:
                    time.sleep(_OOM_SECONDS)
                    self._container.reload()
            except docker.errors.NotFound:
                self._notes.append("the container was removed by another process")
                self._exit = Exit(code=-9)
                return self._exit
            state = self._container.attrs["State"]
            if state["Status"] in ("exited", "dead"):
                code = int(state["ExitCode"])
                self._exit = Exit(code=128 - code if 128 < code <= 128 + 64 else code, oom_killed=state["OOMKilled"])
        return self._exit

    def memory(self) -> int | None:
        """Return the bytes of anonymous and mapped file pages of the container's cgroup, or None if it has none."""
        if self._container is None or not self._measured:
            return None
        import docker.errors

        try:
            usage = self._container.stats(stream=False, one_shot=True).get("memory_stats", {})
        except (docker.errors.APIError, OSError):  # the container has ended, or the engine is busy
            return None
        counters = usage.get("stats") or {}
        for anonymous, mapped in (("anon", "file_mapped"), ("total_rss", "total_mapped_file")):  # cgroup 2, cgroup 1
            if anonymous in counters:
                return int(counters[anonymous]) + int(counters.get(mapped, 0))
        return int(usage["usage"]) if "usage" in usage else None

    def stop(self) -> None:
        """Kill and remove the container; its log and exit stay readable.

        Raises:
            EnvironmentFailure: the engine did not remove it; the message names the container.
        """
        if self._tunnel is not None:
            self._tunnel.stop()
        container = self._container
        if container is not None:
            import docker.errors

            container.client.api.timeout = STOP_SECONDS
            with failures(f"removing container {container.short_id}"):
                try:
                    with contextlib.suppress(docker.errors.APIError):  # not running
                        container.kill()
                        container.wait(timeout=STOP_SECONDS)
                    self.exited()
                    self.logs()
                finally:
                    owner.remove(container)
            self._container = None
        if self._client is not None:
            self._client.close()
            self._client = None

    def _engine(self) -> Any:
        if self._client is None:
            self._client = connect(self.parameters.host)
        return self._client

    def _endpoint(self, address: EngineAddress) -> Endpoint:
        """Return the addresses of the published ports, as seen from this host."""
        published = self._container.attrs["NetworkSettings"]["Ports"] or {}
        grpc, rest = (_host_port(published.get(port)) for port in (GRPC_PORT, REST_PORT))
        if address.behind_ssh and grpc and rest:
            self._tunnel, (grpc, rest) = docker_address.forwarded(address.url, (grpc, rest))
        host = address.publishing_address()
        host = f"[{host}]" if ":" in host else host
        return Endpoint(grpc=f"{host}:{grpc}", rest=f"http://{host}:{rest}")


def _host_port(bindings: list[dict[str, str]] | None) -> int:
    return int(bindings[0]["HostPort"]) if bindings else 0
