"""The rules of releases, without I/O: what is served, what comes next, what is held, what an interrupted act left.

TensorFlow Serving takes every child of the base path whose whole name parses as an integer for a version and serves
the highest (tensorflow_serving/sources/storage_path/file_system_storage_path_source.cc): so a retired version gets a
name that does not parse, and a number is never used twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tasks.records.release import Event, JournalLine

RETIRED = ".rolled-back"
WITHDRAWN = ".withdrawn"


def versions(names: Iterable[str]) -> list[int]:
    """The versions among the names in a base path, lowest first, as the server reads them: integers of 64 bits."""
    numbers = (int(name) for name in names if re.fullmatch(r"[+-]?[0-9]{1,4000}", name))
    return sorted(number for number in numbers if -(2**63) <= number < 2**63)


def next_version(names: Iterable[str], journal: Iterable[JournalLine]) -> int:
    """One more than every number that was ever used here, served, retired or only intended."""
    listed = list(names)
    used = {0, *versions(listed)}
    used |= {int(match[1]) for name in listed if (match := re.match(r"(\d+)\.", name))}
    for line in journal:
        used |= {line.version, *line.retired}
    return max(used) + 1


def held(digest: str, journal: Sequence[JournalLine]) -> JournalLine | None:
    """The rollback that holds this digest, unless it was promoted again since."""
    holder = None
    for line in journal:
        if line.event is Event.ROLLED_BACK and digest in line.retired.values():
            holder = line
        elif line.event is Event.PROMOTED and line.digest == digest:
            holder = None
    return holder


def unfinished(journal: Sequence[JournalLine]) -> JournalLine | None:
    """The intent that the last act left open, if it was interrupted."""
    if journal and journal[-1].event in (Event.PROMOTING, Event.ROLLING_BACK):
        return journal[-1]
    return None


def digests(journal: Iterable[JournalLine]) -> dict[int, str]:
    """The digest under which each version was published."""
    return {line.version: line.digest for line in journal if line.event is Event.PROMOTED}
