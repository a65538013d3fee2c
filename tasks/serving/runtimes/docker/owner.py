"""Labels that tell a container of a live process from one whose owner was killed.

The labels are set at the container's creation, so that it is never without an owner.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RUN, STEP, PID, PID_START, PID_SPACE = (
    f"tfship.{name}" for name in ("run-id", "step", "pid", "pid-start", "pid-namespace")
)
HOST_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO of linux/proc_ns.h, the same at every boot


def owner() -> dict[str, str]:
    """Return labels that identify this process, also after its pid is reused, or in another container or boot."""
    return {PID: str(os.getpid()), PID_START: _start_ticks(os.getpid()) or "", PID_SPACE: pid_space() or ""}


def abandoned(client: Any, *, remote: bool = False) -> Iterator[Any]:
    """Yield the containers whose owner, a process of this host, is dead; a `remote` engine has other hosts' too."""
    for container in client.containers.list(all=True, filters={"label": PID}, ignore_removed=True):
        if owner_is_dead(container.labels, remote=remote):
            yield container


def reap(client: Any, *, remote: bool = False) -> tuple[str, ...]:
    """Remove the containers whose owner is dead, never one of a live process; return the ids of those removed."""
    import docker.errors

    reaped = []
    for container in abandoned(client, remote=remote):
        with contextlib.suppress(docker.errors.NotFound):
            remove(container)
            reaped.append(str(container.id))
    return tuple(reaped)


def remove(container: Any) -> None:
    """Remove a container, running or not, with its anonymous volumes, unless another process has or does."""
    import docker.errors

    try:
        container.remove(force=True, v=True)
    except docker.errors.NotFound:
        pass
    except docker.errors.APIError as error:
        if error.status_code != 409 or "already in progress" not in str(error.explanation):
            raise


def owner_is_dead(labels: dict[str, str], *, remote: bool = False) -> bool:
    """Tell whether the owner is certainly dead: one that cannot be seen from here counts as alive."""
    space = pid_space()
    if space is None or not labels.get(PID_SPACE) or not labels[PID].isdigit():
        return False
    if labels[PID_SPACE] == space:
        return _start_ticks(int(labels[PID])) != labels.get(PID_START)
    if remote:  # another boot may be another host's
        return False
    boot, _, namespace = labels[PID_SPACE].partition("/")
    here_boot, _, here = space.partition("/")
    return boot != here_boot and namespace == here == str(HOST_PID_NAMESPACE)  # this host, before it was restarted


def pid_space() -> str | None:
    """Return where a pid is valid, `<boot id>/<inode of the pid namespace>`, or None without /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return None


def _start_ticks(pid: int) -> str | None:
    """Return the start of process `pid` in clock ticks since boot (proc(5), field 22), or None if it is not running."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
