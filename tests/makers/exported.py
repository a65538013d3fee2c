"""An exported model of tests/makers, for tests of the smoke test and of the rehearsal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.artifacts.store import Artifact, Store
from tasks.checkpoint import checkpoint
from tasks.export import export
from tasks.freeze import freeze
from tasks.records.settings import Selection, Serving, Training
from tasks.restore_verify import restore_verify
from tasks.step import Run, running
from tasks.train import train
from tasks.user_code.source import ModelSource
from tests.makers.tolerance import DECLARED
from tests.silent import Silent

MODELS = Path(__file__).parent
TOLERANCE = DECLARED
Made = tuple[Artifact, Artifact, Artifact, Artifact]


@contextmanager
def a_run(store: Path) -> Iterator[Run]:
    """A run over a store of its own."""
    with running(Run("test", Store(store, warn=print), Silent())) as entered:
        yield entered


def serving(**changes: Any) -> Serving:
    """The embedded server, asked as little as it can be."""
    return Serving.model_validate({"runtime": "embedded", "latency_requests": 2} | changes)


def exported(name: str, module: str = "odd_user_models", **hyperparameters: Any) -> Made:
    """(exported, checkpoint, run, frozen) of a model of tests/makers."""
    source = ModelSource(name=name.lower(), module=module, attribute=name, folder=MODELS)
    made = train(source, Training(hyperparameters=hyperparameters))
    pinned = checkpoint(made, Selection())
    verified = restore_verify(pinned, made, TOLERANCE)
    return export(pinned, verified, made, TOLERANCE), pinned, made, freeze(pinned, verified, made, TOLERANCE)
