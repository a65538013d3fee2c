"""One SundayNet, trained briefly and taken through every form; tests spoil copies of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks import isolate
from tasks.artifact_views import Pinned
from tasks.artifacts.store import Artifact, Recipe, Store
from tasks.checkpoint import checkpoint
from tasks.export import export
from tasks.freeze import freeze
from tasks.records.parity import Tolerance
from tasks.records.settings import SaverPolicy, Selection, Serving, Training
from tasks.restore_verify import restore_verify
from tasks.step import Run, running
from tasks.train import train
from tasks.user_code import source as sources
from tests.makers.tolerance import DECLARED
from tests.silent import Silent

TOLERANCE = DECLARED
SERVING = Serving.model_validate({"runtime": "embedded", "latency_requests": 3})


@dataclass(frozen=True)
class Chain:
    """The artifacts of one run, and the store that they are in."""

    store: Store
    trained: Artifact
    pinned: Artifact
    verified: Artifact
    frozen: Artifact
    exported: Artifact

    @property
    def step(self) -> int:
        return Pinned(self.pinned.path).record().step

    def spoiled(self, artifact: Artifact, where: Callable[[Path], Path], fault: Callable[[Path], Any]) -> Artifact:
        """A copy of an artifact with a fault, committed with a correct manifest: hashing is not what finds it."""
        name = f"{fault.__module__}.{fault.__qualname__}"
        recipe = Recipe(
            step=artifact.step,
            step_version=1,
            inputs=artifact.manifest.inputs,
            params={"fault": name},
            versions={},
            key=f"{abs(hash((name, artifact.key))):020x}"[-20:],
        )

        def build(out: Path) -> None:
            shutil.copytree(artifact.path, out, dirs_exist_ok=True)
            (out / "manifest.json").unlink()
            for path in out.rglob("*"):
                if path.is_file():
                    path.chmod(0o644)
            isolate.call(fault, where(out))

        return self.store.build(recipe, build)


def make(folder: Path, steps: int = 60) -> Chain:
    """Train and export one."""
    store = Store(folder / "store")
    with running(Run("chain", store, Silent())):
        training = Training(steps=steps, saver=SaverPolicy(every_steps=30))
        trained = train(sources.resolve("sundaynet", folder), training)
        chosen = checkpoint(trained, Selection())
        verified = restore_verify(chosen, trained, Tolerance())
        return Chain(
            store=store,
            trained=trained,
            pinned=chosen,
            verified=verified,
            frozen=freeze(chosen, verified, trained, TOLERANCE),
            exported=export(chosen, verified, trained, TOLERANCE),
        )
