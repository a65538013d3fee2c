"""TensorFlow Serving in a Docker container: the real server, wherever a Docker engine answers on this host.

The container gets what a model server needs and nothing else: the base path read-only, two ports on 127.0.0.1 that
the engine chooses, no capabilities, no root, no writable root file system, limits. It is always removed: by `stop`,
or, when its owner was killed before that, by the next `start`, which reaps.

How tensorflow/serving is driven (MODEL_NAME, /models, 8500 and 8501, flags after the entry point) is written down in
tensorflow_serving/tools/docker/Dockerfile. The SDK is imported inside functions, because it costs time.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tasks.records.base import Record
from tasks.records.serving import Endpoint, Exit, RuntimeIdentity
from tasks.serving.docker_engine import connect, digest_of, failures, image_of, tag_of

GRPC_PORT, REST_PORT = "8500/tcp", "8501/tcp"
RUN, STEP, PID, PID_START, PID_SPACE = (
    f"tfship.{name}" for name in ("run-id", "step", "pid", "pid-start", "pid-namespace")
)
STAND_IN_LABEL = "tfship.stand-in"
VERSION_LABELS = ("tensorflow_serving_github_branchtag", "org.opencontainers.image.version")
LOG_BYTES = 256 * 1024
STOP_SECONDS = 10
NOBODY = "65534:65534"
_HOST_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO of linux/proc_ns.h, the same at every boot


class DockerParameters(Record):
    """What to run, and what it may use. `memory_bytes`, `cpus` and `pids` limit the container; None is no limit.

    `pull` says when the image is fetched. `user` is `uid:gid`; by default the caller, or nobody where that is root.
    `host` is the engine's address; by default DOCKER_HOST, else the docker context, as the docker command has it.
    """

    image: str
    run_id: str
    step: str = "smoke_test"
    pull: Literal["missing", "always", "never"] = "missing"
    flags: tuple[str, ...] = ()
    environment: dict[str, str] = Field(default_factory=dict)
    memory_bytes: int | None = None
    cpus: float | None = None
    pids: int | None = 1024
    user: str | None = None
    host: str | None = None


class DockerRuntime:
    """One container of `parameters.image`; see `ServingRuntime` for what is promised."""

    def __init__(self, parameters: DockerParameters) -> None:
        self.parameters = parameters
        self._client: Any = None
        self._container: Any = None
        self._identity: RuntimeIdentity | None = None
        self._image_id = ""
        self._begun = False
        self._exit: Exit | None = None
        self._log = ""
        self._notes: list[str] = []

    @property
    def identity(self) -> RuntimeIdentity:
        """The image by its registry digest, or by its id where it never was in a registry. May pull."""
        if self._identity is None:
            image = image_of(self._engine(), self.parameters.image, self.parameters.pull)
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

    def start(self, name: str, base_path: Path, *, deadline: float) -> Endpoint:
        """Create and start the container, from exactly the image that `identity` named.

        A server that has ended already has no ports any more: the endpoint then has port 0, where nothing listens.
        """
        if self._begun:
            raise RuntimeError("a runtime starts once")
        self._begun = True
        self.identity  # resolves the image, or says why it cannot
        engine = self._engine()
        engine.api.timeout = max(1.0, deadline)
        try:
            with failures(f"starting {self.parameters.image}"):
                reap(engine)
                self._container = self._create(engine, name, base_path.resolve())
                self._container.start()
                self._container.reload()
        except BaseException:
            self.stop()
            raise
        published = self._container.attrs["NetworkSettings"]["Ports"] or {}
        grpc, rest = (_host_port(published.get(port)) for port in (GRPC_PORT, REST_PORT))
        return Endpoint(grpc=f"127.0.0.1:{grpc}", rest=f"http://127.0.0.1:{rest}")

    def logs(self) -> str:
        """What the container wrote; before that, what the engine could not do."""
        if self._container is not None:
            import docker.errors

            with contextlib.suppress(docker.errors.NotFound):  # removed by somebody else: what was read last stays
                raw = self._container.logs(stdout=True, stderr=True)[-LOG_BYTES:]
                self._log = raw.decode("utf-8", errors="replace")
        return "".join([*(f"tfship: {note}\n" for note in self._notes), self._log])[-LOG_BYTES:]

    def exited(self) -> Exit | None:
        """How it ended. Docker reports a death by signal N as 128+N; a container removed by others counts as killed."""
        if self._container is not None and self._exit is None:
            import docker.errors

            try:
                self._container.reload()
            except docker.errors.NotFound:
                self._notes.append("the container was removed by somebody else")
                self._exit = Exit(code=-9)
                return self._exit
            state = self._container.attrs["State"]
            if state["Status"] in ("exited", "dead"):
                code = int(state["ExitCode"])
                self._exit = Exit(code=128 - code if 128 < code <= 128 + 64 else code, oom_killed=state["OOMKilled"])
        return self._exit

    def memory(self) -> int | None:
        """Anonymous and mapped file pages of the container's cgroup, in bytes."""
        if self._container is None:
            return None
        import docker.errors

        try:
            usage = self._container.stats(stream=False, one_shot=True).get("memory_stats", {})
        except docker.errors.APIError:
            return None
        counters = usage.get("stats") or {}
        for anonymous, mapped in (("anon", "file_mapped"), ("total_rss", "total_mapped_file")):  # cgroup 2, cgroup 1
            if anonymous in counters:
                return int(counters[anonymous]) + int(counters.get(mapped, 0))
        return int(usage["usage"]) if "usage" in usage else None

    def stop(self) -> None:
        """Kill and remove the container; its log and its end stay readable here.

        Raises:
            EnvironmentFailure: the engine did not remove it; the message names the container.
        """
        container = self._container
        if container is not None:
            import docker.errors

            container.client.api.timeout = STOP_SECONDS
            with failures(f"removing container {container.short_id}"):
                try:
                    with contextlib.suppress(docker.errors.APIError):  # not running any more, or never was
                        container.kill()
                        container.wait(timeout=STOP_SECONDS)
                    self.exited()
                    self.logs()
                finally:
                    _remove(container)
            self._container = None
        if self._client is not None:
            self._client.close()
            self._client = None

    def _engine(self) -> Any:
        if self._client is None:
            self._client = connect(self.parameters.host)
        return self._client

    def _create(self, engine: Any, name: str, base_path: Path) -> Any:
        """Create the container; labels come with it, so that there is no moment in which it is nobody's."""
        from docker.types import LogConfig, Mount, Ulimit

        own = f"{os.getuid()}:{os.getgid()}" if os.getuid() else NOBODY
        return engine.containers.create(
            self._image_id,
            command=["--max_num_load_retries=0", *self.parameters.flags],
            environment={**self.parameters.environment, "MODEL_NAME": name, "MODEL_BASE_PATH": "/models"},
            mounts=[Mount(f"/models/{name}", str(base_path), type="bind", read_only=True)],
            ports=dict.fromkeys((GRPC_PORT, REST_PORT), ("127.0.0.1", None)),
            labels={RUN: self.parameters.run_id, STEP: self.parameters.step, **_owner()},
            user=self.parameters.user or own,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges:true"],
            read_only=True,
            tmpfs={"/tmp": "rw,nosuid,nodev,size=256m,mode=1777"},  # noqa: S108  # the container's own
            init=True,  # as process 1, TensorFlow Serving ignores SIGTERM
            ulimits=[Ulimit(name="core", soft=0, hard=0)],
            log_config=LogConfig(type="json-file", config={"max-size": "1m", "max-file": "2"}),
            detach=True,
            **self._limits(engine.info()),
        )

    def _limits(self, host: dict[str, Any]) -> dict[str, Any]:
        """The limits that this engine can hold; one that it cannot is named in the log."""
        asked: list[tuple[str, bool, dict[str, Any]]] = []
        if self.parameters.memory_bytes:
            swap = {"memswap_limit": self.parameters.memory_bytes} if host.get("SwapLimit") else {}
            limit = {"mem_limit": self.parameters.memory_bytes, **swap}
            asked.append(("memory", bool(host.get("MemoryLimit")), limit))
        if self.parameters.cpus:
            cpus = min(self.parameters.cpus, float(host.get("NCPU") or self.parameters.cpus))
            if cpus < self.parameters.cpus:
                self._notes.append(f"the engine has {cpus:g} CPUs, fewer than the {self.parameters.cpus:g} asked for")
            asked.append(("CPU", bool(host.get("CpuCfsQuota")), {"nano_cpus": int(cpus * 1e9)}))
        if self.parameters.pids:
            asked.append(("process", bool(host.get("PidsLimit")), {"pids_limit": self.parameters.pids}))
        limits: dict[str, Any] = {}
        for what, possible, arguments in asked:
            if possible:
                limits |= arguments
            else:
                self._notes.append(f"this engine cannot hold a {what} limit (no such cgroup): it runs without")
        return limits


