"""Versions under a serving root and the artifacts that they come from: small folders, without TensorFlow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tasks.artifacts import manifest as manifests
from tasks.artifacts.store import Artifact, Recipe, Store
from tasks.records.release import Event, JournalLine
from tasks.releases import rules
from tasks.releases.publish import Releases

NAME = "model"
SIZE = 1000
CHAIN = {
    "train": {},
    "checkpoint": {"run": "train"},
    "restore_verify": {"checkpoint": "checkpoint", "run": "train"},
    "freeze": {"verified": "restore_verify", "run": "train"},
    "export": {"verified": "restore_verify", "run": "train"},
    "smoke_test": {"exported": "export", "frozen": "freeze", "checkpoint": "checkpoint", "run": "train"},
}
"""The inputs of each step, by the step that makes them."""


def artifact(store: Store, step: str, content: str, inputs: Mapping[str, Artifact] = {}) -> Artifact:
    """An artifact of a step, as large as SIZE says; an export holds a SavedModel."""
    recipe = Recipe(
        step=step,
        step_version=1,
        inputs={role: one.digest for role, one in inputs.items()},
        params={},
        versions={},
        key=f"{step}-{content}",
    )

    def build(out: Path) -> None:
        place = out / "saved_model" / "saved_model.pb" if step == "export" else out / "file"
        place.parent.mkdir(exist_ok=True)
        place.write_text(f"{step} {content}".ljust(SIZE, "."))

    with store.lock(step, recipe.key):
        return store.build(recipe, build)


def chain(store: Store, content: str) -> dict[str, Artifact]:
    """What a run leaves in the store, by step."""
    made: dict[str, Artifact] = {}
    for step, inputs in CHAIN.items():
        made[step] = artifact(store, step, content, {role: made[one] for role, one in inputs.items()})
    return made


def reported(reports: Path, run_id: str, made: Mapping[str, Artifact], name: str = NAME) -> Path:
    """The `run.json` of a run that made these artifacts, as far as it says what they are."""
    file = reports / run_id / "run.json"
    file.parent.mkdir(parents=True)
    steps = [{"name": step, "digest": one.digest} for step, one in made.items()]
    file.write_text(json.dumps({"run_id": run_id, "name": name, "steps": [*steps, {"name": "promote"}]}))
    return file


def published(
    releases: Releases, store: Store, made: Mapping[str, Artifact], labels: dict[str, int] | None = None
) -> int:
    """The version that was promoted from these artifacts, with its files linked to theirs."""
    exported, blessing = made["export"], made["smoke_test"].digest
    model = exported.path / "saved_model"
    files = manifests.entries(model)
    version = releases.publish(model, files, store.hashes, blessing=blessing)
    digest, computes = manifests.digest_of(files), rules.model_digest(files)
    releases.append(
        event=Event.PROMOTED, version=version, digest=digest, model=computes, blessing=blessing, labels=labels
    )
    return version


def promoted(root: Path, store: Store, content: str, name: str = NAME) -> int:
    """A model by these contents, promoted as the next version under the serving root `root`."""
    with Releases(root, name).open() as releases:
        return published(releases, store, chain(store, content))


def rolled_back(root: Path, name: str = NAME) -> JournalLine:
    """The highest version rolled back to the one before it."""
    with Releases(root, name).open() as releases:
        return releases.finish_rollback(releases.begin_rollback(releases.earlier(None), "worse"))


def withdrawn(root: Path, store: Store, content: str, name: str = NAME) -> int:
    """The version of a model that could not be confirmed."""
    with Releases(root, name).open() as releases:
        model = chain(store, content)["export"].path / "saved_model"
        version = releases.publish(model, manifests.entries(model), store.hashes)
        releases.withdraw(version, "", "it did not answer")
        return version
