"""Ways to spoil a release on its way from a blessing to production: each changes the site in place, before or while
`promote` works."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tasks.artifacts.store import Artifact
from tasks.errors import DamagedError, EnvironmentFailure, PipelineError, SmokeRefused

DATA = "variables/variables.data-00000-of-00001"
_WAIT_SECONDS = 60.0


@dataclass(frozen=True)
class Site:
    """A blessed export in a store of its own, and the base path that it shall be published in."""

    exported: Artifact
    blessed: Artifact
    base: Path

    @property
    def model(self) -> Path:
        """The SavedModel in the store."""
        return self.exported.path / "saved_model"


@dataclass(frozen=True)
class ReleaseMutant:
    """`promote` must raise `error`, its message with `cause`; None: it promotes, and what is served is right."""

    name: str
    spoil: Callable[[Site], None]
    error: type[PipelineError] | None = None
    cause: str = ""


def flip(path: Path) -> None:
    """One bit in the middle of a file, its size and its time kept: no quick look shows it."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def half_copied(site: Site) -> None:
    """A copy by hand, under its final name, that is not yet through."""
    shutil.copytree(site.model, site.base / "7", ignore=shutil.ignore_patterns("variables.index"))


def only_assets(site: Site) -> None:
    """A copy by hand that has only begun."""
    shutil.copytree(site.model / "assets", site.base / "7" / "assets")


def file(name: str) -> Callable[[Site], None]:
    """A file in the base path."""

    def spoil(site: Site) -> None:
        (site.base / name).write_bytes(b"7")

    return spoil


def empty_folder(name: str) -> Callable[[Site], None]:
    """An empty folder in the base path."""
    return lambda site: (site.base / name).mkdir()


def link_to_nowhere(site: Site) -> None:
    """A version that is a symbolic link, whose target is gone."""
    (site.base / "7").symlink_to(site.base / "gone")


def journal_cut_up(site: Site) -> None:
    """A line in the middle of the journal that is none."""
    (site.base / ".tfship").mkdir()
    (site.base / ".tfship" / "journal.jsonl").write_text("{}\nnot a line\n")


def base_is_a_file(site: Site) -> None:
    """The base path itself is a file."""
    site.base.rmdir()
    site.base.write_bytes(b"")


def by_hand(site: Site) -> None:
    """Harmless: a whole version that somebody put there."""
    shutil.copytree(site.model, site.base / "7")


def when_published(change: Callable[[Path], None]) -> Callable[[Site], None]:
    """`change(<base path>/1)` at the moment that the new version gets its name, before a server is asked to confirm it."""

    def spoil(site: Site) -> None:
        def wait() -> None:
            until = time.monotonic() + _WAIT_SECONDS
            while not (site.base / "1").exists() and time.monotonic() < until:
                time.sleep(0.001)
            change(site.base / "1")

        threading.Thread(target=wait, daemon=True).start()

    return spoil


def added_to_the_store(site: Site) -> None:
    """A file beside the blessed ones, which is not theirs."""
    (site.model / "variables" / "variables.data-00001-of-00002").write_bytes(b"?")


RELEASES = (
    ReleaseMutant("a bit flipped since the blessing", lambda s: flip(s.model / DATA), DamagedError, "has changed"),
    ReleaseMutant("a file lost since the blessing", lambda s: (s.model / "saved_model.pb").unlink(), DamagedError, "is missing"),
    ReleaseMutant("a bit flipped in the published copy", when_published(lambda one: flip(one / DATA)), SmokeRefused, "load error"),
    ReleaseMutant("a higher version appears meanwhile", when_published(lambda one: one.with_name("99").mkdir()), SmokeRefused, "load error"),
    ReleaseMutant("a numeric file in the base path", file("7"), DamagedError, "found a file"),
    ReleaseMutant("a numeric file with a sign", file("+07"), DamagedError, "found a file"),
    ReleaseMutant("a half-copied version in the base path", half_copied, DamagedError, "without a variables.index"),
    ReleaseMutant("a version whose copy has only begun", only_assets, DamagedError, "without a saved_model.pb"),
    ReleaseMutant("an empty higher version", empty_folder("12"), DamagedError, "without a saved_model.pb"),
    ReleaseMutant("the highest number there is", empty_folder(str(2**63 - 1)), DamagedError, "without a saved_model.pb"),
    ReleaseMutant("a version that links to nowhere", link_to_nowhere, DamagedError, "a broken link"),
    ReleaseMutant("a journal cut up", journal_cut_up, DamagedError, "a journal line"),
    ReleaseMutant("a base path that is a file", base_is_a_file, EnvironmentFailure, "readable and writable"),
    ReleaseMutant("a version put there by hand", by_hand),
    ReleaseMutant("a number that no server can read", file(str(2**63))),
    ReleaseMutant("digits of another script", file("٣")),
    ReleaseMutant("a file added to the store", added_to_the_store, DamagedError, "was added"),
)  # fmt: skip
