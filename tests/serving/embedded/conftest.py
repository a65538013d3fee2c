"""The models that these tests serve, made once, and clients of the server that a module starts (its `server` fixture)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest

from tasks import isolate
from tests.conftest import MakeOnce
from tests.serving.embedded.embedded_server import RunningServer


@pytest.fixture(scope="session")
def models(made_once: MakeOnce) -> Path:
    """A folder of SavedModels without version directories: see makers/servables.py."""
    return made_once("servables", lambda folder: isolate.call(write, folder))


def write(folder: Path) -> None:
    """In a child."""
    from tests.makers import servables

    servables.write(folder)


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as opened:
        yield opened


@pytest.fixture(scope="module")
def channel(server: RunningServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as opened:
        yield opened
