"""Whose container it is: labels that tell a container of a live process from one whose owner was killed.

The labels are given with the creation of the container, so that there is no moment in which it is nobody's.
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
_HOST_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO of linux/proc_ns.h, the same at every boot


def owner() -> dict[str, str]:
    """This process, told apart from a later one with its number, and from one in another container or boot."""
    return {PID: str(os.getpid()), PID_START: _start_ticks(os.getpid()) or "", PID_SPACE: _pid_space() or ""}


def abandoned(client: Any, *, remote: bool = False) -> Iterator[Any]:
    """The containers whose owning process is dead, on this host; of a `remote` engine others may be the owners too."""
    for container in client.containers.list(all=True, filters={"label": PID}, ignore_removed=True):
        if owner_is_dead(container.labels, remote=remote):
            yield container


def reap(client: Any, *, remote: bool = False) -> tuple[str, ...]:
    """Remove the containers whose owning process is dead, never one of a live process; the ids of those removed."""
    import docker.errors

    reaped = []
    for container in abandoned(client, remote=remote):
        with contextlib.suppress(docker.errors.NotFound):
            remove(container)
            reaped.append(str(container.id))
    return tuple(reaped)


def remove(container: Any) -> None:
    """Remove, whatever it does, with its anonymous volumes; another's removal, under way or done, is as good."""
    import docker.errors

    try:
        container.remove(force=True, v=True)
    except docker.errors.NotFound:
        pass
    except docker.errors.APIError as error:
        if error.status_code != 409 or "already in progress" not in str(error.explanation):
            raise


def owner_is_dead(labels: dict[str, str], *, remote: bool = False) -> bool:
    """True only where it is certain: an owner that cannot be seen from here is taken for alive."""
    space = _pid_space()
    if space is None or not labels.get(PID_SPACE) or not labels[PID].isdigit():
        return False
    if labels[PID_SPACE] == space:
        return _start_ticks(int(labels[PID])) != labels.get(PID_START)
    if remote:  # another boot may be another host's
        return False
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
