"""The rules of releases, without I/O: versions, the next number, held digests, interrupted changes.

TensorFlow Serving takes every child of the base path whose entire name parses as an integer for a version and serves
the highest (tensorflow_serving/sources/storage_path/file_system_storage_path_source.cc). So a retired version gets a
name that does not parse, and a number is never used twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tasks.records.release import Event, JournalLine

RETIRED = ".rolled-back"
WITHDRAWN = ".withdrawn"


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


def held(digest: str, journal: Sequence[JournalLine]) -> JournalLine | None:
    """Return the rollback that holds this digest, or None if there is none or the digest was promoted again since."""
    holder = None
    for line in journal:
        if line.event is Event.ROLLED_BACK and digest in line.retired.values():
            holder = line
        elif line.event is Event.PROMOTED and line.digest == digest:
            holder = None
    return holder


def unfinished(journal: Sequence[JournalLine]) -> JournalLine | None:
    """Return the intent of an interrupted promotion or rollback, or None."""
    if journal and journal[-1].event in (Event.PROMOTING, Event.ROLLING_BACK):
        return journal[-1]
    return None


def digests(journal: Iterable[JournalLine]) -> dict[int, str]:
    """Map each published version to its digest."""
    return {line.version: line.digest for line in journal if line.event is Event.PROMOTED}
