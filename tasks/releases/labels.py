"""Labels of a model's versions: in `<serving-root>/models.config`, and in the running servers that follow it.

A label leads to a loaded version at every moment, so its changes come in the order that TensorFlow Serving demands
(tensorflow_serving/model_servers/server_core.cc, UpdateModelVersionLabelMap): the version is loaded, then the label is
moved, then what it led to before is unloaded. Each is one write of the file, and one reload of each server.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tasks import isolate
from tasks.artifacts import manifest as manifests
from tasks.errors import EnvironmentFailure, PipelineError, SmokeRefused, UsageError
from tasks.records.serving import Cause
from tasks.records.settings import Release
from tasks.releases import rules, server_config
from tasks.releases.publish import Releases
from tasks.releases.server_config import Entry
from tasks.serving.clients import model_service

FILE = "models.config"
STABLE = "stable"


class Configuration:
    """`models.config` of a serving root. `servers` (host:port of gRPC) are told of every change, and waited for `seconds`.

    `seen_as` is the serving root's path in the servers, where it is another.
    """

    def __init__(
        self, serving_root: Path, servers: Collection[str] = (), seen_as: Path | None = None, seconds: float = 60.0
    ) -> None:
        self.root = serving_root.absolute()
        self.file = self.root / FILE
        self.servers, self.seconds = tuple(servers), seconds
        self.seen_as = seen_as or self.root

    def entry(self, name: str) -> Entry | None:
        """Return what the file says of a model, None if nothing.

        Raises:
            UsageError: the file is not a configuration.
            EnvironmentFailure: it cannot be read.
        """
        return server_config.entry(self._text(), name)

    def lead(
        self,
        name: str,
        labels: Mapping[str, int],
        versions: Collection[int] = (),
        *,
        let_go: Collection[int] = (),
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Make the file, and the servers, lead exactly these labels to their versions, and load `versions` besides.

        `check` is called when all of them are loaded, before a label moves. Then what a label led to before, and what is
        in `let_go`, is unloaded; other loaded versions stay. Without servers nobody can tell when a version is loaded:
        then all is written at once, and what the labels led to before stays loaded, for a server that reads the file moves a
        label only when its version is there, and asks again until it is.

        Raises:
            SmokeRefused, ChildFailed: a server did not load a version or did not move a label. What was there before is
                written again, and the servers are told.
            EnvironmentFailure: the file cannot be written, or a server does not answer.
        """
        with self._locked():
            text = self._text()
            before = server_config.entry(text, name)
            led = dict(before.labels) if before else {}
            loaded = set(before.versions or ()) if before else set()
            wanted = {*labels.values(), *versions}
            both = loaded | wanted | {*led.values()}
            if not wanted:
                remedy = "give a label to another version first."
                raise UsageError(f"{self.file}, model {name}", "a version to load", "none", remedy)
            try:
                if self.servers:
                    self._configure(name, both, led)
                    for server in self.servers:
                        isolate.call(model_service.wait, server, name, sorted(wanted), (), self.seconds)
                check()
                self._configure(name, both, labels)
                for server in self.servers:
                    self._require_led(server, name, labels)
                gone = ({*led.values(), *let_go} if self.servers else {*let_go} - {*led.values()}) - wanted
                if gone & both:
                    self._configure(name, both - gone, labels)
                for server in self.servers:
                    isolate.call(model_service.wait, server, name, (), sorted(gone & both), self.seconds)
            except BaseException:
                if self._text() != text:
                    self._write(text)
                    with contextlib.suppress(PipelineError):
                        self._tell(text)
                raise

    def require_listed(self, name: str, served: int) -> None:
        """Label the served version `stable` where the file leaves the choice to the servers, who take the highest version.

        So a version that is published to get another label is not taken for the next one meanwhile. Raises as `lead`.
        """
        entry = self.entry(name)
        if entry is None or entry.versions is None:
            self.lead(name, {STABLE: served})

    def _configure(self, name: str, versions: Collection[int], labels: Mapping[str, int]) -> None:
        text = self._text()
        after = server_config.changed(text, name, str(self.seen_as / name), sorted(versions), labels)
        if after != text:
            self._write(after)
        self._tell(after)

    def _tell(self, text: str) -> None:
        for server in self.servers:
            isolate.call(model_service.reload, server, text, self.seconds)

    def _require_led(self, server: str, name: str, labels: Mapping[str, int]) -> None:
        for label, version in labels.items():
            found = isolate.call(model_service.version_of, server, name, label)
            if found != version:
                answered = "an unknown label" if found is None else f"version {found}"
                remedy = "see the server's log; other servers that were given are as they were."
                where = f"server {server}, model {name}, label {label}"
                raise SmokeRefused(where, f"version {version}", answered, remedy, cause=Cause.VERSION_DIFFERS)

    def _text(self) -> str:
        try:
            return self.file.read_bytes().decode() if self.file.exists() else ""
        except OSError as error:
            raise EnvironmentFailure.from_os(error, str(self.file)) from None
        except UnicodeDecodeError:
            remedy = "correct the file, or restore it from a backup."
            raise UsageError(
                str(self.file), "a ModelServerConfig in text format", "bytes that are not UTF-8", remedy
            ) from None

    def _write(self, text: str) -> None:
        """Replace the file by one rename, its mode kept; servers, of whatever user, read it."""
        file = self.file.resolve()  # where it is a symbolic link, of a mounted configuration
        mode = stat.S_IMODE(file.stat().st_mode) if file.exists() else 0o644
        staged = file.with_name(f".{FILE}.next")
        try:
            if not text:
                file.unlink(missing_ok=True)
                return
            with staged.open("wb") as stream:
                stream.write(text.encode())
                stream.flush()
                os.fsync(stream.fileno())
            staged.chmod(mode)
            os.rename(staged, file)
            manifests.sync_folder(file.parent)
        except OSError as error:
            raise EnvironmentFailure.from_os(error, str(self.file)) from None

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of the file, which several models share."""
        own = self.root / ".tfship"
        try:
            own.mkdir(parents=True, exist_ok=True)
            stream = (own / "lock").open("w")
        except OSError as error:
            raise EnvironmentFailure.from_os(error, f"serving root {self.root}") from error
        with stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield


def of(release: Release, seconds: float) -> Configuration:
    """Return the configuration of a release's serving root, with its running servers."""
    servers = [server.grpc for server in release.servers]
    return Configuration(release.serving_root, servers, release.server_root, seconds)


