"""Which versions of a model stay, and why; the rule, without I/O.

A version that may still be wanted stays: one that clients are or may be answered by, the one that `tfship rollback` would
serve again, and whatever is not known from the journal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tasks.records.base import Record
from tasks.records.release import JournalLine
from tasks.releases import rules
from tasks.releases.server_config import FILE, Entry


class Retention(Record):
    """The versions of a model that stay, each with the reasons, and the `surplus`, each with the reason why it can go.

    `blocked` names the change that is in progress or was interrupted; while there is one, everything stays.
    """

    kept: dict[int, tuple[str, ...]]
    surplus: dict[int, str]
    blocked: str = ""


def retention(
    names: Iterable[str],
    journal: Sequence[JournalLine],
    entry: Entry | None,
    loaded: Mapping[str, Iterable[int]],
    newest: int | None,
) -> Retention:
    """Return which versions stay of those in a base path with these `names`.

    `entry` is the model's in `models.config`, `loaded` maps running servers to the versions that they have loaded. Of the
    confirmed versions, and of those that were rolled back or withdrawn, the `newest` so many stay (None: all).
    """
    there = rules.folders(names)
    reasons: dict[int, list[str]] = {version: [] for version in sorted(there, reverse=True)}

    def keep(version: int, reason: str) -> None:
        if version in reasons:
            reasons[version].append(reason)

    unconfirmed, known = rules.unconfirmed(journal), rules.digests(journal)
    served = sorted(version for version, folders in there.items() if rules.versions(folders))
    confirmed = [one for one in served if one in rules.published(journal) and one not in unconfirmed]
    live = _live(served, journal, entry, loaded)
    for version, why in live.items():
        for reason in why:
            keep(version, reason)
        before = [one for one in confirmed if one < version]
        if before:
            keep(before[-1], f"a rollback from {version} leads to it")
    for version, pin in rules.pinned(journal).items():
        keep(version, f"pinned: {pin.reason or 'no reason'}")
    for version in there:
        if version in unconfirmed and version in served:
            keep(version, "not confirmed")
        if version not in known:
            keep(version, "came by hand")
    retired = sorted({*there} - {*served})
    for group, what in ((confirmed, "newest"), (retired, "newest of the retired")):
        for version in group if newest is None else group[max(0, len(group) - newest) :]:
            keep(version, what if newest is not None else "all are kept")
    if (intent := rules.unfinished(journal)) is not None:
        blocked = f"{intent.event.value} version {intent.version}, begun {intent.time}, has not ended"
        return Retention(kept={one: (*why, blocked) for one, why in reasons.items()}, surplus={}, blocked=blocked)
    return Retention(
        kept={version: tuple(dict.fromkeys(why)) for version, why in reasons.items() if why},
        surplus={version: f"not among the newest {newest}" for version, why in reasons.items() if not why},
    )


def _live(
    served: list[int], journal: Sequence[JournalLine], entry: Entry | None, loaded: Mapping[str, Iterable[int]]
) -> dict[int, list[str]]:
    """Map the versions that clients are or may be answered by to the reasons."""
    found: dict[int, list[str]] = {}
    listed = entry.versions if entry is not None else None
    highest = entry.highest if entry is not None and listed is None else 1
    led = [*rules.last_labels(journal).items(), *(entry.labels.items() if entry is not None else ())]
    because = [
        *((version, "served") for version in served[-min(highest, len(served)) :]),
        *((version, f"label {label}") for label, version in led),
        *((version, f"listed in {FILE}") for version in listed or ()),
        *((version, f"loaded in {server}") for server, versions in loaded.items() for version in versions),
    ]
    for version, reason in because:
        if reason not in found.setdefault(version, []):
            found[version].append(reason)
    return found
