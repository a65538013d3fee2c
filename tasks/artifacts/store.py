"""The store: committed directories by step and key, each complete or absent.

<store>/<step>/<key>/            one committed artifact: files and manifest.json, all read-only
<store>/.staging/<step>/<key>/   a build in progress; kept when the step can resume
<store>/.locks/                  one file per key, held with flock during a build
<store>/.verified/               known hashes (local, disposable)
<store>/.aside/                  damaged or replaced artifacts; never deleted by a run
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tasks.artifacts import manifest as manifests
from tasks.artifacts import removal
from tasks.artifacts.hashes import Fields, Hashes, fields_of
from tasks.artifacts.manifest import FileEntry, Manifest
from tasks.artifacts.staging import own_folders, remove_tree, reopen
from tasks.errors import DamagedError, EnvironmentFailure, PipelineError, Refusal
from tasks.records.base import Record

__all__ = ["DELETED", "REFUSAL", "Artifact", "Builder", "InUseError", "Recipe", "Store", "give_up", "remove_tree"]

REFUSAL = "refusal.json"
DELETED = ".deleted"
"""The end of the name of what is set aside to be deleted at once."""
Builder = Callable[[Path], None]
_LOCK_SECONDS = 0.1


class Artifact(Record):
    """A committed directory: its path, the digest of its contents, and the step that made it."""

    step: str
    key: str
    path: Path
    digest: str

    @property
    def manifest(self) -> Manifest:
        """Read its manifest.

        Raises:
            DamagedError: it cannot be read, or another artifact has taken its place.
        """
        found = Manifest.read(self.path)
        if found.digest != self.digest:
            raise manifests.damaged(self.path, [f"replaced by {found.digest[:12]}, which another process built"])
        return found

    def refusal(self) -> Refusal | None:
        """Return the refusal of the model that this artifact records, or None."""
        path = self.path / REFUSAL
        if not path.exists():
            return None
        error = PipelineError.decode(manifests.read_json(path))
        assert isinstance(error, Refusal)
        return error


class Recipe(Record):
    """The inputs of a build, from which its key is computed; recorded in the manifest."""

    step: str
    step_version: int
    inputs: dict[str, str]
    params: dict[str, Any]
    versions: dict[str, str]
    key: str


class Store:
    """A folder of artifacts, shared by any number of processes of one host.

    `warn` is called with one sentence for every damaged artifact that is found.
    """

    def __init__(self, root: Path, warn: Callable[[str], None] = lambda message: None) -> None:
        self.root = root.absolute()
        self.warn = warn
        self.hashes = Hashes(self.root / ".verified")
        self._held: dict[Path, int] = {}
        self._holding = threading.Lock()
        weakref.finalize(self, _let_go, self._held)
        try:
            for name in (".staging", ".locks", ".verified", ".aside"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
            probe = self.root / ".locks" / f".writable-{os.getpid()}"
            probe.touch()
            probe.unlink(missing_ok=True)  # another thread may have just opened the same store
        except OSError as error:
            raise EnvironmentFailure.from_os(error, f"store {self.root}") from None

    def place(self, step: str, key: str) -> Path:
        """Return the path of the artifact of a key, whether or not it exists."""
        return self.root / step / key

    def staging(self, step: str, key: str) -> Path:
        """Return the path of the staging folder of a key."""
        return self.root / ".staging" / step / key

    def artifacts(self, step: str) -> list[Artifact]:
        """List the committed artifacts of a step, oldest first; damaged ones are left out."""
        found = []
        for place in (self.root / step).glob("*"):
            with contextlib.suppress(DamagedError, FileNotFoundError):  # another process may set it aside
                found.append((place.stat().st_mtime_ns, self._artifact(Manifest.read(place), place)))
        return [artifact for _, artifact in sorted(found, key=lambda dated: dated[0])]

    def find(self, step: str, key: str, *, full: bool = False, read: set[Fields] | None = None) -> Artifact | None:
        """Return the verified artifact of a key, or None.

        A full check reads every file, except those in `read`, to which it adds what it reads: several artifacts may
        share a file.

        The quick check compares size, times and inode with their values when the file was last hashed, and falls back
        to a full hash where they differ or are unknown, as in a moved store. A damaged artifact is reported to `warn`
        and set aside, and None is returned. Artifacts may share a file: damage to it is found in each of them.
        """
        with contextlib.suppress(DamagedError), self._environment(step):
            place = self.place(step, key)
            return self.verify(place, full=full, read=read) if place.exists() else None
        # Another process may be replacing it: check again under the lock before moving anything.
        with self.lock(step, key):
            return self.find_locked(step, key, full=full)

    def find_locked(self, step: str, key: str, *, full: bool = False) -> Artifact | None:
        """`find`, for a caller that holds the key's lock."""
        place = self.place(step, key)
        with self._environment(step):
            if not place.exists():
                return None
            try:
                return self.verify(place, full=full)
            except DamagedError as damage:
                self._set_aside_damaged(place, damage)
                return None

    def verify(self, place: Path, *, full: bool = False, read: set[Fields] | None = None) -> Artifact:
        """Check every file of the artifact at `place`, as `find` does, and return it.

        Raises:
            DamagedError: a file is missing, changed, or was added.
        """
        try:
            return self._verify(place, full, set() if read is None else read)
        except FileNotFoundError as gone:  # removed during the check
            raise manifests.damaged(place, [f"{gone.filename} is missing"]) from None

    def _verify(self, place: Path, full: bool, read: set[Fields]) -> Artifact:
        manifest = Manifest.read(place)
        if (manifest.step, manifest.key) != (place.parent.name, place.name):
            raise manifests.damaged(place, [f"its manifest belongs to {manifest.step}/{manifest.key}"])
        names = {entry.path for entry in manifest.files}
        present = set(manifests.walk(place))
        problems = [f"{name} is missing" for name in sorted(names - present)]
        problems += [f"{name} was added" for name in sorted(present - names)]
        for entry in manifest.files:
            if entry.path not in present:
                continue
            path = place / entry.path
            size = path.lstat().st_size
            if size != entry.size:
                problems.append(f"{entry.path} has {size} bytes instead of {entry.size}")
                continue
            fields = fields_of(path)
            again = full and fields not in read
            read.add(fields)
            if (self.hashes.read(path) if again else self.hashes.of(path)) != entry.sha256:
                problems.append(f"{entry.path} has changed")
        if problems:
            raise manifests.damaged(place, problems)
        return self._artifact(manifest, place)

    @contextlib.contextmanager
    def lock(self, step: str, key: str, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold the lock of a key: one builder at a time. The kernel releases it when its holder dies.

        `waiting` is called now and then while another process holds it, and may raise to give up.
        """
        with contextlib.ExitStack() as held:
            with self._environment(step):
                stream = held.enter_context((self.root / ".locks" / f"{step}-{key}").open("w"))
                while True:
                    try:
                        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        break
                    except BlockingIOError:
                        waiting()
                        time.sleep(_LOCK_SECONDS)
            yield

    def build(self, recipe: Recipe, builder: Builder, *, resumes: bool = False, refresh: bool = False) -> Artifact:
        """Build and commit one artifact, or return the one that another process committed first.

        `builder` writes into the folder that it receives. A Refusal that it raises is committed with the artifact; any
        other exception leaves no artifact, and no staging folder unless the step resumes. An existing artifact is
        replaced unless the new one has the same digest. The caller holds the lock of the key.
        """
        staging = self.staging(recipe.step, recipe.key)
        with self._environment(recipe.step):
            replace = self.place(recipe.step, recipe.key).exists()
            if resumes and not refresh:
                reopen(staging, without=(manifests.NAME, REFUSAL))
            else:
                remove_tree(staging)
            staging.mkdir(parents=True, exist_ok=True)
            started = time.monotonic()
            try:
                refusal = _refusal(builder, staging)
                own_folders(staging)
                for name in (manifests.NAME, REFUSAL):
                    if (staging / name).exists():
                        remedy = "rename it: the store needs that name."
                        raise PipelineError(recipe.step, f"no file named {name}", "one", remedy)
                if refusal:
                    (staging / REFUSAL).write_text(json.dumps(refusal.encode(), indent=1, sort_keys=True))
                return self.commit(recipe, staging, seconds=time.monotonic() - started, replace=replace)
            finally:
                if not resumes:
                    remove_tree(staging)

    def commit(self, recipe: Recipe, staging: Path, *, seconds: float, replace: bool = False) -> Artifact:
        """Turn a staging folder into an artifact: make it read-only, sync it, hash what was not hashed yet, rename it once.

        An intact artifact of the same key is returned instead, unless `replace` is set and its digest differs.
        """
        files = tuple(
            FileEntry(path=name, sha256=self.hashes.sealed(staging / name), size=(staging / name).stat().st_size)
            for name in manifests.walk(staging)
        )
        manifest = Manifest(
            **recipe.model_dump(),
            digest=manifests.digest_of(files),
            files=files,
            built_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            seconds=round(seconds, 3),
        ).sealed()
        with (staging / manifests.NAME).open("w") as stream:
            stream.write(manifest.model_dump_json(indent=1))
            stream.flush()
            os.fsync(stream.fileno())
        (staging / manifests.NAME).chmod(0o444)
        manifests.sync_tree(staging)
        place = self.place(recipe.step, recipe.key)
        place.parent.mkdir(parents=True, exist_ok=True)
        manifests.sync_folder(self.root)
        while True:
            if place.exists():
                try:
                    present = self.verify(place)
                except DamagedError as damage:
                    self._set_aside_damaged(place, damage)
                else:
                    if not replace or present.digest == manifest.digest:
                        remove_tree(staging)  # another process has committed the same key first
                        return present
                    self.set_aside(place)
            try:
                staging.rename(place)
                break
            except OSError:
                if not place.exists():
                    raise
        manifests.sync_folder(place.parent)
        return self._artifact(manifest, place)

    def hold(self, artifact: Artifact) -> bool:
        """Keep an artifact from being deleted until `close` or the end of this store; False if it is no longer there.

        The lock is on its folder, shared by all that read it: it goes with the folder wherever that is moved.
        """
        place = artifact.path
        with self._environment(artifact.step):
            try:
                descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:
                return False
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                there = place.exists() and os.path.samestat(place.stat(), os.fstat(descriptor))
            except BaseException:
                os.close(descriptor)
                raise
            with self._holding:
                before = self._held.pop(place, None) if there else descriptor
                if there:
                    self._held[place] = descriptor
            if before is not None:
                os.close(before)
            return there

    def close(self) -> None:
        """Let go of all artifacts that are held."""
        _let_go(self._held)

    def delete(self, artifact: Artifact, wanted: Callable[[], bool]) -> int | None:
        """Delete an artifact, and return the bytes that this freed; None if a process holds or builds it, or it was replaced.

        None, too, if it is `wanted`, which is asked when nobody holds it any longer and nobody can. It is set aside by one
        rename, so that no reader finds a part of it.
        """
        try:
            with self.lock(artifact.step, artifact.key, give_up), self._environment(artifact.step):
                return self._delete_locked(artifact, wanted)
        except (InUseError, DamagedError):
            return None

    def _delete_locked(self, artifact: Artifact, wanted: Callable[[], bool]) -> int | None:
        try:
            descriptor = os.open(artifact.path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if Manifest.read(artifact.path).digest != artifact.digest or wanted():
                return None
            aside = self.set_aside(artifact.path, DELETED)
        except BlockingIOError:
            return None
        finally:
            os.close(descriptor)
        freed = removal.Freed().by(aside)
        remove_tree(aside)
        return freed

    def set_aside(self, place: Path, ending: str = "") -> Path:
        """Move an artifact to `.aside` without losing it."""
        aside = self.root / ".aside" / f"{place.parent.name}-{place.name}-{time.time_ns()}{ending}"
        place.rename(aside)
        return aside

    def _set_aside_damaged(self, place: Path, damage: DamagedError) -> None:
        aside = self.set_aside(place)
        self.warn(f"{place.parent.name} {place.name} is damaged ({damage.found}); set aside as {aside}")

    @contextlib.contextmanager
    def _environment(self, step: str) -> Iterator[None]:
        """Turn an OSError of this block into an EnvironmentFailure: it is no verdict on the model."""
        try:
            yield
        except OSError as error:
            raise EnvironmentFailure.from_os(error, f"{step} in {self.root}") from error

    def _artifact(self, manifest: Manifest, place: Path) -> Artifact:
        return Artifact(step=manifest.step, key=manifest.key, path=place, digest=manifest.digest)


class InUseError(Exception):
    """A live process holds the lock of the key."""


def _let_go(held: dict[Path, int]) -> None:
    while held:
        os.close(held.popitem()[1])


def give_up() -> None:
    """Raise InUseError: the `waiting` of a caller that waits for no lock."""
    raise InUseError


def _refusal(builder: Builder, staging: Path) -> Refusal | None:
    try:
        builder(staging)
    except Refusal as refusal:
        return refusal
    return None
