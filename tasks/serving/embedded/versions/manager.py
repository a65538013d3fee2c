"""The life cycle of versions, from their directories in the file system to the versions that answer.

One thread lists the base paths, one loads. A version goes START → LOADING → AVAILABLE → UNLOADING → END, or from LOADING
to END with an error; it stays END until its directory has been removed and has come back. As in the real server
(`AspiredVersionsManager`, `AvailabilityPreservingPolicy` in tensorflow_serving/core), a version that is no longer aspired
answers until an aspired one does, and a load that is being retried keeps every other load waiting.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tasks.serving.embedded import log
from tasks.serving.embedded.errors import Code, ServingError
from tasks.serving.embedded.versions.aspired import ServedModel, aspired_versions
from tasks.serving.embedded.versions.retry import Loading
from tasks.serving.embedded.versions.servable import Servable
from tasks.serving.embedded.versions.state import State, Version, VersionStatus

_WAIT_SLICE_SECONDS = 0.2


class Manager:
    """Keep the aspired versions of the configured models loaded."""

    def __init__(self, loading: Loading, *, poll_seconds: float) -> None:
        """Set up; `poll_seconds` 0 lists the base paths once, below 0 never, as `--file_system_poll_wait_seconds` does."""
        self._loading = loading
        self._poll_seconds = poll_seconds
        self._changed = threading.Condition()
        self._models: dict[str, ServedModel] = {}
        self.aspired: dict[str, dict[int, Path]] = {}
        self._versions: dict[str, dict[int, Version]] = {}
        self._reconfigured = False
        self._stopping = False

    def start(self) -> None:
        """Start to list and load, in daemon threads."""
        for work in (self._poll_forever, self._load_forever):
            threading.Thread(target=work, daemon=True, name=work.__name__.strip("_")).start()

    def stop(self) -> None:
        """Start no further load, and let the threads end."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def serve(self, models: Iterable[ServedModel]) -> set[str]:
        """Apply a configuration and return the names that are new. Models that are no longer configured are unloaded."""
        with self._changed:
            before = set(self._models)
            self._models = {model.name: model for model in models}
            for name in before - set(self._models):
                self._aspire(name, {})
            self._reconfigured = True
            self._changed.notify_all()
            return set(self._models) - before

    def wait_until_available(self, names: Collection[str], given_up: Callable[[], bool]) -> None:
        """Return when every named model has a version that answers, or when `given_up` returns True.

        A model whose base path is missing or empty is waited for, as in the real server.

        Raises:
            ServingError: UNKNOWN, naming the versions whose loads failed, once no other load is left to wait for.
        """
        with self._changed:
            while not given_up():
                progress = {name: self._progress(name) for name in names}
                if None not in progress.values():
                    failed = [version for versions in progress.values() for version in versions or ()]
                    if failed:
                        reasons = "".join(f"{{{version} due to error: {version.error}}}, " for version in failed)
                        raise ServingError(
                            Code.UNKNOWN, f"{len(failed)} servable(s) did not become available: {{{reasons}}}"
                        )
                    return
                self._changed.wait(_WAIT_SLICE_SECONDS)

    def _progress(self, name: str) -> list[Version] | None:
        """Return None while undecided, the failed versions when all failed, or an empty list when one is available."""
        versions = self._versions.get(name, {})
        wanted = [versions[number] for number in self.aspired.get(name, {}) if number in versions]
        # A version whose load is being retried is not waited for if another one answers.
        if any(version.state in (State.START, State.LOADING) and version.error is None for version in wanted):
            return None
        if any(version.state is State.AVAILABLE for version in wanted):
            return []
        return wanted if wanted and all(version.failed for version in wanted) else None

    @contextmanager
    def acquire(self, name: str, number: int | None) -> Iterator[tuple[Servable, int]]:
        """Hold a version for one request, the highest available one when `number` is None.

        Raises:
            ServingError: NOT_FOUND.
        """
        with self._changed:
            version = self._available(name, number)
            version.in_flight += 1
        assert version.servable is not None
        try:
            yield version.servable, version.number
        finally:
            with self._changed:
                version.in_flight -= 1
                if version.state is State.UNLOADING:
                    self._changed.notify_all()

    def _available(self, name: str, number: int | None) -> Version:
        available = {n: v for n, v in self._versions.get(name, {}).items() if v.state is State.AVAILABLE}
        if number is None and available:
            return available[max(available)]
        if number in available:
            return available[number]
        request = f"Latest({name})" if number is None else f"Specific({name}, {number})"
        raise ServingError(Code.NOT_FOUND, f"Servable not found for request: {request}")

    def is_available(self, name: str, number: int) -> bool:
        """Tell whether that version answers now."""
        with self._changed:
            version = self._versions.get(name, {}).get(number)
            return version is not None and version.state is State.AVAILABLE

    def statuses(self, name: str, number: int | None) -> list[VersionStatus]:
        """Return the state of one version, or of all that the model ever had, newest first.

        Raises:
            ServingError: NOT_FOUND.
        """
        with self._changed:
            versions = self._versions.get(name, {})
            if number is not None and number not in versions:
                raise ServingError(Code.NOT_FOUND, f"Could not find version {number} of model {name}")
            if not versions:
                raise ServingError(Code.NOT_FOUND, f"Could not find any versions of model {name}")
            chosen = sorted(versions, reverse=True) if number is None else [number]
            # A load that is retried has no error yet.
            return [
                VersionStatus(n, version.state, version.error if version.state is State.END else None)
                for n in chosen
                for version in (versions[n],)
            ]

    def _poll_forever(self) -> None:
        while self._poll_seconds >= 0:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._reconfigured, self._poll_seconds or None)
                self._reconfigured = False
                if self._stopping:
                    return
            self._poll()
            if not self._poll_seconds:
                return

    def _poll(self) -> None:
        with self._changed:
            models = list(self._models.values())
        found: dict[str, dict[int, Path]] = {}
        try:
            for model in models:
                found[model.name] = aspired_versions(model)
        except (ServingError, OSError) as error:
            # One missing base path keeps every model as it is, in the real server too.
            words = error.message if isinstance(error, ServingError) else str(error)
            log.error(f"FileSystemStoragePathSource encountered a filesystem access error: {words}")
            return
        with self._changed:
            for model in models:
                if self._models.get(model.name) == model:
                    self._aspire(model.name, found[model.name])
            self._changed.notify_all()

    def _aspire(self, name: str, wanted: Mapping[int, Path]) -> None:
        self.aspired[name] = dict(wanted)
        versions = self._versions.setdefault(name, {})
        for number, version in versions.items():
            version.failed = version.failed and number in wanted
        for number, path in wanted.items():
            version = versions.get(number) or Version(name, number, path)
            if number not in versions or (version.state is State.END and not version.failed):
                versions[number] = Version(name, number, path)
        if not versions:
            del self._versions[name]

    def _load_forever(self) -> None:
        while True:
            with self._changed:
                while not self._stopping and (version := self._next_change()) is None:
                    self._changed.wait()
                if self._stopping:
                    return
                assert version is not None
                if version.state is State.START:
                    version.state = State.LOADING
                else:
                    version.state = State.UNLOADING
                    threading.Thread(target=self._unload, args=(version,), daemon=True).start()
                    continue
            self._load_version(version)

    def _next_change(self) -> Version | None:
        """Return the version to unload, or else to load, next."""
        for name, wanted in self.aspired.items():
            versions = self._versions.get(name, {})
            wanted_serves = any(versions[number].state is State.AVAILABLE for number in wanted if number in versions)
            for number, version in versions.items():
                if number in wanted:
                    continue
                if version.state is State.AVAILABLE and (wanted_serves or not wanted):
                    return version
                if version.state is State.START:  # removed before it was loaded
                    version.state = State.END
            for number in sorted(wanted, reverse=True):
                if versions[number].state is State.START:
                    return versions[number]
        return None

    def _load_version(self, version: Version) -> None:
        def is_unwanted() -> bool:
            return self._stopping or version.number not in self.aspired.get(version.name, {})

        def cancelled(seconds: float) -> bool:
            with self._changed:
                return self._changed.wait_for(is_unwanted, seconds)

        servable = self._loading.load(version, cancelled)
        with self._changed:
            version.servable = servable
            version.state = State.END if servable is None else State.AVAILABLE
            version.failed = servable is None and not is_unwanted()
            self._changed.notify_all()
        if servable is not None:  # logged once it is true: a reader of the log may send requests at once
            log.info(f"Successfully loaded servable version {version}")

    def _unload(self, version: Version) -> None:
        log.info(f"Quiescing servable version {version}")
        with self._changed:
            self._changed.wait_for(lambda: not version.in_flight)
            servable, version.servable = version.servable, None
        assert servable is not None
        servable.close()
        log.info(f"Done unloading servable version {version}")
        with self._changed:
            version.state = State.END
            self._changed.notify_all()
