"""approve: write down that a person has approved a model, for a policy that asks for it before it is promoted.

On request; it changes only the journal.
"""

from __future__ import annotations

from tasks.artifact_views import model_files
from tasks.artifacts.manifest import digest_of
from tasks.artifacts.store import Artifact
from tasks.errors import HeldError
from tasks.records.release import Event, JournalLine
from tasks.records.settings import Release
from tasks.releases import rules
from tasks.releases.publish import Releases


def approve(exported: Artifact, release: Release, by: str = "") -> JournalLine:
    """Approve the files of an export for `release.name`, for `release.reason`, and return the journal's line.

    `by` is who approves, by default this user.

    Raises:
        HeldError: this model was rolled back.
        UsageError: an interrupted rollback has to be finished first.
        EnvironmentFailure: the serving root cannot be written.
    """
    files = model_files(exported)
    digest, model = digest_of(files), rules.model_digest(files)
    with Releases(release.serving_root, release.name).open() as releases:
        releases.require_settled()
        if (holder := rules.held(digest, model, releases.journal())) is not None:
            raise HeldError(
                f"approve {release.name}",
                "a model that was not rolled back",
                f"{digest[:12]}, rolled back on {holder.time}: {holder.reason or 'no reason'}",
                "approve a better model; this one is promoted only with --force --reason TEXT.",
            )
        # It is of no version yet, and numbers start at 1.
        return releases.append(
            event=Event.APPROVED, version=0, digest=digest, model=model, reason=release.reason, by=by
        )
