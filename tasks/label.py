"""label: let a version label lead to a version of a model, in `models.config` and in the servers that run.

On request; it changes only the serving root's configuration.
"""

from __future__ import annotations

from tasks.errors import UsageError
from tasks.records.release import Event, JournalLine
from tasks.records.settings import Release
from tasks.releases import evidence_check, labels, rules, signing
from tasks.releases.publish import Releases


def label(release: Release, version: int | None, seconds: float) -> JournalLine | None:
    """Let `release.label` lead to `version`, or to nothing (None), and return the journal's line; None if it was so.

    `seconds` is how long a running server may take to load a version.

    Raises:
        UsageError: there is no such version or label, or the key is none.
        DamagedError: the version's files are not those that were promoted.
        EvidenceError: it is not what its evidence says, or not signed by `release.public_key`.
        SmokeRefused, ChildFailed: a server did not load the version, or did not move the label.
        EnvironmentFailure: something outside the model is wrong.
    """
    name = str(release.label)
    signing.require_usable(None, release.public_key)
    configuration = labels.of(release, seconds)
    with Releases(release.serving_root, release.name).open() as releases:
        releases.require_settled()
        entry = configuration.entry(release.name)
        before = entry.labels if entry else {}
        last = rules.last_labels(releases.journal())
        if version is None:
            if name not in before and name not in last:
                there = ", ".join(sorted(before)) or "no label"
                raise UsageError(f"label {release.name} {name}", "a label", there, "see `tfship status`.")
            after = {one: to for one, to in before.items() if one != name}
        else:
            releases.folder(version)
            if version in releases.unconfirmed():
                remedy = "promote its model again; if that is the highest version still, that confirms it."
                found = "one whose promotion was killed before it was confirmed"
                raise UsageError(f"label {release.name} {name} {version}", "a confirmed version", found, remedy)
            releases.require_whole(version)
            if release.public_key is not None:
                evidence_check.check(releases, version, release.public_key)
            after = {**before, name: version}
        served, listed = releases.served(), entry.versions if entry else None
        others = {*(listed or ())} if not after else set()
        if listed is None and served is not None:
            others = {served}  # what served whoever named no label stays loaded
        configuration.lead(release.name, after, others)
        if after:
            configuration.let_go(release.name, rules.labelled(releases.journal()) | {*before.values()})
        if after == before == last:
            return None
        subject = version if version is not None else before.get(name, last.get(name, 0))
        digest = releases.digest(subject) or ""
        return releases.append(
            event=Event.LABELLED, version=subject, digest=digest, labels=after, reason=release.reason
        )
