"""What is on disk, in the journal, in the configuration and in the running servers of a model, and whether they agree."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tasks import isolate
from tasks.errors import DamagedError, EvidenceError
from tasks.records.base import Record
from tasks.records.release import Event, JournalLine
from tasks.records.settings import Release
from tasks.releases import evidence_check, labels, rules, signing
from tasks.releases.publish import Releases
from tasks.releases.server_config import FILE, Entry
from tasks.serving.clients import model_service
from tasks.serving.clients.model_service import VersionState


class VersionStatus(Record):
    """One version on disk. `promoted` is the time of its promotion; None: it was not confirmed, or came by hand.

    `live` is its state in each running server that was asked, "" where the server does not know it.
    """

    version: int
    promoted: str | None
    digest: str
    labels: tuple[str, ...]
    loaded: bool
    live: dict[str, str]


class ModelStatus(Record):
    """The releases of a model. `served` is the highest version on disk, `disagreements` what does not agree, in words."""

    name: str
    served: int | None
    versions: tuple[VersionStatus, ...]
    labels: dict[str, int]
    disagreements: tuple[str, ...]


def status(release: Release, *, full: bool) -> ModelStatus:
    """Return the state of a model's releases.

    `full` reads every file of every version that was promoted, and of its evidence, which `release.public_key` must have signed.

    Servers are asked in forks of this process, which must have one thread.

    Raises:
        UsageError: the configuration is not one, or the key is none.
        DamagedError: the journal cannot be read.
        EnvironmentFailure: a server does not answer.
    """
    signing.require_usable(None, release.public_key)
    releases = Releases(release.serving_root, release.name)
    entry = labels.of(release, 0.0).entry(release.name)
    present = rules.versions(releases.names())
    journal = releases.journal()  # after the names: a version that is promoted meanwhile did not come by hand
    published = rules.published(journal)
    listed = entry.versions if entry else None
    loaded = set(present[-1:] if listed is None else listed)
    led = entry.labels if entry else {}
    live, answered = _live(release, led)
    versions = tuple(
        VersionStatus(
            version=version,
            promoted=published[version].time if version in published else None,
            digest=published[version].digest if version in published else "",
            labels=tuple(sorted(label for label, to in led.items() if to == version)),
            loaded=version in loaded,
            live={server: states[version].state if version in states else "" for server, states in live.items()},
        )
        for version in present
    )
    found = [
        *_on_disk(releases, journal, present),
        *(_damaged(releases, published, present, release.public_key) if full else ()),
        *_configured(entry, present, journal),
        *_served(live, answered, loaded & set(present), led, chosen=entry is not None and listed is None),
    ]
    return ModelStatus(
        name=release.name,
        served=present[-1] if present else None,
        versions=versions,
        labels=dict(led),
        disagreements=tuple(found),
    )


_Live = dict[str, dict[int, VersionState]]


def _live(release: Release, led: dict[str, int]) -> tuple[_Live, dict[str, dict[str, int | None]]]:
    """Return the states of versions, and the version that answers each label, by server."""
    servers = [server.grpc for server in release.servers]
    states = {server: isolate.forked(model_service.states, server, release.name) for server in servers}
    return states, {
        server: {label: isolate.forked(model_service.version_of, server, release.name, label) for label in led}
        for server in servers
    }


def _on_disk(releases: Releases, journal: list[JournalLine], present: list[int]) -> Iterator[str]:
    if (begun := releases.interrupted_rollback()) is not None:
        yield f"a rollback to version {begun.version} was interrupted: run it again"
    published = rules.published(journal)
    retired = {version for line in journal if line.event is Event.ROLLED_BACK for version in line.retired}
    last = max((version for version in published if version not in retired), default=None)
    if last is not None and last not in present:
        yield f"version {last} was promoted on {published[last].time}, and is not on disk"
    for version in present:
        if version not in published:
            intended = any(line.event is Event.PROMOTING and line.version == version for line in journal)
            yield (
                f"version {version} is published and was never confirmed"
                + (": promote the same model again" if version == present[-1] else ", and will not be rolled back to")
                if intended
                else f"version {version} came by hand: nothing is known of it"
            )


def _damaged(
    releases: Releases, published: dict[int, JournalLine], present: list[int], public_key: Path | None
) -> Iterator[str]:
    for version in present:
        if version not in published:
            continue
        try:
            releases.require_whole(version)
            if published[version].evidence or public_key is not None:
                evidence_check.check(releases, version, public_key)
        except EvidenceError as error:
            yield f"version {version} is not what its evidence says: {error.found} ({error.where})"
        except DamagedError as damage:
            yield f"version {version} is damaged: {damage.found}"


def _configured(entry: Entry | None, present: list[int], journal: list[JournalLine]) -> Iterator[str]:
    led = entry.labels if entry else {}
    for version in (entry.versions or ()) if entry else ():
        if version not in present:
            yield f"{FILE} lists version {version}, which is not on disk"
    for label, version in sorted(led.items()):
        if entry is not None and version not in (present if entry.versions is None else entry.versions):
            what = "is not on disk" if entry.versions is None else f"{FILE} does not list"
            yield f"label {label} leads to version {version}, which {what}"
    if (last := rules.last_labels(journal)) != led:
        yield f"{FILE} has the labels {_shown(led)}, the journal {_shown(last)}"


def _served(
    live: _Live,
    answered: dict[str, dict[str, int | None]],
    loaded: set[int],
    led: dict[str, int],
    *,
    chosen: bool,
) -> Iterator[str]:
    """Yield what servers do otherwise. `chosen` is True where a policy of the configuration lets them load other versions too."""
    for server, states in live.items():
        available = {version for version, one in states.items() if one.state == "AVAILABLE"}
        for version in sorted(loaded - available):
            one = states.get(version)
            what = f"{one.state} {one.message}".strip() if one else "unknown there"
            yield f"server {server} does not serve version {version}: {what}"
        for version in sorted(available - loaded if not chosen else ()):
            yield f"server {server} serves version {version}, which it should not"
        for label, version in sorted(led.items()):
            if (found := answered[server][label]) != version:
                yield f"server {server} answers label {label} by {f'version {found}' if found else 'no version'}, not {version}"


def _shown(led: dict[str, int]) -> str:
    return ", ".join(f"{label} {version}" for label, version in sorted(led.items())) or "none"
