"""Ports are free, and each is given to one server of this host."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.isolate import ports
from tasks.isolate.ports import free_ports
from tests.artifacts.disk import exit_of, fork


def test_free_ports_are_free_different_and_not_the_kernels_to_give_away() -> None:
    found = free_ports(20)
    assert len(set(found)) == 20
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(port < low for port in found)


def test_a_port_is_given_once_in_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = list(free_ports(8))
    monkeypatch.setattr(ports, "_candidates", lambda: candidates)
    ports._claims.clear()
    assert free_ports(2) == tuple(candidates[:2])

    def other() -> None:
        assert free_ports(2) == tuple(candidates[2:4])

    assert exit_of(fork(other)) == 0
    assert free_ports(2) == tuple(candidates[2:4]), "what a process that ended was given is free"
