"""Versions under a serving root: published whole, withdrawn or rolled back by one rename each, every act journalled.

<serving-root>/<name>/<version>/          what the server serves; nothing but whole versions under such a name
<serving-root>/<name>/<version>.rolled-back, .withdrawn
<serving-root>/<name>/.tfship/journal.jsonl, lock, staging/
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tasks.artifacts import manifest as manifests
from tasks.artifacts.manifest import FileEntry
from tasks.artifacts.store import remove_tree
from tasks.errors import DamagedError, EnvironmentFailure, UsageError
from tasks.records.release import Event, JournalLine
from tasks.releases import rules


class Releases:
    """The releases of one model. Every method that changes something is called inside `open`."""

    def __init__(self, serving_root: Path, name: str) -> None:
        self.root = serving_root.absolute() / name
        self.name = name
        self.own = self.root / ".tfship"

    @contextlib.contextmanager
    def open(self) -> Iterator[Releases]:
        """Hold the model's lock and finish what an interrupted act left.

        Raises:
            EnvironmentFailure: the folder cannot be written.
        """
        try:
            (self.own / "staging").mkdir(parents=True, exist_ok=True)
            with (self.own / "lock").open("w") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX)
                self._repair()
                yield self
        except OSError as error:
            raise EnvironmentFailure.from_os(error, f"serving root {self.root}") from error

    def known(self) -> bool:
        """Whether anything was ever promoted here, by us or by hand."""
        return self.own.is_dir() or self.served() is not None

    def journal(self) -> list[JournalLine]:
        """Every line, oldest first; a last line that a kill cut short is left out.

        Raises:
            DamagedError: another line cannot be read.
        """
        path = self.own / "journal.jsonl"
        lines = path.read_bytes().split(b"\n") if path.exists() else []
        found = []
        for number, line in enumerate(lines[:-1], start=1):
            try:
                found.append(JournalLine.model_validate_json(line))
            except ValidationError:
                remedy = "restore the file from a backup; the versions themselves are untouched."
                raise DamagedError(f"{path}, line {number}", "a journal line", repr(line[:80]), remedy) from None
        return found

    def names(self) -> list[str]:
        """Everything in the base path, as the server sees it."""
        return sorted(path.name for path in self.root.iterdir()) if self.root.exists() else []

    def served(self) -> int | None:
        """The highest version: the one that a server with the default policy serves."""
        found = rules.versions(self.names())
        return found[-1] if found else None

    def digest(self, version: int) -> str | None:
        """What a version on disk is, every byte read; None where it cannot be read."""
        try:
            return manifests.digest_of(manifests.entries(self.root / str(version)))
        except (DamagedError, OSError):
            return None

    def publish(self, source: Path, files: tuple[FileEntry, ...], **facts: Any) -> int:
        """Copy a model, hashing every byte, and make it the next version by one rename; the version.

        It counts as promoted once `confirmed` says so; until then the journal holds the intent.

        Raises:
            DamagedError: `source` is not what `files` says.
        """
        version = rules.next_version(self.names(), self.journal())
        digest = manifests.digest_of(files)
        self.append(event=Event.PROMOTING, version=version, digest=digest, previous=self.served(), **facts)
        staging = self.own / "staging" / str(version)
        staging.mkdir()
        staging.chmod(0o755)
        try:
            manifests.copy_verified(source, staging, files)
        except BaseException:
            remove_tree(staging)
            self.append(event=Event.ABANDONED, version=version, digest=digest)
            raise
        for path in staging.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)  # a server that runs as nobody must read it
        manifests.sync_tree(staging)
        os.rename(staging, self.root / str(version))
        manifests.sync_folder(self.root)
        return version

    def withdraw(self, version: int, digest: str, reason: str) -> None:
        """Take back a version that could not be confirmed; the one before it is the highest again."""
        os.rename(self.root / str(version), self.root / f"{version}{rules.WITHDRAWN}")
        manifests.sync_folder(self.root)
        self.append(event=Event.WITHDRAWN, version=version, digest=digest, reason=reason)

    def roll_back(self, to: int | None, reason: str) -> JournalLine:
        """Make an earlier version the highest again, and hold the digests of the later ones.

        Raises:
            UsageError: there is no such earlier version.
        """
        present = rules.versions(self.names())
        if not present:
            raise UsageError(f"rollback {self.name}", "a served version", f"none in {self.root}", "promote one first.")
        earlier = present[:-1]
        target = to if to is not None else (earlier[-1] if earlier else None)
        if target is None or target not in earlier:
            what = f"version {to}" if to is not None else "a version before it"
            there = ", ".join(map(str, present))
            remedy = "choose an earlier one that is still there: `tfship releases` lists them."
            raise UsageError(f"rollback {self.name}, now at {present[-1]}", what, f"versions {there}", remedy)
        recorded = rules.digests(self.journal())
        retired = {v: recorded.get(v) or self.digest(v) or "" for v in present if v > target}
        self.append(
            event=Event.ROLLING_BACK,
            version=target,
            digest=recorded.get(target) or self.digest(target) or "",
            previous=present[-1],
            retired=retired,
            reason=reason,
        )
        return self._finish_rollback(self.journal()[-1])

    def append(self, **fields: Any) -> JournalLine:
        """Write one journal line and sync it."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = JournalLine(time=now, by=_user(), **fields)
        with (self.own / "journal.jsonl").open("ab") as stream:
            stream.write(line.model_dump_json().encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        return line

    def _repair(self) -> None:
        """Close what an interrupted act left open: a cut line, a copy never renamed, a version never confirmed."""
        path = self.own / "journal.jsonl"
        if path.exists() and not (content := path.read_bytes()).endswith(b"\n") and content:
            with path.open("r+b") as stream:
                stream.truncate(content.rfind(b"\n") + 1)
        for leftover in (self.own / "staging").iterdir():
            remove_tree(leftover)
        journal = self.journal()
        if not journal and (lost := [name for name in self.names() if name.endswith((rules.RETIRED, rules.WITHDRAWN))]):
            remedy = "restore it from a backup: without it nobody knows which models are held."
            raise DamagedError(str(path), f"the history of {', '.join(lost)}", "no line", remedy)
        intent = rules.unfinished(journal)
        if intent is None:
            return
        if intent.event is Event.ROLLING_BACK:
            self._finish_rollback(intent)
        elif (self.root / str(intent.version)).exists():
            self.withdraw(intent.version, intent.digest, "interrupted before it was confirmed")
        else:
            self.append(event=Event.ABANDONED, version=intent.version, digest=intent.digest)

    def _finish_rollback(self, intent: JournalLine) -> JournalLine:
        for version in sorted(intent.retired, reverse=True):  # the highest first: never a gap in what is served
            if (self.root / str(version)).exists():
                os.rename(self.root / str(version), self.root / f"{version}{rules.RETIRED}")
        manifests.sync_folder(self.root)
        facts = intent.model_dump(exclude={"time", "event", "by"})
        return self.append(event=Event.ROLLED_BACK, **facts)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
