"""Free TCP ports of this host, each given to one server."""

from __future__ import annotations

import random
import socket
from collections import deque
from collections.abc import Iterable
from pathlib import Path

from tasks.errors import EnvironmentFailure

_claims: deque[socket.socket] = deque(maxlen=64)  # on the ports that were given last


def free_ports(count: int, candidates: Iterable[int] | None = None) -> tuple[int, ...]:
    """TCP ports of 127.0.0.1 on which nobody listens now, all different, and given to no other tfship of this host.

    `candidates` are tried in their order, 0 being a port of the kernel's choice; None: ports that the kernel gives to
    nobody, then those of its choice.

    A server opens its ports long after they were chosen: until then a name in Linux's abstract socket namespace, which
    the kernel frees with its process, keeps each from everybody who chooses here.

    Raises:
        EnvironmentFailure: none was found.
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
        "every one that was tried in use",
        "end what takes so many ports (ss -ltnp names it), then run again.",
    )


def listening(port: int) -> bool:
    """Tell whether something accepts connections on `port` of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=0.1).close()
    except OSError:
        return False
    return True


def _candidates() -> list[int]:
    """Ports to try: first those that the kernel gives to nobody, then any."""
    try:
        low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        low = 0
    below = random.sample(range(low - 12_000, low), 200) if low > 14_000 else []
    return [*below, *([0] * 50)]
