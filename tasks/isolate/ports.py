"""Free TCP ports of this host, each handed out once."""

from __future__ import annotations

import random
import socket
from collections import deque
from collections.abc import Iterable
from pathlib import Path

from tasks.errors import EnvironmentFailure

_claims: deque[socket.socket] = deque(maxlen=64)  # on the ports handed out last


def free_ports(count: int, candidates: Iterable[int] | None = None) -> tuple[int, ...]:
    """Return `count` different unused TCP ports of 127.0.0.1 that no other tfship process of this host was given.

    `candidates` are tried in order, 0 being a port of the kernel's choice; None: ports below the kernel's ephemeral
    range, then those of its choice.

    A server opens its ports long after they were chosen. Until then each is reserved by a name in Linux's abstract
    socket namespace, which the kernel frees with this process.

    Raises:
        EnvironmentFailure: not enough ports were found.
    """
    held: list[socket.socket] = []
    found: dict[int, socket.socket] = {}
    try:
        for candidate in _candidates() if candidates is None else candidates:
            bound, claim = socket.socket(), socket.socket(socket.AF_UNIX)
            held.append(bound)
            try:
                bound.bind(("127.0.0.1", candidate))
                port = int(bound.getsockname()[1])
                claim.bind(f"\0tfship-port-{port}")
            except OSError:
                claim.close()
                continue
            found[port] = claim
            if len(found) == count:
                _claims.extend(found.values())
                return tuple(found)
    finally:
        for one in held:
            one.close()
    raise EnvironmentFailure(
        "127.0.0.1",
        f"{count} free TCP ports",
        "every port that was tried in use",
        "end the programs that hold the ports (`ss -ltnp` lists them), then run again.",
    )


def listening(port: int) -> bool:
    """Tell whether something accepts connections on `port` of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=0.1).close()
    except OSError:
        return False
    return True


def _candidates() -> list[int]:
    """Return ports to try: first those below the kernel's ephemeral range, then any."""
    try:
        low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        low = 0
    below = random.sample(range(low - 12_000, low), 200) if low > 14_000 else []
    return [*below, *([0] * 50)]
