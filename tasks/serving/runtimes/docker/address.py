"""Address of the Docker engine: a unix socket of this host, or a TCP port or ssh address of another host.

An engine behind ssh, and the ports that it publishes, are reached through `ssh -N -L` with the user's own ssh
configuration and keys: no other port has to be open on that host.
"""

from __future__ import annotations

import atexit
import shutil
import socket
import tempfile
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tasks.errors import EnvironmentFailure, UsageError
from tasks.isolate.ports import free_ports, listening
from tasks.isolate.process import BoundProcess

LOOPBACK = "127.0.0.1"
TUNNEL_SECONDS = 30
REMOTE_SOCKET = "/var/run/docker.sock"


@dataclass(frozen=True)
class EngineAddress:
    """An engine's URL as in DOCKER_HOST (unix://PATH, tcp://HOST:PORT, ssh://[USER@]HOST[:PORT]) and the SDK's `tls`."""

    url: str
    tls: Any = None

    @property
    def remote(self) -> bool:
        """Tell whether the engine may run on another host and not see this host's folders."""
        return not self.url.startswith("unix://")

    @property
    def behind_ssh(self) -> bool:
        """Tell whether the engine is reached through ssh."""
        return self.url.startswith("ssh://")

    def publishing_address(self) -> str:
        """Return the engine's own address on which a container's ports are published, so that they are reachable here.

        Raises:
            EnvironmentFailure: the name of its host does not resolve.
        """
        host = urlsplit(self.url).hostname
        if not self.remote or self.behind_ssh or host is None:
            return LOOPBACK
        try:
            return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
        except OSError as error:
            raise EnvironmentFailure(
                f"docker engine at {self.url}",
                f"an address of {host}",
                str(error),
                "correct the host in DOCKER_HOST, or unset it to use this host's engine.",
            ) from error


def resolve(host: str | None = None) -> EngineAddress:
    """Resolve the engine's address: `host`, else DOCKER_HOST, else the docker context, as the docker command does.

    Raises:
        UsageError: the URL's scheme is not supported.
    """
    from docker.context import ContextAPI
    from docker.utils import kwargs_from_env

    from_environment = kwargs_from_env()
    tls = from_environment.get("tls")
    url = host or from_environment.get("base_url")
    if url is None:
        context = ContextAPI.get_current_context()
        url = context.Host if context is not None else None
        tls = context.TLSConfig if context is not None else None
    url = str(url or "unix:///var/run/docker.sock").replace("http+unix://", "unix://").replace("http://", "tcp://")
    if urlsplit(url).scheme not in ("unix", "tcp", "ssh", "https"):
        remedy = "set DOCKER_HOST to one of these, or unset it to use this host's engine."
        raise UsageError("docker engine", "unix://PATH, tcp://HOST:PORT or ssh://USER@HOST", url, remedy)
    return EngineAddress(url, tls)


@lru_cache
def socket_of(url: str) -> str:
    """Forward a unix socket of this host to the engine at `ssh://…` until this process ends; return its URL.

    Raises:
        EnvironmentFailure: ssh failed; the message holds its output.
    """
    folder = tempfile.mkdtemp(prefix="tfship-ssh-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder, "docker.sock")
    _forward(url, f"{path}:{REMOTE_SOCKET}", path.exists)
    return f"unix://{path}"


def forwarded(url: str, ports: tuple[int, ...]) -> tuple[BoundProcess, tuple[int, ...]]:
    """Forward ports of this host to loopback ports of the engine's host; return the ssh process and the ports here."""
    here = free_ports(len(ports))
    forwards = [f"{LOOPBACK}:{own}:{LOOPBACK}:{port}" for own, port in zip(here, ports, strict=True)]
    return _forward(url, forwards[0], lambda: all(map(listening, here)), *forwards[1:]), here


def _forward(url: str, first: str, ready: Any, *more: str) -> BoundProcess:
    target = urlsplit(url)
    where, remedy = f"docker engine at {url}", "check that `ssh` connects without a password, or unset DOCKER_HOST."
    program = shutil.which("ssh")
    if program is None:
        remedy = "install an ssh client (Debian: openssh-client), or unset DOCKER_HOST."
        raise EnvironmentFailure(where, "the program ssh, which leads to it", "none on PATH", remedy)
    command = [program, "-N", "-T", "-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes"]
    command += [word for forward in (first, *more) for word in ("-L", forward)]
    command += ["-p", str(target.port)] if target.port else []
    user = [target.username] if target.username else []
    command.append("@".join([*user, target.hostname or ""]))
    try:
        tunnel = BoundProcess(command, Path(tempfile.gettempdir()))
    except OSError as error:
        raise EnvironmentFailure(where, "the ssh program", str(error), remedy) from error
    until = time.monotonic() + TUNNEL_SECONDS
    while not ready():
        if tunnel.returncode() is not None or time.monotonic() > until:
            output = tunnel.log().strip() or f"no connection within {TUNNEL_SECONDS} s"
            tunnel.stop()
            raise EnvironmentFailure(where, "an ssh connection", output[-500:], remedy)
        time.sleep(0.05)
    return tunnel
