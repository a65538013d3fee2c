"""The promotion flow: publishes a model that a run has proven, without running the pipeline again."""

from pathlib import Path
from typing import Annotated

from prefect import State, flow
from pydantic import Field

from flows import approval
from flows import config as configuration
from flows.config import PipelineConfig
from flows.proven_model import AGAIN, named, require_proven
from flows.train_to_serve import run_of, state_of, summaries
from tasks.artifact_views import Restored
from tasks.errors import UsageError
from tasks.promote import promote
from tasks.records.release import Rule

_APPROVAL_SECONDS = 3600


# What Prefect shows of each parameter is from the docstring; it resolves no annotation that is text (PEP 563).
@flow(name="promote", flow_run_name="{model}", validate_parameters=True)
def promote_release(
    model: str,
    name: str | None = None,
    label: str | None = None,
    servers: list[str] | None = None,
    waive: list[Rule] | None = None,
    evaluate: Path | None = None,
    reason: str | None = None,
    force: bool = False,
    wait_for_approval: Annotated[int, Field(ge=1)] = _APPROVAL_SECONDS,
    config: Path | None = None,
) -> State[None] | None:
    """Publish a proven model as the next version under the serving root, and confirm that it serves.

    Where the policy asks for a person's approval, and nobody has given it, the run pauses until its form is filled in.

    Args:
        model: A run's id, or an export or a blessing in the store: its path, or its digest's first digits.
        name: The name to serve it under; by default the run's.
        label: The version label to move to it, such as canary; by default stable, where there are labels.
        servers: Running servers to confirm it in: HOST:PORT of gRPC, or HOST:PORT,REST_PORT.
        waive: Rules of release.policy to waive; needs a reason.
        evaluate: Labelled rows, for a rule on quality.
        reason: The reason, for the journal.
        force: Promote a model that was rolled back; needs a reason.
        wait_for_approval: Seconds for which the run pauses for a person's approval, where release.policy.approval asks for one.
        config: A YAML file of settings, as of tfship run --config.
    """
    release = {"promote": True, "label": label, "servers": servers, "waive": waive}
    release |= {"reason": reason, "force": force or None}
    options = {"name": name, "source": model, "release": release, "evaluate": {"file": evaluate}}
    return publish.fn(configuration.load(config, options), wait_for_approval)


@flow(name="promote", flow_run_name="{settings.source}", validate_parameters=True)
def publish(settings: PipelineConfig, wait_for_approval: int = 0) -> State[None] | None:
    """Promote the proven model that `settings.source` names, and report it as a run does.

    It waits so many seconds for a person's approval; with 0, a promotion without one is refused at once.

    Raises:
        UsageError: there is no such model, or no name to serve it under.
        PipelineError: as those of `promote`.
    """
    found = require_proven(settings)
    settings = named(settings, found)
    with run_of(settings) as run:
        for one in found.artifacts.values():
            if not run.store.hold(one):
                raise UsageError(str(one.path), "what a run has proven", "nothing: deleted just now", AGAIN)
        run.artifacts |= found.artifacts
        chain = found.artifacts
        trained = chain.get("train") or chain["adopt"]
        limits = Restored(chain["restore_verify"].path).limits(settings.tolerance)
        if wait_for_approval:
            approval.wait(chain["export"], chain["smoke_test"], settings.promotion, wait_for_approval)
        run.promotion = promote(
            chain["export"],
            chain["smoke_test"],
            chain["checkpoint"],
            trained,
            settings.promotion,
            settings.servings[0],
            limits,
            settings.evaluate,
        )
    return state_of(summaries[-1])
