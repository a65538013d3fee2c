"""The memory that processes started here may take: the machine's, or less where a container or a service limits it.

Sources: proc_meminfo(5), cgroups(7), and the kernel's admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Memory:
    """Bytes in all, and bytes that are free or can be freed."""

    total: int
    available: int


@dataclass(frozen=True)
class _Files:
    """Names of the files of a memory cgroup; `cache` is the line of memory.stat for what can be freed at once."""

    limit: str
    used: str
    cache: str


_V2 = _Files("memory.max", "memory.current", "inactive_file")
_V1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def memory(proc: Path = Path("/proc"), mount: Path = Path("/sys/fs/cgroup")) -> Memory:
    """Return the memory of this process's tightest limit. Without cgroups, it is the machine's."""
    facts = dict(line.split(":", 1) for line in (proc / "meminfo").read_text().splitlines())
    total, available = (int(facts[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    for group, files in _groups(proc, mount):
        try:
            limit = int((group / files.limit).read_text())
            used = int((group / files.used).read_text())
            stat = dict(line.split(" ", 1) for line in (group / "memory.stat").read_text().splitlines())
            free = limit - used + int(stat.get(files.cache, 0))
        except (OSError, ValueError):  # no such group here, or `max`: no limit
            continue
        total, available = min(total, limit), min(available, max(free, 0))
    return Memory(total, available)


def _groups(proc: Path, mount: Path) -> Iterator[tuple[Path, _Files]]:
    """Yield this process's memory cgroups and those around them, up to the root that is mounted here."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            root, files = mount, _V2
        elif "memory" in controllers.split(","):
            root, files = mount / "memory", _V1
        else:
            continue
        # In a container without a cgroup namespace, the path is the host's: its own group is the root of the mount.
        group = root / path.strip("/")
        while group != root:
            yield group, files
            group = group.parent
        yield root, files
