"""The store: committed directories by step and key, each whole or absent.

<store>/<step>/<key>/            one committed artifact: files and manifest.json, all read-only
<store>/.staging/<step>/<key>/   being built; kept when the step can resume
<store>/.locks/                  one file a key, held with flock while it is built
<store>/.verified/               what a file looked like when it was last hashed (local, disposable)
<store>/.aside/                  what was damaged or replaced; never deleted by a run
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tasks.artifacts import manifest as manifests
from tasks.artifacts.manifest import Manifest
from tasks.artifacts.quick_check import Memory
from tasks.artifacts.staging import own_folders, remove_tree, reopen
from tasks.errors import DamagedError, EnvironmentFailure, PipelineError, Refusal
from tasks.records.base import Record

__all__ = ["REFUSAL", "Artifact", "Builder", "Recipe", "Store", "remove_tree"]

REFUSAL = "refusal.json"
Builder = Callable[[Path], None]


class Artifact(Record):
    """A committed directory: where it is, what it is (`digest`), and which step made it."""

    step: str
    key: str
    path: Path
    digest: str

    @property
    def manifest(self) -> Manifest:
        """Its manifest.

        Raises:
            DamagedError: it cannot be read, or what lies there by now is another artifact than this one.
        """
        found = Manifest.read(self.path)
        if found.digest != self.digest:
            raise manifests.damaged(self.path, [f"another process has built {found.digest[:12]} there meanwhile"])
        return found

    def refusal(self) -> Refusal | None:
        """The verdict against the model that this artifact records, if it does."""
        path = self.path / REFUSAL
        if not path.exists():
            return None
        error = PipelineError.decode(manifests.read_json(path))
        assert isinstance(error, Refusal)
        return error


class Recipe(Record):
    """What makes an artifact: enough to compute its key, and recorded in its manifest."""

    step: str
    step_version: int
    inputs: dict[str, str]
    params: dict[str, Any]
    versions: dict[str, str]
    key: str


class Store:
    """A folder of artifacts, shared by any number of processes of one host.

    `warn` is told, in one sentence, of everything that was found damaged.
    """

    def __init__(self, root: Path, warn: Callable[[str], None] = lambda message: None) -> None:
        self.root = root.absolute()
        self.warn = warn
        self._memory = Memory(self.root / ".verified")
        try:
            for name in (".staging", ".locks", ".verified", ".aside"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
            probe = self.root / ".locks" / f".writable-{os.getpid()}"
            probe.touch()
            probe.unlink(missing_ok=True)  # another thread may have just opened the same store
        except OSError as error:
            raise EnvironmentFailure.from_os(error, f"store {self.root}") from None

    def place(self, step: str, key: str) -> Path:
        """Where the artifact of that key lives, or would."""
        return self.root / step / key

    def staging(self, step: str, key: str) -> Path:
        """Where that key is built."""
        return self.root / ".staging" / step / key

    def artifacts(self, step: str) -> list[Artifact]:
        """Every committed artifact of a step, oldest first; damaged ones are left out."""
        found = []
        for place in (self.root / step).glob("*"):
            with contextlib.suppress(DamagedError, FileNotFoundError):  # it may be set aside just now
                found.append((place.stat().st_mtime_ns, self._artifact(Manifest.read(place), place)))
        return [artifact for _, artifact in sorted(found, key=lambda dated: dated[0])]

    def find(self, step: str, key: str, *, full: bool = False) -> Artifact | None:
        """The artifact of that key, verified, or None.

        The quick check compares size, times and inode with what they were when the file was last hashed, and falls
        back to a full hash where they differ or are unknown, as in a moved store. A damaged artifact is named, set
        aside, and None is returned. Artifacts share no files: damage to one is damage to that one alone.
        """
        with contextlib.suppress(DamagedError), self._environment(step):
            place = self.place(step, key)
            return self.verify(place, full=full) if place.exists() else None
        # Another process may be replacing it just now: look again under the lock before moving anything.
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

    def verify(self, place: Path, *, full: bool = False) -> Artifact:
        """The artifact at `place`, every file checked.

        Raises:
            DamagedError: a file is missing, changed, or was added.
        """
        try:
            return self._verify(place, full)
        except FileNotFoundError as gone:  # while it was looked at
            raise manifests.damaged(place, [f"{gone.filename} is missing"]) from None

    def _verify(self, place: Path, full: bool) -> Artifact:
        manifest = Manifest.read(place)
        if (manifest.step, manifest.key) != (place.parent.name, place.name):
            raise manifests.damaged(place, [f"its manifest belongs to {manifest.step}/{manifest.key}"])
        names = {entry.path for entry in manifest.files}
        present = set(manifests.walk(place))
        problems = [f"{name} is missing" for name in sorted(names - present)]
        problems += [f"{name} was added" for name in sorted(present - names)]
        known = {} if full else self._memory.recall(place)
        seen = {}
        for entry in manifest.files:
            if entry.path not in present:
                continue
            path = place / entry.path
            fields = seen[entry.path] = manifests.stat_fields(path)  # before hashing: a change meanwhile shows
            if known.get(entry.path) == fields:
                continue
            size = fields[0]
            if size != entry.size:
                problems.append(f"{entry.path} has {size} bytes instead of {entry.size}")
            elif manifests.hash_file(path) != entry.sha256:
                problems.append(f"{entry.path} has changed")
        if problems:
            raise manifests.damaged(place, problems)
        if seen != known:
            self._memory.remember(place, seen)
        return self._artifact(manifest, place)

    @contextlib.contextmanager
    def lock(self, step: str, key: str, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold the key: one builder at a time. The kernel frees it when its holder dies."""
        with contextlib.ExitStack() as held:
            with self._environment(step):
                stream = held.enter_context((self.root / ".locks" / f"{step}-{key}").open("w"))
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    waiting()
                    fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    def build(self, recipe: Recipe, builder: Builder, *, resumes: bool = False, refresh: bool = False) -> Artifact:
        """Build and commit one artifact, or return what another process committed meanwhile.

        `builder` writes into the folder it is given. A Refusal that it raises is committed as the artifact's
        verdict; anything else leaves no artifact, and no staging either unless the step resumes.
        An artifact that is there when this is called is replaced, unless the new one has the same digest.
        The caller holds the key's lock.
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
                        raise PipelineError(recipe.step, f"no file called {name}", "one", "the store needs that name.")
                if refusal:
                    (staging / REFUSAL).write_text(json.dumps(refusal.encode(), indent=1, sort_keys=True))
                return self.commit(recipe, staging, seconds=time.monotonic() - started, replace=replace)
            finally:
                if not resumes:
                    remove_tree(staging)

    def commit(self, recipe: Recipe, staging: Path, *, seconds: float, replace: bool = False) -> Artifact:
        """Make what was staged an artifact: made read-only, synced, read back and hashed, renamed once.

        An artifact that is already there is returned in its stead when it is whole, unless `replace` is set and it
        has another digest.
        """
        seen = {}
        for name in manifests.walk(staging):
            path = staging / name
            path.chmod(0o444)
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
            seen[name] = manifests.stat_fields(path)  # before hashing: a change meanwhile shows
        files = manifests.entries(staging)
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
                        remove_tree(staging)  # whoever committed it meanwhile: what it committed is as good
                        return present
                    self.set_aside(place)
            try:
                staging.rename(place)
                break
            except OSError:
                if not place.exists():
                    raise
        manifests.sync_folder(place.parent)
        self._memory.remember(place, seen)
        return self._artifact(manifest, place)

    def set_aside(self, place: Path) -> Path:
        """Move an artifact out of the way without losing it."""
        aside = self.root / ".aside" / f"{place.parent.name}-{place.name}-{time.time_ns()}"
        place.rename(aside)
        return aside

    def _set_aside_damaged(self, place: Path, damage: DamagedError) -> None:
        aside = self.set_aside(place)
        self.warn(f"{place.parent.name} {place.name} is damaged ({damage.found}); set aside as {aside}")

    @contextlib.contextmanager
    def _environment(self, step: str) -> Iterator[None]:
        """Whatever the system refuses in this block is the environment's failure, not the model's."""
        try:
            yield
        except OSError as error:
            raise EnvironmentFailure.from_os(error, f"{step} in {self.root}") from error

    def _artifact(self, manifest: Manifest, place: Path) -> Artifact:
        return Artifact(step=manifest.step, key=manifest.key, path=place, digest=manifest.digest)


def _refusal(builder: Builder, staging: Path) -> Refusal | None:
    try:
        builder(staging)
    except Refusal as refusal:
        return refusal
    return None
