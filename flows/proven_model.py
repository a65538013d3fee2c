"""Models that a run has proven, found in the store by whatever names them: a run, an export, a blessing. Imports no Prefect."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from flows.config import PipelineConfig
from tasks.artifacts.store import Artifact, Store
from tasks.errors import UsageError
from tasks.records.run import RunSummary

_RUN = "run.json"
_FEWEST_DIGITS = 6
AGAIN = "run the pipeline again: tfship run SOURCE."
_CHAIN = {"checkpoint": ("checkpoint",), "run": ("train", "adopt"), "frozen": ("freeze",), "exported": ("export",)}
"""The steps that make each input of a smoke test."""


@dataclass(frozen=True)
class Proven:
    """A model that passed a smoke test: the artifacts of its chain by step, and the name under which it was run."""

    artifacts: dict[str, Artifact]
    name: str | None


def require_proven(settings: PipelineConfig) -> Proven:
    """Return the proven model that `settings.source` names. Raises UsageError where there is none."""
    found = proven(Store(settings.store), settings.reports, settings.source)
    if found is None:
        raise UsageError(
            f"model {settings.source}",
            f"a run in {settings.reports}, or an export or a blessing in {settings.store}",
            "none of these",
            "take one from `tfship run --json`, or prove the model first: tfship run SOURCE.",
        )
    return found


def named(settings: PipelineConfig, found: Proven) -> PipelineConfig:
    """Return the settings with the name to serve a proven model under. Raises UsageError where there is none."""
    if (name := settings.name or found.name) is None:
        raise UsageError(f"model {settings.source}", "a name to serve it under", "none", "give one with --name NAME.")
    return settings.model_copy(update={"name": name})


def proven(store: Store, reports: Path, what: str) -> Proven | None:
    """Return the proven model that `what` names: a run's id or page, an artifact's path, or a digest's first digits.

    Raises:
        UsageError: its chain is no longer whole in the store.
    """
    summary = _summary(reports, what)
    tests = [test for test in store.artifacts("smoke_test") if test.refusal() is None]
    if summary is not None:
        digests = {step.digest for step in summary.steps if step.name == "smoke_test"}
        chosen = [test for test in tests if test.digest in digests]
    else:
        exports = {one.digest: one.path for one in store.artifacts("export")}
        chosen = [test for test in tests if _names(what, test, exports)]
    if not chosen:
        return None
    test = chosen[-1]
    artifacts = {"smoke_test": test}
    for role, steps in _CHAIN.items():
        artifacts |= _made(store, test, role, steps)
    artifacts |= _made(store, artifacts["export"], "verified", ("restore_verify",))
    name = summary.name if summary else _name_of_run(reports, test)
    return Proven(artifacts, name)


def _names(what: str, test: Artifact, exports: Mapping[str, Path]) -> bool:
    """Tell whether `what` names a smoke test or its export; `exports` are the paths of all exports, by digest."""
    exported = test.manifest.inputs.get("exported", "")
    if len(what) >= _FEWEST_DIGITS and (test.digest.startswith(what) or exported.startswith(what)):
        return True
    place = Path(what).absolute()
    places = [one.absolute() for one in (test.path, exports.get(exported)) if one is not None]
    return any(place == one or one in place.parents for one in places)


def _made(store: Store, artifact: Artifact, role: str, steps: tuple[str, ...]) -> dict[str, Artifact]:
    """Return the artifact that `artifact` was made from in this role, by the step that made it."""
    digest = artifact.manifest.inputs.get(role)
    for step in steps:
        for one in store.artifacts(step):
            if one.digest == digest:
                return {step: one}
    expected = f"the {role} that it was made from, {str(digest)[:12]}"
    raise UsageError(str(artifact.path), expected, f"none in {store.root}", AGAIN)


def _summary(reports: Path, what: str) -> RunSummary | None:
    given = Path(what).absolute()
    if re.fullmatch(r"[\w-]+", what) and (reports / what / _RUN).is_file():
        return _read(reports / what / _RUN)
    place = given / _RUN if given.is_dir() else given.parent / _RUN
    return _read(place) if place.is_file() and (given.is_dir() or given.name in (_RUN, "report.html")) else None


def _read(file: Path) -> RunSummary | None:
    try:
        return RunSummary.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):  # of another version
        return None


def _name_of_run(reports: Path, test: Artifact) -> str | None:
    """Return the name under which the newest run with this blessing was run."""
    for file in sorted(reports.glob(f"*/{_RUN}"), reverse=True):
        if test.digest in file.read_text() and (found := _read(file)) is not None:
            return found.name
    return None
