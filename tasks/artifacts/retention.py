"""Which artifacts of a store stay: those from which something that is kept was made, and the young ones."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tasks.artifacts.manifest import Manifest
from tasks.artifacts.store import Artifact
from tasks.errors import DamagedError


def listed(root: Path) -> Iterator[tuple[Artifact, Manifest, float]]:
    """Yield each committed artifact of the store at `root` with its manifest and the time of its last change.

    What is no artifact in its place, as a damaged one, is left out: a run that needs it sets it aside.
    """
    for place in sorted(root.glob("[!.]*/*")):
        with contextlib.suppress(DamagedError, OSError):
            manifest = Manifest.read(place)
            if (manifest.step, manifest.key) == (place.parent.name, place.name) and not place.is_symlink():
                artifact = Artifact(step=manifest.step, key=manifest.key, path=place, digest=manifest.digest)
                yield artifact, manifest, place.stat().st_mtime


def chains(roots: Mapping[str, Iterable[str]], manifests: Iterable[Manifest]) -> dict[str, set[str]]:
    """Map each digest from which one of `roots` was made, itself among them, to the reasons of these roots.

    `roots` maps digests to the reasons for which they stay. Several artifacts may have one digest: all stay.
    """
    inputs: dict[str, set[str]] = {}
    for manifest in manifests:
        inputs.setdefault(manifest.digest, set()).update(manifest.inputs.values())
    found: dict[str, set[str]] = {}
    for root, reasons in roots.items():
        seen, ahead = set[str](), [root]
        while ahead:
            digest = ahead.pop()
            if digest not in seen:
                seen.add(digest)
                ahead += inputs.get(digest, ())
                found.setdefault(digest, set()).update(reasons)
    return found


def is_held(place: Path) -> bool:
    """Return True if a live process reads the artifact at `place`: see `Store.hold`. Nothing on disk is changed."""
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
