"""Versions under a serving root: each published, withdrawn or rolled back by one rename, with a journal of all changes.

<serving-root>/<name>/<version>/          a complete version; a numeric name never holds anything else
<serving-root>/<name>/<version>.rolled-back, .withdrawn
<serving-root>/<name>/.tfship/journal.jsonl, lock, staging/
<serving-root>/<name>/.tfship/evidence/<version>/    see `tasks/releases/evidence.py`
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tasks.artifacts import manifest as manifests
from tasks.artifacts import removal
from tasks.artifacts.hashes import NONE, READ_ONLY, Hashes
from tasks.artifacts.manifest import FileEntry
from tasks.artifacts.store import remove_tree
from tasks.errors import DamagedError, EnvironmentFailure, UsageError
from tasks.records.release import Event, JournalLine
from tasks.releases import evidence as evidences
from tasks.releases import rules

_SAVED_MODEL = ("saved_model.pb", "saved_model.pbtxt")


class Releases:
    """The releases of one model. Methods that change something must be called inside `open`."""

    def __init__(self, serving_root: Path, name: str) -> None:
        self.root = serving_root.absolute() / name
        self.name = name
        self.own = self.root / ".tfship"

    @contextlib.contextmanager
    def open(self) -> Iterator[Releases]:
        """Hold the model's lock, and first finish or undo an interrupted change; see `unconfirmed` for what stays.

        Raises:
            EnvironmentFailure: the folder cannot be written.
        """
        try:
            _make_readable(self.root)
            (self.own / "staging").mkdir(parents=True, exist_ok=True)
            with (self.own / "lock").open("w") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX)
                self._repair()
                yield self
        except OSError as error:
            raise EnvironmentFailure.from_os(error, f"serving root {self.root}") from error

    def known(self) -> bool:
        """Return True if a version was ever promoted here, by tfship or by hand."""
        return self.own.is_dir() or self.served() is not None

    def journal(self) -> list[JournalLine]:
        """Read all journal lines, oldest first. A last line that a kill cut short is left out.

        Raises:
            DamagedError: any other line cannot be read.
        """
        path = self.own / "journal.jsonl"
        lines = path.read_bytes().split(b"\n") if path.exists() else []
        found = []
        for number, line in enumerate(lines[:-1], start=1):
            try:
                found.append(JournalLine.model_validate_json(line))
            except ValidationError:
                remedy = "restore the file from a backup; the versions themselves are not affected."
                raise DamagedError(f"{path}, line {number}", "a journal line", repr(line[:80]), remedy) from None
        return found

    def names(self) -> list[str]:
        """List the names in the base path, as the server sees them."""
        return sorted(path.name for path in self.root.iterdir()) if self.root.exists() else []

    def served(self) -> int | None:
        """Return the highest version, which a server with the default policy serves, or None."""
        found = rules.versions(self.names())
        return found[-1] if found else None

    def folder(self, version: int) -> Path:
        """Return the folder of a version on disk, by its own name: 0007 is version 7.

        Raises:
            UsageError: there is no such version.
        """
        names = self.names()
        if found := next((name for name in names if rules.versions([name]) == [version]), None):
            return self.root / found
        there = ", ".join(map(str, rules.versions(names))) or "none"
        remedy = f"choose one of these: `tfship releases {self.name}` says what they are."
        raise UsageError(f"model {self.name}", f"version {version}", there, remedy)

    def files(self, version: int, base: Path) -> list[tuple[Path, Path]]:
        """Return the files of a version on disk, each with its path in `base`, a base path for a server. Raises UsageError."""
        place = self.folder(version)
        files = [path for path in sorted(place.rglob("*")) if path.is_file()]
        return [(path, base / str(version) / path.relative_to(place)) for path in files]

    def evidence(self, version: int) -> Path:
        """Return the path of the evidence of a version, whether or not it exists."""
        return self.own / "evidence" / str(version)

    def upcoming(self) -> int:
        """Return the number that the next version gets, greater than every number ever used here."""
        kept = [path.name for path in self.evidence(0).parent.glob("*")]
        return rules.next_version([*self.names(), *kept], self.journal())

    def digest(self, version: int) -> str | None:
        """Compute the digest of a version on disk from its bytes; None if it cannot be read."""
        return self._digests(version)[0] or None

    def _held(self, version: int, line: JournalLine | None) -> tuple[str, str]:
        """Return the two digests by which a version is held: those of its promotion, where the journal has them."""
        if line is not None and line.model:
            return line.digest, line.model
        digest, model = self._digests(version)
        return (line.digest if line is not None else digest), model

    def _digests(self, version: int) -> tuple[str, str]:
        """Return the digest of a version on disk, and that of what it computes; empty if it cannot be read."""
        try:
            files = manifests.entries(self.folder(version))
        except (DamagedError, OSError, UsageError):
            return "", ""
        return manifests.digest_of(files), rules.model_digest(files)

    def publish(
        self,
        source: Path,
        files: tuple[FileEntry, ...],
        hashes: Hashes = NONE,
        evidence: Callable[[int, Path, Path], None] | None = None,
        **facts: Any,
    ) -> int:
        """Bring a model, hashing every byte, make it the next version by one rename, and return that version.

        On the file system of the store its files are linked: read-only, and of no size of their own. `evidence` is called
        with the number, the folder that becomes this version, and a folder that it fills: this gets its place first, so
        that there is never a version without its evidence.

        The journal holds the intent until the caller appends `Event.PROMOTED`.

        Raises:
            DamagedError: `source` differs from `files`.
        """
        version = self.upcoming()
        digest = manifests.digest_of(files)
        model = rules.model_digest(files)
        self.append(event=Event.PROMOTING, version=version, digest=digest, model=model, previous=self.served(), **facts)
        staging, proof = self.own / "staging" / str(version), self.own / "staging" / f"{version}.evidence"
        staging.mkdir()
        staging.chmod(0o755)
        try:
            manifests.bring_verified(source, staging, files, hashes)
            if evidence is not None:
                proof.mkdir()
                evidence(version, staging, proof)
                evidences.seal(proof)
        except BaseException:
            remove_tree(staging)
            remove_tree(proof)
            self.append(event=Event.ABANDONED, version=version, digest=digest)
            raise
        for path in staging.rglob("*"):
            if path.is_dir():
                path.chmod(0o755)  # a server may run as another user
            elif stat.S_IMODE(path.stat().st_mode) != READ_ONLY:
                path.chmod(0o644)
        manifests.sync_tree(staging)
        if evidence is not None:
            place = self.evidence(version)
            place.parent.mkdir(exist_ok=True)
            manifests.sync_folder(self.own)
            os.rename(proof, place)
            manifests.sync_folder(place.parent)
        os.rename(staging, self.root / str(version))
        manifests.sync_folder(self.root)
        return version

    def unconfirmed(self) -> dict[int, JournalLine]:
        """Map each version that was published, and whose promotion was killed before it was confirmed, to its intent.

        It stays as it is, for clients may be answered by it, until the same model is promoted again, which confirms it.
        """
        there = {*rules.versions(self.names())}
        return {version: line for version, line in rules.unconfirmed(self.journal()).items() if version in there}

    def interrupted_rollback(self) -> JournalLine | None:
        """Return the intent of a rollback of labels that was interrupted: only `rollback` can finish it, with its servers."""
        intent = rules.unfinished(self.journal())
        return intent if intent is not None and intent.event is Event.ROLLING_BACK else None

    def require_settled(self) -> None:
        """Raise UsageError where an interrupted rollback has to be finished before anything else is changed."""
        if (intent := self.interrupted_rollback()) is not None:
            remedy = f"finish it: tfship rollback {self.name} --to {intent.version} --reason TEXT --server HOST:PORT."
            found = f"one to version {intent.version}, of {intent.time}"
            raise UsageError(f"model {self.name}", "no interrupted rollback", found, remedy)

    def withdraw(self, version: int, digest: str, reason: str) -> None:
        """Withdraw a version that could not be confirmed, so that the one before it is the highest again."""
        self._finish_withdrawal(self.append(event=Event.WITHDRAWING, version=version, digest=digest, reason=reason))

    def earlier(self, to: int | None, current: int | None = None) -> int:
        """Return the version to roll back to from `current` (None: the highest): `to`, or the one before it.

        Versions that were never confirmed do not count.

        Raises:
            UsageError: there is no such earlier version.
        """
        present, unconfirmed = rules.versions(self.names()), self.unconfirmed()
        if not present:
            raise UsageError(f"rollback {self.name}", "a served version", f"none in {self.root}", "promote one first.")
        current = present[-1] if current is None else current
        earlier = [version for version in present if version < current and version not in unconfirmed]
        target = to if to is not None else (earlier[-1] if earlier else None)
        if target is None or target not in earlier:
            what = f"version {to}" if to is not None else "a version before it"
            there = ", ".join(map(str, present))
            remedy = f"choose an earlier version: `tfship releases {self.name}` lists them."
            raise UsageError(f"rollback {self.name}, now at {current}", what, f"versions {there}", remedy)
        return target

    def require_whole(self, version: int) -> None:
        """Read all of a version on disk, and check that it is what was promoted under this number.

        Raises:
            DamagedError: it is not; or it came by hand, and is no SavedModel.
        """
        line = rules.published(self.journal()).get(version)
        if line is None:
            self.require_saved_model(version)
        elif (found := self.digest(version)) != line.digest:
            raise DamagedError(
                str(self.root / str(version)),
                f"the files that were promoted on {line.time}, {line.digest[:12]}",
                f"others, {found[:12]}" if found else "files that cannot be read",
                f"choose another version: `tfship releases {self.name}` lists them.",
            )

    def require_saved_model(self, version: int) -> None:
        """Raise DamagedError for a version that is no SavedModel: a server takes whatever has an integer name for a version.

        It tries the highest first when it starts
        (tensorflow_serving/sources/storage_path/file_system_storage_path_source.cc).
        """
        place = self.folder(version)
        if not place.is_dir():
            found = "a file" if place.is_file() else "a broken link"
        elif not any((place / name).is_file() for name in _SAVED_MODEL):
            found = "a folder without a saved_model.pb"
        elif (place / "variables").is_dir() and not (place / "variables" / "variables.index").is_file():
            found = "a folder without a variables.index"
        else:
            return
        remedy = (
            f"move it out of {self.root}: a server that starts there tries it first, and a rollback would select it."
        )
        raise DamagedError(str(place), "a version that a server can load", found, remedy)

    def begin_rollback(
        self, target: int, reason: str, current: int | None = None, labels: dict[str, int] | None = None
    ) -> JournalLine:
        """Write down that the versions above `target`, up to `current` (None: all), are to be retired and held.

        `labels` are those that the caller brings about before `finish_rollback`; without them nothing is to be done in between.
        """
        present = rules.versions(self.names())
        published = rules.published(self.journal())
        current = present[-1] if current is None else current
        taken = [version for version in present if target <= version <= current]
        digests = {version: self._held(version, published.get(version)) for version in taken}
        digest, _ = digests.pop(target)
        return self.append(
            event=Event.ROLLING_BACK,
            version=target,
            digest=digest,
            previous=current,
            retired={version: whole for version, (whole, _) in digests.items()},
            retired_models={version: model for version, (_, model) in digests.items()},
            reason=reason,
            labels=labels,
        )

    def abandon(self, intent: JournalLine) -> None:
        """Write down that a change was begun and will not be made."""
        self.append(event=Event.ABANDONED, version=intent.version, digest=intent.digest)

    def append(self, **fields: Any) -> JournalLine:
        """Write one journal line, `by` this user unless another is given, and sync it."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = JournalLine(**(fields | {"time": now, "by": fields.get("by") or _user()}))
        with (self.own / "journal.jsonl").open("ab") as stream:
            stream.write(line.model_dump_json().encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        return line

    def _repair(self) -> None:
        """Finish or undo an interrupted change: a truncated line, a copy not renamed, a version not confirmed."""
        path = self.own / "journal.jsonl"
        if path.exists() and not (content := path.read_bytes()).endswith(b"\n") and content:
            with path.open("r+b") as stream:
                stream.truncate(content.rfind(b"\n") + 1)
        for leftover in (self.own / "staging").iterdir():
            remove_tree(leftover)
        journal = self.journal()
        if not journal and (lost := [name for name in self.names() if name.endswith((rules.RETIRED, rules.WITHDRAWN))]):
            remedy = "restore it from a backup: without it, held models cannot be recognised."
            raise DamagedError(str(path), f"the history of {', '.join(lost)}", "no line", remedy)
        intent = rules.unfinished(journal)
        if intent is None:
            return
        if intent.event is Event.ROLLING_BACK:
            if intent.labels is None:  # else servers have to be seen to follow: see `require_settled`
                self.finish_rollback(intent)
        elif intent.event is Event.WITHDRAWING:
            self._finish_withdrawal(intent)
        elif intent.event is Event.DELETING:
            self._finish_deletion(intent)
        elif not (self.root / str(intent.version)).exists():
            remove_tree(self.evidence(intent.version))
            self.abandon(intent)
        elif self.digest(intent.version) != intent.digest:
            self.withdraw(intent.version, intent.digest, "its files are not those that were published")

    def _finish_withdrawal(self, intent: JournalLine) -> None:
        version = str(intent.version)
        if (self.root / version).exists():
            os.rename(self.root / version, self.root / f"{version}{rules.WITHDRAWN}")
            manifests.sync_folder(self.root)
        self.append(event=Event.WITHDRAWN, version=intent.version, digest=intent.digest, reason=intent.reason)

    def delete(self, version: int, reason: str) -> list[tuple[Path, int]]:
        """Delete what lies here of a version, and return each folder with the bytes that this freed.

        The journal keeps its number, which is not used again, and its digests, which stay held.

        Raises:
            EnvironmentFailure: this user may not remove it; nothing of it is removed then.
        """
        for name in rules.folders(self.names()).get(version, ()):
            removal.require_removable(self.root / name)
        digest, model = rules.digests(self.journal()).get(version, ("", ""))
        intent = self.append(event=Event.DELETING, version=version, digest=digest, model=model, reason=reason)
        return self._finish_deletion(intent)

    def _finish_deletion(self, intent: JournalLine) -> list[tuple[Path, int]]:
        """Take each folder out of the base path by one rename, before any of its files goes; close the intent."""
        freed = []
        for name in rules.folders(self.names()).get(intent.version, ()):
            gone = self.own / "staging" / f"{name}.deleted"  # where `_repair` removes what is left of it
            try:
                os.rename(self.root / name, gone)
            except OSError:
                self.abandon(intent)  # what cannot be moved must not stop all later commands
                raise
            manifests.sync_folder(self.root)
            freed.append((self.root / name, removal.Freed().by(gone)))
            remove_tree(gone)
        self.append(**intent.model_dump(exclude={"time", "event", "by"}), event=Event.DELETED)
        return freed

    def finish_rollback(self, intent: JournalLine) -> JournalLine:
        """Retire the versions of an intent, the highest first, so that a version is always served; close it in the journal."""
        for version in sorted({*intent.retired} & {*rules.versions(self.names())}, reverse=True):
            os.rename(self.folder(version), self.root / f"{version}{rules.RETIRED}")
        manifests.sync_folder(self.root)
        facts = intent.model_dump(exclude={"time", "event", "by"})
        return self.append(event=Event.ROLLED_BACK, **facts)


def promoted_to(serving_root: Path) -> list[str]:
    """Return the models that have releases under a serving root."""
    folders = [path.name for path in serving_root.iterdir() if path.is_dir()] if serving_root.is_dir() else []
    return sorted(folder for folder in folders if Releases(serving_root, folder).known())


def require_promoted(serving_root: Path, name: str) -> None:
    """Raise UsageError where a serving root has no model of that name, for a mistyped name must create nothing."""
    if name not in (known := promoted_to(serving_root)):
        remedy = "choose one of these, give another --serving-root, or promote it first: `tfship run`."
        expected = f"a model that was promoted to {serving_root}"
        raise UsageError(f"model {name}", expected, ", ".join(known) or "none", remedy)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _make_readable(folder: Path) -> None:
    """Make a folder and those on the way to it, readable whatever the umask: a server may run as another user.

    Folders that were there before and are not tfship's keep their modes.
    """
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in {*missing, folder, *(parent for parent in folder.parents if parent.name == ".tfship")}:
        mode = stat.S_IMODE(one.stat().st_mode)
        with contextlib.suppress(PermissionError):  # somebody else's
            if mode & 0o055 != 0o055:
                one.chmod(mode | 0o055)
