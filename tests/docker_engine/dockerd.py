#!/usr/bin/env python3
"""A Docker engine for tests: the one that answers, or one of our own, started without touching the host's.

    eval "$(python3 tests/docker_engine/dockerd.py start WORK)"     prints `export DOCKER_HOST=unix://…`
    python3 tests/docker_engine/dockerd.py stop WORK [--keep-data]  ends the daemon that `start` started, and only that one

An engine that answers at DOCKER_HOST or at the default socket is used as it is, and `stop` leaves it alone. Else, as
root on Debian or Ubuntu, `docker.io` is installed where `dockerd` is missing, and a daemon is started with its data,
socket, pid file and network bridge its own, all under or named after WORK.

The daemon writes no firewall rule and leaves the host's forwarding setting alone: ports published on 127.0.0.1 are
served by its userland proxy, and containers reach nothing but this host. Several may run side by side.

Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zlib
from pathlib import Path

DEFAULT_SOCKET = "/var/run/docker.sock"
SOCKET_PATH_LIMIT = 100  # sun_path holds 108 bytes, NUL included


class EngineError(Exception):
    """No engine could be had; the message says why."""


def answers(address: str, timeout: float = 5.0) -> bool:
    """Whether a Docker engine answers `/_ping` at `unix://PATH`; of another scheme none is asked."""
    if not address.startswith("unix://"):
        return False
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        connection.connect(address.removeprefix("unix://"))
        connection.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
        return connection.recv(64).startswith((b"HTTP/1.0 200", b"HTTP/1.1 200"))
    return False


class Daemon:
    """One `dockerd` with everything of its own under `work`."""

    def __init__(self, work: Path) -> None:
        self.work = work.resolve()
        self.socket = self.work / "docker.sock"
        self.log = self.work / "dockerd.log"
        self.state = self.work / "daemon.json"  # {"pid", "started", "bridge"}: who to end, and what to remove
        # Two daemons on one bridge would hand out the same container addresses.
        number = zlib.crc32(str(self.work).encode())
        self.bridge, self.subnet = f"tfship{number % 0xFFFFFF:x}", f"10.{200 + number % 50}.{number // 50 % 250}.1/24"

    @property
    def address(self) -> str:
        """What DOCKER_HOST must say."""
        return f"unix://{self.socket}"

    def start(self, deadline: float) -> None:
        """Start it and wait until it answers.

        Raises:
            EngineError: it ended, or did not answer within `deadline` seconds; the message holds its last lines.
        """
        if len(str(self.socket)) > SOCKET_PATH_LIMIT:
            raise EngineError(f"{self.socket} is too long for a socket's path: choose a shorter work folder")
        self.stop(keep_data=True)  # one that does not answer, or what is left of one that was killed
        for folder in ("data", "exec"):
            (self.work / folder).mkdir(parents=True, exist_ok=True)
        (self.work / "config.json").write_text("{}\n")  # not the host's /etc/docker/daemon.json
        self._bridge_up()
        command = ["dockerd", f"--config-file={self.work}/config.json", f"--host={self.address}"]
        command += [f"--data-root={self.work}/data", f"--exec-root={self.work}/exec"]
        command += [f"--pidfile={self.work}/dockerd.pid", f"--bridge={self.bridge}"]
        command += ["--iptables=false", "--ip-masq=false", "--ip-forward=false", "--userland-proxy=true"]
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/"
            )
        self.state.write_text(json.dumps({"pid": process.pid, "started": started(process.pid)}))
        until = time.monotonic() + deadline
        while not answers(self.address):
            if process.poll() is not None or time.monotonic() > until:
                ended = "did not answer in time" if process.poll() is None else f"ended with {process.returncode}"
                tail = self.log.read_text(errors="replace")[-3000:]
                self.stop(keep_data=False)
                raise EngineError(f"dockerd {ended} (--deadline {deadline:g}). Its last lines:\n{tail}")
            time.sleep(0.1)

    def stop(self, *, keep_data: bool) -> None:
        """End exactly this daemon, and remove what it made; twice is as good as once."""
        pid = self._pid()
        if pid is not None:
            end(pid, self._started(), patience=30)
        for left in self._left_behind():  # by a daemon that was killed itself
            with contextlib.suppress(ProcessLookupError):
                os.kill(left, signal.SIGKILL)
        for mounted in reversed(mounts_below(self.work)):
            subprocess.run(["umount", "--lazy", mounted], check=False, stderr=subprocess.DEVNULL)
        if Path("/sys/class/net", self.bridge).exists():
            subprocess.run(["ip", "link", "del", self.bridge], check=False)
        for folder in ("exec",) if keep_data else ("exec", "data"):
            shutil.rmtree(self.work / folder, ignore_errors=True)
        for file in (self.state, self.work / "config.json", self.work / "dockerd.pid", self.socket):
            file.unlink(missing_ok=True)

    def _left_behind(self) -> list[int]:
        """containerd and its shims, known by our folder in their command lines, and the containers below them."""
        parents: dict[int, int] = {}
        ours: set[int] = set()
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                pid, words = int(process.name), (process / "cmdline").read_bytes().split(b"\0")
                parents[pid] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
                if Path(os.fsdecode(words[0])).name.startswith(("containerd", "docker-proxy")) and any(
                    os.fsencode(self.work / "exec") in word for word in words
                ):
                    ours.add(pid)
        while below := {pid for pid, parent in parents.items() if parent in ours} - ours:
            ours |= below
        return sorted(ours)

    def _bridge_up(self) -> None:
        if Path("/sys/class/net", self.bridge).exists():
            return
        for words in (
            ["link", "add", self.bridge, "type", "bridge"],
            ["addr", "add", self.subnet, "dev", self.bridge],
            ["link", "set", self.bridge, "up"],
        ):
            made = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
            if made.returncode:
                raise EngineError(f"`ip {' '.join(words)}` failed: {made.stderr.strip()}; containers need a bridge")

    def _pid(self) -> int | None:
        """The daemon's pid, if it is alive and still the process that was started."""
        if not self.state.exists():
            return None
        pid = int(json.loads(self.state.read_text())["pid"])
        return pid if started(pid) == self._started() is not None else None

    def _started(self) -> str | None:
        recorded = json.loads(self.state.read_text())["started"]
        return None if recorded is None else str(recorded)


