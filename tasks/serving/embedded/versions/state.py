"""The state of one version of one model."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from tasks.serving.embedded.errors import ServingError
from tasks.serving.embedded.versions.servable import Servable


class State(IntEnum):
    """`ModelVersionStatus.State` of tensorflow_serving/apis/get_model_status.proto."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True)
class VersionStatus:
    """A version's status as GetModelStatus reports it."""

    version: int
    state: State
    error: ServingError | None


@dataclass
class Version:
    """The manager's record of a version; only the manager writes it, under its lock.

    `str()` is the form that the real server's logs and errors use.
    """

    name: str
    number: int
    path: Path
    state: State = State.START
    error: ServingError | None = None
    servable: Servable | None = None
    in_flight: int = 0
    failed: bool = False
    """Its load failed and its directory still exists: it is not tried again."""

    def __str__(self) -> str:
        return f"{{name: {self.name} version: {self.number}}}"
