"""Labels of a model's versions: in `<serving-root>/models.config`, and in the running servers that follow it.

A label leads to a loaded version at every moment, so its changes come in the order that TensorFlow Serving demands: the
version is loaded, then the label is moved, then what it led to before is unloaded. Each is one write of the file, and one
reload of each server. A server checks labels before it loads what a configuration adds, and takes nothing of one whose label
moves to a version that is not loaded yet; only a label that is new to it may, under
`--allow_version_labels_for_unavailable_models` (tensorflow_serving/model_servers/server_core.cc, ReloadConfig).
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
from tasks.releases.server_config import FILE, Entry
from tasks.serving.clients import model_service

STABLE = "stable"
_BACK_SECONDS = 60.0


class Configuration:
    """`models.config` of a serving root. `servers` (host:port of gRPC) are told of every change, and waited for `seconds`.

    `seen_as` is the serving root's path in the servers, where it is another. `torn` is True once a server could not be brought
    back to what it had before a change that failed.
    """

    def __init__(
        self, serving_root: Path, servers: Collection[str] = (), seen_as: Path | None = None, seconds: float = 60.0
    ) -> None:
        self.root = serving_root.absolute()
        self.file = self.root / FILE
        self.servers, self.seconds = tuple(servers), seconds
        self.seen_as = seen_as or self.root
        self.torn = False

    def entry(self, name: str) -> Entry | None:
        """Return what the file says of a model, None if nothing.

        Raises:
            UsageError: the file is not a configuration.
            EnvironmentFailure: it cannot be read.
        """
        return server_config.entry(self._text(), name)

    def require_possible(self, name: str, labels: Mapping[str, int]) -> None:
        """Check that `lead` can bring these labels about, before anything else is changed.

        Raises:
            UsageError: a label would move to a version that nobody can say is loaded, since no server is named; or the file
                is not a configuration, or leaves the choice of versions to the server in spite of labels.
            EnvironmentFailure: a server does not answer.
        """
        entry = self.entry(name)
        if entry is not None and entry.labels and entry.versions is None:
            found = "labels and no list of versions"
            remedy = f"write `model_version_policy {{ specific {{ versions: … }} }}` into its entry of {self.file}."
            raise UsageError(f"{self.file}, model {name}", "a list of versions beside labels", found, remedy)
        if self.servers and not self.file.exists():
            raise UsageError(
                str(self.file),
                "the configuration that the running servers were started with (--model_config_file)",
                "none",
                "a reload replaces all that a server has, other models too: write this file, or have it written "
                f"(`tfship label {name} stable N`), and start the servers with it; then run again.",
            )
        led, loaded = (entry.labels, entry.versions or ()) if entry else ({}, ())
        for label, version in labels.items():
            if not self.servers and led.get(label, version) != version and version not in loaded:
                raise UsageError(
                    f"{self.file}, model {name}, label {label}",
                    f"a running server, to see that version {version} is loaded before the label moves to it",
                    "none",
                    "name the servers that read this file: --server HOST:PORT.",
                )
        for server in self.servers:
            isolate.call(model_service.states, server, name)

    def lead(
        self,
        name: str,
        labels: Mapping[str, int],
        versions: Collection[int] = (),
        *,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Make the file, and the servers, lead exactly these labels to their versions, and load `versions` besides.

        `check` is called when all of them are loaded, before a label moves. All that was loaded before stays so: see `let_go`.

        Raises:
            SmokeRefused, ChildFailed: a server did not load a version or did not move a label, and all is again as it was.
            EnvironmentFailure: the same, for the file cannot be written, or a server does not answer. If a server could not
                be brought back either, `torn` is set.
            UsageError: as `require_possible`; or there would be no version to load.
        """
        with self._locked():
            self.require_possible(name, labels)
            text = self._text()
            before = server_config.entry(text, name)
            led = dict(before.labels) if before else {}
            loaded = set(before.versions or ()) if before else set()
            wanted = {version for label, version in labels.items() if led.get(label) != version} | {*versions}
            both = loaded | wanted | {*led.values()} | {*labels.values()}
            if not both:
                remedy = "give a label to another version first."
                raise UsageError(f"{self.file}, model {name}", "a version to load", "none", remedy)
            try:
                if self.servers:
                    self._load(name, both, led, wanted)
                check()
                self._write_entry(name, both, labels)
                moved = {label: version for label, version in labels.items() if version in wanted}
                for server in self.servers:
                    self._tell(server, self._text())
                    self._require_led(server, name, moved)
            except BaseException:
                self._bring_back(text, before, name, both)
                raise

    def let_go(self, name: str, versions: Collection[int]) -> None:
        """Unload those of `versions` that no label leads to, now that the change is made.

        Without servers, what a label led to stays loaded, for a server may not have moved its label yet. A server that does not
        unload one in time does not take the change back: `tfship status` names it.

        Raises:
            EnvironmentFailure: the file cannot be written.
        """
        with self._locked():
            entry = self.entry(name)
            if not self.servers and (entry is None or entry.labels):
                return
            listed = set(entry.versions or ()) if entry else set()
            gone = {*versions} & listed - {*(entry.labels.values() if entry else ())}
            if entry is None or not gone or gone == listed:
                return
            self._write_entry(name, listed - gone, entry.labels)
            for server in self.servers:
                with contextlib.suppress(PipelineError):
                    self._tell(server, self._text())
                    isolate.call(model_service.wait, server, name, (), sorted(gone), self.seconds)

    def _load(self, name: str, versions: set[int], led: Mapping[str, int], wanted: Collection[int]) -> None:
        """Have the file list `versions`, and each server load them; a server keeps the labels that it has until then."""
        self._write_entry(name, versions, led)
        text = self._text()
        for server in self.servers:
            answered = {label: isolate.call(model_service.version_of, server, name, label) for label in led}
            kept = {label: version for label, version in answered.items() if version is not None}
            own = server_config.changed(text, name, "", sorted(versions | {*kept.values()}), kept)
            self._tell(server, own)
            isolate.call(model_service.wait, server, name, sorted(wanted), (), self.seconds)

    def _bring_back(self, text: str, before: Entry | None, name: str, both: set[int]) -> None:
        """Have the file, but for what others changed in it meanwhile, and the servers as they were, in the same order."""
        patient = Configuration(self.root, self.servers, self.seen_as, max(self.seconds, _BACK_SECONDS))
        self.torn = True  # until it is done, also where it is interrupted
        with contextlib.suppress(PipelineError):
            if before is None or before.versions is None:
                self._write(text)
                for server in self.servers if text else ():
                    patient._tell(server, text)
                self.torn = False
                return
            self._write_entry(name, both, before.labels)
            for server in self.servers:
                answered = {
                    label: isolate.call(model_service.version_of, server, name, label) for label in before.labels
                }
                if answered != before.labels:
                    patient._load(name, both, before.labels, {*before.labels.values()})
            self._write_entry(name, before.versions, before.labels)
            for server in self.servers:
                patient._tell(server, self._text())
            self.torn = False

    def require_listed(self, name: str, served: int) -> None:
        """Label the served version `stable` where the file leaves the choice to the servers, who take the highest version.

        So a version that is published to get another label is not taken for the next one meanwhile. Raises as `lead`.
        """
        entry = self.entry(name)
        if entry is None or entry.versions is None:
            self.lead(name, {STABLE: served})

    def _write_entry(self, name: str, versions: Collection[int], labels: Mapping[str, int]) -> None:
        text = self._text()
        after = server_config.changed(text, name, str(self.seen_as / name), sorted(versions), labels)
        if after != text:
            self._write(after)

    def _tell(self, server: str, text: str) -> None:
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
        return server_config.text(self.root)

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
    name: str
    version: int
    listed: bool
    labels: dict[str, int] | None
    replaced: frozenset[int]
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
        ours = rules.labelled(releases.journal()) | {*before.values()} if after else {previous} - {None}
        listed = label is not None or loaded is not None
        return cls(
            configuration=configuration,
            name=releases.name,
            version=version,
            listed=listed,
            labels=after or None,
            replaced=frozenset(one for one in ours if one is not None and one != version),
            moves=listed and (after != before or version not in (loaded or ())),
        )

    def require_possible(self) -> None:
        """Raise as `Configuration.require_possible`, where the version is to be listed."""
        if self.listed:
            self.configuration.require_possible(self.name, self.labels or {})

    def lead(self, check: Callable[[], None] = lambda: None) -> None:
        """Bring the configuration and the servers there. `check` is called, and errors are raised, as by `lead`."""
        self.configuration.lead(self.name, self.labels or {}, {self.version}, check=check)

    def let_go(self) -> None:
        """Unload what the version has replaced. Raises as `Configuration.let_go`."""
        if self.listed:
            self.configuration.let_go(self.name, self.replaced)
