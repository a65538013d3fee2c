"""What can be deleted from a store and a serving root, and what stays and why; `tfship gc` shows it, and deletes it.

Versions come first, for their artifacts stay as long as they do.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from flows.config import PipelineConfig, RetentionSettings
from tasks import isolate
from tasks.artifact_views import model_files
from tasks.artifacts import leftovers
from tasks.artifacts.manifest import Manifest, digest_of
from tasks.artifacts.removal import Freed
from tasks.artifacts.retention import chains, is_held, listed
from tasks.artifacts.store import Artifact, Store
from tasks.errors import UsageError
from tasks.records.base import Record
from tasks.records.release import Event
from tasks.releases import rules, server_config
from tasks.releases.publish import Releases, promoted_to
from tasks.releases.retention import Retention, retention
from tasks.serving.clients import model_service

_DAY = 86400.0
_END = "END"  # the state of a version that a server has unloaded


class Removed(Record):
    """What goes or went. `bytes` are those that this frees, after all before it in its list have gone."""

    kind: str
    path: Path
    bytes: int
    reason: str


class Kept(Record):
    """An artifact that stays, and why."""

    path: Path
    reasons: tuple[str, ...]


class Found(Record):
    """What goes and what stays. `in_use` is what a live process holds.

    `models` has the versions of each model, and is empty where neither versions nor runs are limited: nothing of them goes.
    """

    removed: tuple[Removed, ...] = ()
    models: dict[str, Retention] = {}
    artifacts: tuple[Kept, ...] = ()
    in_use: tuple[Path, ...] = ()


def found(settings: PipelineConfig, older_than: float, now: float) -> Found:
    """Return what would go, as things are; nothing is changed.

    `older_than` is in seconds, `now` in seconds since the epoch.

    Raises:
        UsageError: runs are to be kept and there are no reports of them; or the configuration of servers is not one.
        DamagedError: a journal cannot be read.
        EnvironmentFailure: a server does not answer.
    """
    freed, removed, in_use = Freed(), list[Removed](), list[Path]()
    root = settings.store.absolute()
    for leftover in leftovers.leftovers(root, older_than, now):
        removed.append(_removed(leftover, freed.by(leftover.path)))
    models = _models(settings)
    for name, one in models.items():
        releases = Releases(settings.serving_root, name)
        there = rules.folders(releases.names())
        for version, reason in one.surplus.items():
            for folder in there[version]:
                path = releases.root / folder
                removed.append(Removed(kind="version", path=path, bytes=freed.by(path), reason=reason))
    going, kept = _artifacts(settings, models, older_than, now)
    for artifact in going:
        if is_held(artifact.path):
            in_use.append(artifact.path)
        else:
            removed.append(_artifact(artifact, freed.by(artifact.path), settings))
    return Found(removed=tuple(removed), models=models, artifacts=tuple(kept), in_use=tuple(in_use))


def delete(settings: PipelineConfig, older_than: float, now: float) -> Found:
    """Delete what `found` would return, and return what went. Raises as `found`, before anything is deleted.

    Each model's versions are judged again under its lock. A deletion that is killed is finished by the next command.

    Raises:
        EnvironmentFailure: something cannot be removed.
    """
    before = found(settings, older_than, now)
    removed, in_use = list[Removed](), list[Path]()
    models = dict(before.models)
    with _store(settings.store) as store:
        for leftover in leftovers.leftovers(store.root, older_than, now) if store else ():
            size = Freed().by(leftover.path)
            if store and leftovers.remove(store, leftover):
                removed.append(_removed(leftover, size))
            else:
                in_use.append(leftover.path)
        for name, one in before.models.items():
            if not one.surplus and not _deletion_interrupted(settings, name):
                continue
            with Releases(settings.serving_root, name).open() as releases:
                models[name] = _versions(settings, name)
                for version, reason in models[name].surplus.items():
                    for path, size in releases.delete(version, reason):
                        removed.append(Removed(kind="version", path=path, bytes=size, reason=reason))
        history = _history(settings)
        # The models anew: others may have been promoted while this waited for a lock.
        going, kept = _artifacts(settings, _models(settings), older_than, now)
        for artifact in going if store else ():
            # Who used it until now has written down why it stays before letting go of it.
            freed = store.delete(artifact, lambda: _history(settings) != history) if store else None
            if freed is None:
                in_use.append(artifact.path)
            else:
                removed.append(_artifact(artifact, freed, settings))
    return Found(removed=tuple(removed), models=models, artifacts=tuple(kept), in_use=tuple(in_use))


@contextlib.contextmanager
def _store(root: Path) -> Iterator[Store | None]:
    """Provide the store at `root`, from which nobody else deletes meanwhile; None where there is none."""
    if not (root / ".staging").is_dir():
        yield None
        return
    store = Store(root)
    with store.lock("gc", "store"):
        yield store


def _models(settings: PipelineConfig) -> dict[str, Retention]:
    if settings.retention == RetentionSettings():
        return {}
    return {name: _versions(settings, name) for name in promoted_to(settings.serving_root)}


def _versions(settings: PipelineConfig, name: str) -> Retention:
    releases = Releases(settings.serving_root, name)
    loaded = {}
    for server in settings.release.servers:
        states = isolate.forked(model_service.states, server.grpc, name)
        loaded[server.grpc] = [version for version, one in states.items() if one.state != _END]
    names = releases.names()
    journal = releases.journal()  # after the names: a version that is promoted meanwhile did not come by hand
    entry = server_config.entry(server_config.text(settings.serving_root.absolute()), name)
    return retention(names, journal, entry, loaded, settings.retention.versions)


def _deletion_interrupted(settings: PipelineConfig, name: str) -> bool:
    intent = rules.unfinished(Releases(settings.serving_root, name).journal())
    return intent is not None and intent.event is Event.DELETING


def _artifacts(
    settings: PipelineConfig, models: dict[str, Retention], older_than: float, now: float
) -> tuple[list[Artifact], list[Kept]]:
    """Return the artifacts that go, and those that stay. Without a limit of runs none goes, and none is looked at."""
    if settings.retention.runs is None:
        return [], []
    if not settings.reports.is_dir():
        remedy = "name the folder of the reports of your runs: the setting `reports`."
        raise UsageError(f"reports {settings.reports}", "the runs whose artifacts are kept", "no such folder", remedy)
    found = list(listed(settings.store.absolute()))
    roots: dict[str, set[str]] = {}
    for digest, reason in (
        *_of_runs(settings.reports, settings.retention.runs),
        *_of_versions(settings, models, found),
    ):
        roots.setdefault(digest, set()).add(reason)
    needed = chains(roots, [manifest for _, manifest, _ in found])
    going, kept = [], []
    for artifact, _, touched in found:
        reasons = sorted(needed.get(artifact.digest, ()))
        if now - touched <= older_than:
            reasons.append(f"{(now - touched) / _DAY:.1f} days old")
        if reasons:
            kept.append(Kept(path=artifact.path, reasons=tuple(reasons)))
        else:
            going.append(artifact)
    return going, kept


def _of_runs(reports: Path, newest: int) -> Iterator[tuple[str, str]]:
    """Yield the digests of the steps of the newest runs of each name, with the reason.

    A run that cannot be read, as one of another version of tfship, keeps every digest that it names.
    """
    counted: dict[str, int] = {}
    for file in sorted(reports.glob("*/run.json"), reverse=True):
        text = file.read_text(errors="replace")
        try:
            document = json.loads(text)
            name = str(document["name"])
            digests = {str(step["digest"]) for step in document["steps"] if step.get("digest")}
        except (ValueError, KeyError, TypeError, AttributeError):
            name, digests = "", set(re.findall(r"\b[0-9a-f]{64}\b", text))
        if not digests:  # a promotion alone
            continue
        if name:
            counted[name] = counted.get(name, 0) + 1
        if not name or counted[name] <= newest:
            yield from ((digest, f"run {file.parent.name}") for digest in digests)


def _of_versions(
    settings: PipelineConfig, models: dict[str, Retention], found: list[tuple[Artifact, Manifest, float]]
) -> Iterator[tuple[str, str]]:
    """Yield the digests of what each version that stays was promoted from, with the reason.

    Its blessing is that of its promotion, or any other of the same export.
    """
    versions: dict[str, set[str]] = {}  # by blessing, or by the digest of the model
    for name, one in models.items():
        for line in Releases(settings.serving_root, name).journal():
            if line.version in one.kept and line.event in (Event.PROMOTING, Event.PROMOTED):
                for digest in {line.blessing, line.digest} - {""}:
                    versions.setdefault(digest, set()).add(f"version {line.version} of {name}")
    exports = {
        artifact.digest: versions.get(digest_of(model_files(artifact)), set())
        for artifact, _, _ in found
        if artifact.step == "export"
    }
    for artifact, manifest, _ in found:
        reasons = versions.get(artifact.digest, set()) | exports.get(artifact.digest, set())
        if artifact.step == "smoke_test":
            reasons |= exports.get(manifest.inputs.get("exported", ""), set())
        yield from ((artifact.digest, reason) for reason in reasons)


def _history(settings: PipelineConfig) -> tuple[list[Path], dict[Path, int]]:
    """Return what changes when a run ends or a version is released: the runs there are, and the size of each journal."""
    journals = settings.serving_root.glob("*/.tfship/journal.jsonl")
    return sorted(settings.reports.glob("*/run.json")), {path: path.stat().st_size for path in journals}


def _removed(leftover: leftovers.Leftover, size: int) -> Removed:
    return Removed(kind=leftover.kind, path=leftover.path, bytes=size, reason=f"{leftover.age / _DAY:.1f} days old")


def _artifact(artifact: Artifact, size: int, settings: PipelineConfig) -> Removed:
    reason = f"needed by no version and none of the newest {settings.retention.runs} runs"
    return Removed(kind="artifact", path=artifact.path, bytes=size, reason=reason)
