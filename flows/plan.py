"""The plan of a run: which steps would run and why. No step is built, and nothing is written or set aside."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from flows import telemetry
from flows.config import STEPS, PipelineConfig
from flows.pipeline import pipeline
from tasks.artifacts.manifest import Manifest
from tasks.artifacts.store import Artifact, Recipe, Store
from tasks.errors import DamagedError
from tasks.records.base import Record
from tasks.step import Reached, Run, running


class Planned(Record):
    """One step of a plan. `state` is cached, refused (a stored refusal), runs, or waits (for a step before it)."""

    name: str
    state: str
    why: str
    artifact: str | None = None


def planned(config: PipelineConfig, store: Store | None = None) -> tuple[Planned, ...]:
    """Return the plan of every step of a run with this configuration. Raises UsageError and errors of detection.

    In `store`, what is hashed stays known; without one, no store is made where there is none.
    """
    if store is not None:
        return _planned(config, store)
    with tempfile.TemporaryDirectory() as empty:  # opening a store makes its folders
        return _planned(config, Store(config.store if config.store.exists() else Path(empty), telemetry.warn))


def _planned(config: PipelineConfig, store: Store) -> tuple[Planned, ...]:
    found: dict[str, Planned] = {}

    def answer(recipe: Recipe, digestible: bool) -> Artifact:
        step = recipe.step
        place = store.place(step, recipe.key)
        why = "requested (--refresh)" if {step, "all"} & config.refresh else ""
        why = why or ("" if digestible else "the model's code or data cannot be digested")
        if not why and place.exists():
            try:
                artifact = store.verify(place)
            except DamagedError as error:
                why = f"its artifact is damaged: {error.found}"
            else:
                refusal = artifact.refusal()
                state, why = ("refused", str(refusal).splitlines()[0]) if refusal else ("cached", "nothing changed")
                found[step] = Planned(name=step, state=state, why=why, artifact=str(place))
                if refusal or config.until == step:
                    raise Reached
                return artifact
        found[step] = Planned(name=step, state="runs", why=why or _changed(store, recipe))
        raise Reached

    chief = replace(config.cluster, index=0)  # the other workers run no steps
    run = Run("plan", store, telemetry.Silent(), config.refresh, planner=answer, cluster=chief)
    with running(run), contextlib.suppress(Reached):
        pipeline(config, run)
    return tuple(found.get(name) or _waiting(name, found) for name in _of(config))


def _of(config: PipelineConfig) -> list[str]:
    """Return the names of the steps that this configuration has, in order."""
    first = "train" if config.files is None else "adopt"
    names = [name for name in STEPS if name not in ("train", "adopt") or name == first]
    names = [name for name in names if name != "convert" or config.also]
    names = [name for name in names if name != "rehearse" or config.rehearsal.wanted]
    names = [name for name in names if name != "promote" or config.release.promote]
    other = {"freeze": "export", "export": "freeze"}.get(config.until or "")
    names = names[: names.index(config.until) + 1] if config.until in names else names
    return [name for name in names if name != other]


def _waiting(name: str, found: dict[str, Planned]) -> Planned:
    refused = [step.name for step in found.values() if step.state == "refused"]
    if name == "report":
        return Planned(name=name, state="runs", why="always")
    if refused:
        return Planned(name=name, state="waits", why=f"{refused[0]} refuses the model")
    runs = [step.name for step in found.values() if step.state == "runs"]
    if not runs and name == "promote":
        return Planned(name=name, state="runs", why="compares with the served version")
    return Planned(name=name, state="waits", why=f"for the artifact of {runs[-1] if runs else 'an earlier step'}")


def _changed(store: Store, recipe: Recipe) -> str:
    """Return how a step's recipe differs from that of its most similar artifact."""
    earlier = [artifact.manifest for artifact in store.artifacts(recipe.step)]
    differences = min((_differences(manifest, recipe) for manifest in earlier), key=len, default=["files.name"])
    if {"files.name", "source.name"} & {one.split(" ")[0] for one in differences}:
        return "not made yet"
    shown = ", ".join(differences[:3]) + (f", and {len(differences) - 3} more" if len(differences) > 3 else "")
    return f"changed: {shown or 'other versions'}"


def _differences(last: Manifest, recipe: Recipe) -> list[str]:
    found = [f"another {name}" for name in recipe.inputs if recipe.inputs[name] != last.inputs.get(name)]
    found += _paths(last.params, recipe.params, "")
    return found + (["a new version of the step"] if last.step_version != recipe.step_version else [])


def _paths(old: Any, new: Any, where: str) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted(old.keys() | new.keys())
        return [one for name in names for one in _paths(old.get(name), new.get(name), f"{where}{name}.")]
    if old == new:
        return []
    name = where.rstrip(".")
    short = all(isinstance(value, (int, float, bool, type(None))) or len(str(value)) < 24 for value in (old, new))
    return [f"{name} {old} -> {new}" if short else name]