def reap(client: Any) -> tuple[str, ...]:
    """Remove the containers whose owning process is dead, never one of a live process; the ids of those removed."""
    import docker.errors

    reaped = []
    for container in client.containers.list(all=True, filters={"label": PID}, ignore_removed=True):
        if _owner_is_dead(container.labels):
            with contextlib.suppress(docker.errors.NotFound):
                _remove(container)
                reaped.append(str(container.id))
    return tuple(reaped)


def _host_port(bindings: list[dict[str, str]] | None) -> int:
    return int(bindings[0]["HostPort"]) if bindings else 0


def _remove(container: Any) -> None:
    """Remove, whatever it does; another's removal, under way or done, is as good."""
    import docker.errors

    try:
        container.remove(force=True, v=True)
    except docker.errors.NotFound:
        pass
    except docker.errors.APIError as error:
        if error.status_code != 409 or "already in progress" not in str(error.explanation):
            raise


def _owner() -> dict[str, str]:
    """This process, told apart from a later one with its number, and from one in another container or boot."""
    return {PID: str(os.getpid()), PID_START: _start_ticks(os.getpid()) or "", PID_SPACE: _pid_space() or ""}


def _owner_is_dead(labels: dict[str, str]) -> bool:
    """True only where it is certain: an owner that cannot be seen from here is taken for alive."""
    space = _pid_space()
    if space is None or not labels.get(PID_SPACE) or not labels[PID].isdigit():
        return False
    if labels[PID_SPACE] == space:
        return _start_ticks(int(labels[PID])) != labels.get(PID_START)
    boot, _, namespace = labels[PID_SPACE].partition("/")
    here_boot, _, here = space.partition("/")
    return boot != here_boot and namespace == here == str(_HOST_PID_NAMESPACE)  # this host, before it was restarted


def _pid_space() -> str | None:
    """Where a process number means something: `<boot id>/<inode of the pid namespace>`, or None without /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return None


def _start_ticks(pid: int) -> str | None:
    """When process `pid` started, in clock ticks since boot (proc(5), field 22), or None if it is not running."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
