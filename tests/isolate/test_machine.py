"""The memory of a machine, and of a container with less."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tasks.isolate.machine import Memory, memory

MIB = 2**20
MACHINE = Memory(total=8 * 1024 * MIB, available=6 * 1024 * MIB)


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text(
        f"MemTotal: {MACHINE.total // 1024} kB\nMemFree: 1 kB\nMemAvailable: {MACHINE.available // 1024} kB\n"
    )
    return tmp_path / "proc"


def write(group: Path, names: tuple[str, str], limit: object, used: int, stat: str) -> None:
    group.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (limit, used), strict=True):
        (group / name).write_text(f"{value}\n")
    (group / "memory.stat").write_text(stat)


V2 = ("memory.max", "memory.current")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")


def test_a_machine_without_cgroups_has_its_own(proc: Path, tmp_path: Path) -> None:
    assert memory(proc, tmp_path / "none") == MACHINE
    (proc / "self" / "cgroup").write_text("0::/\n")
    assert memory(proc, tmp_path / "none") == MACHINE


def test_the_tightest_of_the_groups_around_a_process_counts(proc: Path, tmp_path: Path) -> None:
    mount = tmp_path / "cgroup"
    (proc / "self" / "cgroup").write_text("0::/service/worker\n")
    write(mount / "service" / "worker", V2, "max", 900 * MIB, "anon 1\ninactive_file 0\n")
    assert memory(proc, mount) == MACHINE
    write(mount / "service", V2, 1024 * MIB, 900 * MIB, f"anon 1\ninactive_file {100 * MIB}\n")
    assert memory(proc, mount) == Memory(1024 * MIB, 224 * MIB)
    write(mount / "service" / "worker", V2, 512 * MIB, 600 * MIB, "inactive_file 0\n")
    assert memory(proc, mount) == Memory(512 * MIB, 0)


def test_a_container_that_sees_the_hosts_path_has_its_group_at_the_root(proc: Path, tmp_path: Path) -> None:
    mount = tmp_path / "cgroup"
    (proc / "self" / "cgroup").write_text("4:memory:/docker/0123\n2:cpu,cpuacct:/docker/0123\n0::/docker/0123\n")
    write(mount / "memory", V1, 2048 * MIB, 1024 * MIB, f"total_inactive_file {MIB}\n")
    assert memory(proc, mount) == Memory(2048 * MIB, 1025 * MIB)
    write(mount / "memory", V1, 2**63 - 4096, 1024 * MIB, "total_inactive_file 0\n")  # version 1 has no word for none
    assert memory(proc, mount) == MACHINE


def test_this_machines_own_memory_is_known() -> None:
    here = memory()
    assert 0 < here.available <= here.total <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
