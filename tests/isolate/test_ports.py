"""A port is free, given to one server of this host at a time, and free again when the process it was given to has ended."""

from __future__ import annotations

from pathlib import Path

from tasks.isolate.ports import free_ports
from tests.artifacts.disk import exit_of, fork


def test_free_ports_are_free_different_and_not_the_kernels_to_give_away() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(port < low for port in ports)


def test_a_port_is_given_once_in_all_processes(tmp_path: Path) -> None:
    def choose() -> None:
        (tmp_path / "ports").write_text(" ".join(map(str, free_ports(8))))

    assert exit_of(fork(choose)) == 0
    candidates = [int(port) for port in (tmp_path / "ports").read_text().split()]
    assert free_ports(2, candidates) == tuple(candidates[:2])

    def other() -> None:
        assert free_ports(2, candidates) == tuple(candidates[2:4])

    assert exit_of(fork(other)) == 0
    assert free_ports(2, candidates) == tuple(candidates[2:4]), "what a process that ended was given is free"