def started(pid: int) -> str | None:
    """When process `pid` started, in clock ticks since boot (proc(5), field 22), or None if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]


def end(pid: int, start: str | None, patience: float) -> None:
    """SIGTERM, which makes dockerd end its containers, and SIGKILL when `patience` seconds did not suffice."""
    for sent, wait in ((signal.SIGTERM, patience), (signal.SIGKILL, 5.0)):
        until = time.monotonic() + wait
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sent)
        while started(pid) == start and time.monotonic() < until:
            time.sleep(0.05)
        if started(pid) != start:
            return


def mounts_below(folder: Path) -> list[str]:
    """Mount points under `folder`, outer ones first."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split()[4].encode().decode("unicode_escape") for line in lines]
    return sorted(point for point in points if Path(point).is_relative_to(folder))


def install() -> None:
    """Make sure that `dockerd`, `ip` and a compose command are there.

    Raises:
        EngineError: they are not, and this user or this system cannot install them.
    """
    needed = {"dockerd": "docker.io", "ip": "iproute2"}
    if not (shutil.which("docker") and _quietly("docker", "compose", "version")):
        needed["docker-compose"] = "docker-compose"
    missing = [package for program, package in needed.items() if not shutil.which(program)]
    if os.geteuid() != 0:
        raise EngineError("no Docker engine answers, and only root can start one: start Docker, or set DOCKER_HOST")
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise EngineError(f"no Docker engine answers, and {missing} cannot be installed: this is not Debian or Ubuntu")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install_command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "iptables", *missing]
    for command in (["apt-get", "update", "-qq"], install_command):
        if subprocess.run(command, env=quiet, stdout=sys.stderr, check=False).returncode:
            raise EngineError(f"`{' '.join(command)}` failed")


def _quietly(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def start(work: Path, deadline: float) -> str:
    """The address of an engine that answers, our own where there was none."""
    daemon = Daemon(work)
    asked = os.environ.get("DOCKER_HOST")
    for address in (asked, f"unix://{DEFAULT_SOCKET}", daemon.address):
        if address and answers(address):
            return address
    if asked and asked != daemon.address:
        print(f"dockerd.py: nothing answers at DOCKER_HOST={asked}", file=sys.stderr)
    install()
    if answers(f"unix://{DEFAULT_SOCKET}"):  # the package may have started a service
        return f"unix://{DEFAULT_SOCKET}"
    daemon.start(deadline)
    return daemon.address


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("verb", choices=("start", "stop"))
    parser.add_argument("work", type=Path, help="the folder of the daemon's data, socket and log")
    parser.add_argument("--deadline", type=float, default=60.0, help="seconds to wait for the daemon (default 60)")
    parser.add_argument("--keep-data", action="store_true", help="stop: keep the images for the next start")
    options = parser.parse_args()
    try:
        if options.verb == "start":
            print(f"export DOCKER_HOST={start(options.work, options.deadline)}")
        else:
            Daemon(options.work).stop(keep_data=options.keep_data)
    except EngineError as error:
        print(f"dockerd.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