@dataclass(frozen=True)
class Placement:
    """The place of a version among those that servers load: with which labels, and instead of which others.

    `listed` is False where the configuration, if there is any, leaves the choice to the servers, who take the highest
    version. `labels` are all labels afterwards, None where there are none; `moves` is True if that is not so yet.
    """

    configuration: Configuration
    releases: Releases
    version: int
    listed: bool
    labels: dict[str, int] | None
    let_go: frozenset[int]
    moves: bool

    @classmethod
    def of(
        cls, configuration: Configuration, releases: Releases, label: str | None, version: int, previous: int | None
    ) -> Placement:
        """Return the place of `version`: under `label`, or else under `stable` where there are labels, else for `previous`."""
        entry = configuration.entry(releases.name)
        before, loaded = (entry.labels, entry.versions) if entry else ({}, None)
        label = label or (STABLE if before else None)
        after = {**before, label: version} if label else before
        listed = label is not None or loaded is not None
        ours = (
            rules.labelled(releases.journal()) if after else {version for version in (previous,) if version is not None}
        )
        return cls(
            configuration=configuration,
            releases=releases,
            version=version,
            listed=listed,
            labels=after or None,
            let_go=frozenset(ours),
            moves=listed and (after != before or version not in (loaded or ())),
        )

    def lead(self, check: Callable[[], None] = lambda: None) -> None:
        """Bring the configuration and the servers there. `check` is called, and errors are raised, as by `lead`."""
        self.configuration.lead(self.releases.name, self.labels or {}, {self.version}, let_go=self.let_go, check=check)
