"""The rules of releases, without I/O: versions, the next number, held digests, interrupted changes.

TensorFlow Serving takes every child of the base path whose entire name parses as an integer for a version and serves
the highest (tensorflow_serving/sources/storage_path/file_system_storage_path_source.cc). So a retired version gets a
name that does not parse, and a number is never used twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tasks.artifacts import manifest as manifests
from tasks.artifacts.manifest import FileEntry
from tasks.records.release import Event, JournalLine

RETIRED = ".rolled-back"
WITHDRAWN = ".withdrawn"
_COMPUTES = frozenset({"saved_model.pb", "saved_model.pbtxt", "variables", "assets"})


def versions(names: Iterable[str]) -> list[int]:
    """Return the versions among the names in a base path, lowest first. As in the server, these are 64-bit integers."""
    numbers = (int(name) for name in names if re.fullmatch(r"[+-]?[0-9]{1,4000}", name))
    return sorted(number for number in numbers if -(2**63) <= number < 2**63)


def next_version(names: Iterable[str], journal: Iterable[JournalLine]) -> int:
    """Return a number greater than every number ever used here, whether served, retired or only intended."""
    listed = list(names)
    used = {0, *versions(listed)}
    used |= {int(match[1]) for name in listed if (match := re.match(r"(\d+)\.", name))}
    for line in journal:
        used |= {line.version, *line.retired}
    return max(used) + 1


def model_digest(files: Iterable[FileEntry]) -> str:
    """Return the digest of what a SavedModel computes: of its graph, values and assets, not of what lies beside them.

    Empty where there is none of these. Warmup requests (`assets.extra`), fingerprints and debug information change no answer.
    """
    computing = [file for file in files if file.path.split("/")[0] in _COMPUTES]
    return manifests.digest_of(computing) if computing else ""


def held(digest: str, model: str, journal: Sequence[JournalLine]) -> JournalLine | None:
    """Return the rollback that holds a model, or None if there is none or the model was promoted again since.

    `digest` is that of its files, `model` its `model_digest`: a rollback holds both.
    """
    holder = None
    for line in journal:
        if line.event is Event.ROLLED_BACK and (
            digest in line.retired.values() or (model and model in line.retired_models.values())
        ):
            holder = line
        elif line.event is Event.PROMOTED and (line.digest == digest or (model and line.model == model)):
            holder = None
    return holder


def unfinished(journal: Sequence[JournalLine]) -> JournalLine | None:
    """Return the intent of a change that was interrupted, or None."""
    return journal[-1] if journal and journal[-1].event.is_intent else None


def unconfirmed(journal: Iterable[JournalLine]) -> dict[int, JournalLine]:
    """Map each version whose promotion began, and neither ended nor was undone, to the line of its intent."""
    open_ones: dict[int, JournalLine] = {}
    for line in journal:
        if line.event is Event.PROMOTING:
            open_ones[line.version] = line
        elif line.event in (Event.PROMOTED, Event.WITHDRAWN, Event.ABANDONED):
            open_ones.pop(line.version, None)
        for version in line.retired if line.event is Event.ROLLED_BACK else ():
            open_ones.pop(version, None)
    return open_ones


def labelled(journal: Iterable[JournalLine]) -> set[int]:
    """Return the versions that labels of ours have led to."""
    return {version for line in journal if not line.event.is_intent for version in (line.labels or {}).values()}


def last_labels(journal: Sequence[JournalLine]) -> dict[str, int]:
    """Return all labels after the last event that changed any."""
    return next((line.labels for line in reversed(journal) if line.labels is not None and not line.event.is_intent), {})


def published(journal: Iterable[JournalLine]) -> dict[int, JournalLine]:
    """Map each published version to the line of its promotion."""
    return {line.version: line for line in journal if line.event is Event.PROMOTED}


def pinned(journal: Iterable[JournalLine]) -> dict[int, JournalLine]:
    """Map each pinned version to the line that pins it."""
    pins: dict[int, JournalLine] = {}
    for line in journal:
        if line.event is Event.PINNED:
            pins[line.version] = line
        elif line.event is Event.UNPINNED:
            pins.pop(line.version, None)
    return pins


def digests(journal: Iterable[JournalLine]) -> dict[int, tuple[str, str]]:
    """Map each version that was published or retired here to its two digests, as far as the journal has them."""
    found: dict[int, tuple[str, str]] = {}
    for line in journal:
        if line.event in (Event.PROMOTING, Event.PROMOTED):
            found[line.version] = line.digest, line.model
        elif line.event is Event.ROLLED_BACK:
            for version, digest in line.retired.items():
                found.setdefault(version, (digest, line.retired_models.get(version, "")))
    return found


def folders(names: Iterable[str]) -> dict[int, list[str]]:
    """Map each version that lies in a base path, served or retired, to the names of its folders there."""
    found: dict[int, list[str]] = {}
    for name in names:
        retired = re.fullmatch(rf"(\d{{1,19}})({re.escape(RETIRED)}|{re.escape(WITHDRAWN)})", name)
        for version in [int(retired[1])] if retired else versions([name]):
            found.setdefault(version, []).append(name)
    return found
