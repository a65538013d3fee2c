"""pin: keep a version of a model from being deleted by `tfship gc`, or let it go again.

On request; it changes nothing but the journal.
"""

from __future__ import annotations

from tasks.errors import UsageError
from tasks.records.release import Event, JournalLine
from tasks.records.settings import Release
from tasks.releases import rules
from tasks.releases.publish import Releases


def pin(release: Release, version: int, *, remove: bool = False) -> JournalLine | None:
    """Pin a version, or `remove` its pin, and return the journal's line; None if it was so.

    Raises:
        UsageError: no such version is on disk, served or retired; or a pin that is to be removed is not there.
        EnvironmentFailure: the folder cannot be written.
    """
    where = f"pin {release.name} {version}"
    with Releases(release.serving_root, release.name).open() as releases:
        journal = releases.journal()
        pins, there = rules.pinned(journal), rules.folders(releases.names())
        if remove:
            if version not in pins:
                found = ", ".join(map(str, sorted(pins))) or "none"
                raise UsageError(where, "a pinned version", found, f"`tfship releases {release.name}` shows all pins.")
        elif version not in there:
            found = ", ".join(map(str, sorted(there))) or "none"
            raise UsageError(where, "a version on disk", found, "choose one of these.")
        elif version in pins:
            return None
        digest, model = rules.digests(journal).get(version, ("", ""))
        event = Event.UNPINNED if remove else Event.PINNED
        return releases.append(event=event, version=version, digest=digest, model=model, reason=release.reason)
