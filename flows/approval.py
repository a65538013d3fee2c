"""The approval of a promotion by a person, for which a flow run pauses: the Prefect UI shows a form to fill in."""

from __future__ import annotations

from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from pydantic import Field

from tasks.approve import approve
from tasks.artifact_views import Smoked, model_files
from tasks.artifacts.manifest import digest_of
from tasks.artifacts.store import Artifact
from tasks.errors import PolicyRefused
from tasks.records.release import Rule
from tasks.records.settings import Release
from tasks.releases.policy import approved
from tasks.releases.publish import Releases

_POLL_SECONDS = 2


class Approval(RunInput):
    """A person's answer."""

    approve: bool = Field(default=False, description="Whether this model is to be promoted.")
    by: str = Field(min_length=1, description="The name of who answers, for the journal.")
    reason: str = Field(min_length=1, description="The reason, for the journal.")


def wait(exported: Artifact, blessed: Artifact, release: Release, seconds: int) -> None:
    """Pause this flow run until a person has answered, where the policy asks for an approval that the journal has not.

    Raises:
        PolicyRefused: the answer is no, or there was none within `seconds`.
        HeldError: this model was rolled back.
    """
    digest = digest_of(model_files(exported))
    releases = Releases(release.serving_root, release.name)
    if not release.policy.approval or Rule.APPROVAL in release.waive or approved(digest, releases.journal()):
        return
    form = Approval.with_initial_data(description=_described(digest, blessed, releases))
    try:
        answer = pause_flow_run(wait_for_input=form, timeout=seconds, poll_interval=_POLL_SECONDS)
    except FlowPauseTimeout:
        raise _refused(release, digest, f"no answer within {seconds} s") from None
    if not answer.approve:
        raise _refused(release, digest, f"the answer no, of {answer.by}: {answer.reason}")
    if approved(digest, releases.journal()):
        return  # by `tfship approve`, meanwhile
    approve(exported, release.model_copy(update={"reason": answer.reason}), by=f"{answer.by} (in Prefect)")


def _described(digest: str, blessed: Artifact, releases: Releases) -> str:
    """Return what a person is asked, in Markdown."""
    report = Smoked(blessed.path).report()
    proof = f"It {report.verdict} in {report.identity.exactly}." if report is not None else ""
    served = releases.served()
    now = "No version is served now." if served is None else f"Version {served} is the highest now."
    return (
        f"Is **{releases.name}** `{digest[:12]}` to be promoted to `{releases.root}`, as version {releases.upcoming()}? "
        f"{proof} {now}"
    )


def _refused(release: Release, digest: str, found: str) -> PolicyRefused:
    return PolicyRefused(
        f"promote {release.name}, rule {Rule.APPROVAL}",
        f"a person's approval of {digest[:12]}",
        found,
        "run it again and answer its form in the Prefect UI, or approve the model: tfship approve MODEL --reason TEXT.",
        rules=(Rule.APPROVAL,),
    )
