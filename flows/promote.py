"""The promotion flow: publishes a model that a run has proven, without running the pipeline again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from prefect import flow
from pydantic import Field, ValidationError

from flows import config as configuration
from flows.config import PipelineConfig
from flows.train_to_serve import run_of
from tasks.artifact_views import Restored
from tasks.artifacts.store import Artifact, Store
from tasks.errors import UsageError
from tasks.promote import promote
from tasks.records.run import RunSummary

_RUN = "run.json"
_FEWEST_DIGITS = 6
_AGAIN = "run the pipeline again: tfship run SOURCE."
_CHAIN = {"checkpoint": ("checkpoint",), "run": ("train", "adopt"), "frozen": ("freeze",), "exported": ("export",)}
"""The steps that make each input of a smoke test."""


@flow(name="promote", flow_run_name="{model}", validate_parameters=True)
def promote_release(
    model: Annotated[
        str,
        Field(
            description="A run's id, or an export or a blessing in the store: its path, or its digest's first digits."
        ),
    ],
    name: Annotated[str | None, Field(description="The name to serve it under; by default the run's.")] = None,
    label: Annotated[
        str | None,
        Field(
            description="The version label to move to it, such as canary; by default stable, where there are labels."
        ),
    ] = None,
    servers: Annotated[
        list[str] | None,
        Field(description="Running servers to confirm it in: HOST:PORT of gRPC, or HOST:PORT,REST_PORT."),
    ] = None,
    reason: Annotated[str | None, Field(description="The reason, for the journal.")] = None,
    force: Annotated[bool, Field(description="Promote a model that was rolled back; needs a reason.")] = False,
    config: Annotated[Path | None, Field(description="A YAML file of settings, as of tfship run --config.")] = None,
) -> None:
    """Publish a proven model as the next version under the serving root, and confirm that it serves."""
    release = {"promote": True, "label": label, "servers": servers, "reason": reason, "force": force or None}
    publish.fn(configuration.load(config, {"name": name, "source": model, "release": release}))


@dataclass(frozen=True)
class Proven:
    """A model that passed a smoke test: the artifacts of its chain by step, and the name under which it was run."""

    artifacts: dict[str, Artifact]
    name: str | None


@flow(name="promote", flow_run_name="{settings.source}", validate_parameters=True)
def publish(settings: PipelineConfig) -> None:
    """Promote the proven model that `settings.source` names, and report it as a run does.

    Raises:
        UsageError: there is no such model, or no name to serve it under.
        PipelineError: as those of `promote`.
    """
    found = require_proven(settings)
    name = settings.name or found.name
    if name is None:
        raise UsageError(f"model {settings.source}", "a name to serve it under", "none", "give one with --name NAME.")
    settings = settings.model_copy(update={"name": name})
    with run_of(settings) as run:
        for one in found.artifacts.values():
            if not run.store.hold(one):
                raise UsageError(str(one.path), "what a run has proven", "nothing: deleted just now", _AGAIN)
        run.artifacts |= found.artifacts
        chain = found.artifacts
        trained = chain.get("train") or chain["adopt"]
        limits = Restored(chain["restore_verify"].path).limits(settings.tolerance)
        run.promotion = promote(
            chain["export"],
            chain["smoke_test"],
            chain["checkpoint"],
            trained,
            settings.promotion,
            settings.servings[0],
            limits,
        )


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
    raise UsageError(str(artifact.path), expected, f"none in {store.root}", _AGAIN)


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
