"""What is needed is never let go, and a version is deleted as a whole or not at all, whenever the deletion is killed."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.artifacts.removal import Freed
from tasks.artifacts.store import Store, remove_tree
from tasks.errors import EnvironmentFailure, ExitCode, UsageError
from tasks.pin import pin
from tasks.records.release import Event, JournalLine
from tasks.records.settings import Release
from tasks.releases import rules
from tasks.releases.publish import Releases
from tasks.releases.retention import Retention, retention
from tasks.releases.server_config import Entry
from tests.artifacts.disk import failed_at, killed_at, tree
from tests.makers.released import NAME, promoted, rolled_back, withdrawn

FEWEST_MOMENTS = 15
MANY = 12


def line(event: Event, version: int, **fields: object) -> JournalLine:
    facts = {"time": "", "event": event, "version": version, "digest": f"d{version}", **fields}
    return JournalLine.model_validate(facts)


class History:
    """Names in a base path and the journal that belongs to them, made by the events that tfship knows."""

    def __init__(self) -> None:
        self.journal: list[JournalLine] = []
        self.served: set[int] = set()
        self.retired: dict[int, str] = {}
        self.by_hand: set[int] = set()
        self.unconfirmed: set[int] = set()
        self.labels: dict[str, int] = {}

    @property
    def names(self) -> list[str]:
        return [*map(str, self.served), *(f"{one}{what}" for one, what in self.retired.items()), ".tfship", "notes"]

    @property
    def next(self) -> int:
        return rules.next_version(self.names, self.journal)

    def promote(self) -> None:
        version = self.kill()
        self.unconfirmed.remove(version)
        self.journal.append(line(Event.PROMOTED, version))

    def kill(self) -> int:
        version = self.next
        self.journal.append(line(Event.PROMOTING, version))
        self.served.add(version)
        self.unconfirmed.add(version)
        return version

    def withdraw(self) -> None:
        version = self.kill()
        self.journal += [line(Event.WITHDRAWING, version), line(Event.WITHDRAWN, version)]
        self.served.remove(version)
        self.unconfirmed.remove(version)
        self.retired[version] = rules.WITHDRAWN

    def roll_back(self) -> None:
        good = sorted(self.served - self.unconfirmed)
        if len(good) > 1 and not {*self.labels.values()}:
            gone = {one for one in self.served if one > good[-2]}
            digests = {one: f"d{one}" for one in gone}
            self.journal.append(line(Event.ROLLED_BACK, good[-2], retired=digests))
            self.served -= gone
            self.unconfirmed -= gone
            self.by_hand -= gone
            self.retired |= dict.fromkeys(gone, rules.RETIRED)

    def copy_by_hand(self) -> None:
        self.by_hand.add(self.next)
        self.served.add(self.next)

    def label(self) -> None:
        if good := sorted(self.served - self.unconfirmed):
            name = "stable" if len(self.labels) % 2 == 0 else "canary"
            self.labels = {**self.labels, name: good[len(good) // 2]}
            self.journal.append(line(Event.LABELLED, self.labels[name], labels=self.labels))

    def pin(self) -> None:
        if there := sorted({*self.served, *self.retired}):
            self.journal.append(line(Event.PINNED, there[0], reason="the auditors"))

    def delete(self, gone: Retention) -> None:
        for version in gone.surplus:
            self.journal += [line(Event.DELETING, version), line(Event.DELETED, version)]
            self.served.discard(version)
            self.retired.pop(version, None)


ACTS = ("promote", "kill", "withdraw", "roll_back", "copy_by_hand", "label", "pin")
OFTEN = st.sampled_from(("promote", "promote", "promote", *ACTS))


def entries(history: History) -> st.SearchStrategy[Entry | None]:
    some = st.lists(st.sampled_from(sorted(history.served) or [1]), max_size=3, unique=True).map(tuple)
    return st.none() | st.builds(
        Entry,
        base_path=st.just("/m"),
        versions=st.none() | some,
        labels=st.just(history.labels),
        highest=st.integers(1, 3),
    )


HISTORIES = st.one_of(
    st.lists(OFTEN, max_size=6),
    st.lists(OFTEN, min_size=6, max_size=25).map(lambda acts: [*acts, "promote"]),
    st.permutations([*ACTS, *["promote"] * 6]).map(lambda acts: [*acts, "promote"]),
)


@settings(max_examples=400)
@given(HISTORIES, st.sampled_from((0, 0, 1, 2, 3, None)), st.data())
def test_what_may_be_wanted_stays_whatever_has_happened(
    acts: list[str], newest: int | None, drawn: st.DataObject
) -> None:
    history = History()
    for act in acts:
        getattr(history, act)()
    entry = drawn.draw(entries(history))
    loaded = {"server": drawn.draw(st.lists(st.sampled_from(sorted(history.served) or [1]), max_size=2))}
    found = retention(history.names, history.journal, entry, loaded, newest)
    there = {*history.served, *history.retired}
    assert {*found.kept} | {*found.surplus} == there and not {*found.kept} & {*found.surplus}
    assert all(found.kept.values()) and all(found.surplus.values())

    served = sorted(history.served)
    listed = entry.versions if entry is not None else None
    live = {*served[-1:], *history.labels.values(), *loaded["server"], *(listed or ())}
    if entry is not None and listed is None:
        live |= {*served[-entry.highest :]}
    confirmed = [one for one in served if one not in history.unconfirmed | history.by_hand]
    assert live & there <= {*found.kept}
    assert history.unconfirmed | history.by_hand | {*rules.pinned(history.journal)} <= {*found.kept}
    assert len({*found.kept} & {*confirmed}) >= min(newest if newest is not None else MANY, len(confirmed))
    for version in live:
        assert not (before := [one for one in confirmed if one < version]) or before[-1] in found.kept, version
    if newest is None or rules.unfinished(history.journal) is not None:
        assert not found.surplus
    assert bool(found.blocked) == (rules.unfinished(history.journal) is not None)

    highest = history.next
    history.delete(found)
    assert history.next == highest, "a number is used again"
    assert rules.unconfirmed(history.journal).keys() == history.unconfirmed
    again = retention(history.names, history.journal, entry, loaded, newest)
    assert not again.surplus and again.kept == found.kept, "twice is once"


@given(st.integers(1, MANY), st.integers(0, MANY))
def test_of_plain_versions_the_newest_stay_and_the_one_to_roll_back_to(many: int, newest: int) -> None:
    history = History()
    for _ in range(many):
        history.promote()
    found = retention(history.names, history.journal, None, {}, newest)
    assert sorted(found.kept) == list(range(max(1, many - max(newest, 2) + 1), many + 1))


def test_the_reasons_are_told() -> None:
    history = History()
    for act in ("promote", "promote", "promote", "withdraw", "promote", "promote"):
        getattr(history, act)()
    history.journal.append(line(Event.PINNED, 1, reason="the auditors"))
    entry = Entry(base_path="/m", versions=(3, 6), labels={"stable": 3, "canary": 6})
    found = retention(history.names, history.journal, entry, {"host:8500": [5]}, 1)
    assert found.surplus == {}
    assert found.kept == {
        6: ("served", "label canary", "listed in models.config", "newest"),
        5: ("a rollback from 6 leads to it", "loaded in host:8500"),
        4: ("newest of the retired",),
        3: ("label stable", "listed in models.config", "a rollback from 5 leads to it"),
        2: ("a rollback from 3 leads to it",),
        1: ("pinned: the auditors",),
    }


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder on a disk without latency, where there is one: there are many kills to come."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="tfship-test-", dir=memory if memory.is_dir() else None))
    yield folder
    remove_tree(folder)


def releases(root: Path) -> Releases:
    return Releases(root / "serving", NAME)


def five(root: Path) -> None:
    """Versions 1, 3 and 5 served, 2 rolled back, 4 withdrawn."""
    store, serving = Store(root / "store"), root / "serving"
    for content in "ab":
        promoted(serving, store, content)
    rolled_back(serving)
    promoted(serving, store, "c")
    withdrawn(serving, store, "d")
    promoted(serving, store, "e")


def names(root: Path) -> list[str]:
    return [name for name in releases(root).names() if not name.startswith(".")]


def test_a_deleted_version_frees_what_nothing_else_holds_and_its_number_and_hold_stay(root: Path) -> None:
    five(root)
    before = releases(root).journal()
    digest, model = next((one.digest, one.model) for one in before if one.version == 2)
    assert rules.held(digest, model, before) is not None
    for step in (root / "store" / "export").iterdir():
        if (step / "saved_model" / "saved_model.pb").read_text().startswith("export b"):
            remove_tree(step)
    with releases(root).open() as opened:
        ((gone, alone),) = opened.delete(2, "old")
        ((_, linked),) = opened.delete(1, "old")
    assert gone == root / "serving" / NAME / "2.rolled-back"
    assert (alone, linked) == (1000, 0), "the store still has the other"
    assert names(root) == ["3", "4.withdrawn", "5"]
    journal = releases(root).journal()
    assert rules.held(digest, model, journal) is not None
    assert [(one.event, one.version) for one in journal[len(before) :]] == [
        (event, version) for version in (2, 1) for event in (Event.DELETING, Event.DELETED)
    ]
    assert journal[-3].digest == digest and journal[-3].reason == "old" and journal[-3].by
    assert promoted(root / "serving", Store(root / "store"), "f") == 6


def test_a_killed_deletion_leaves_no_part_of_a_version_and_is_finished(root: Path) -> None:
    five(root)
    for path in root.iterdir():
        shutil.copytree(path, root.with_name(f"{root.name}-made") / path.name)
    made = root.with_name(f"{root.name}-made")
    whole = {version: tree(made / "serving" / NAME / version) for version in ("1", "2.rolled-back")}
    ends = set()
    try:
        for moment in every_moment(root, made, lambda: deleted(root, 1, 2)):
            base = root / "serving" / NAME
            for name in whole:
                assert not (base / name).exists() or tree(base / name) == whole[name], moment
            for _ in range(2):  # twice is once
                with releases(root).open() as opened:
                    assert rules.unfinished(opened.journal()) is None and not list((opened.own / "staging").iterdir())
            journal = releases(root).journal()
            said = {one.version for one in journal if one.event is Event.DELETED}
            there = {int(name.partition(".")[0]) for name in names(root)}
            assert there == {1, 2, 3, 4, 5} - said, moment
            ends.add(len(said))
            assert promoted(root / "serving", Store(root / "store"), "f") == 6
    finally:
        remove_tree(made)
    assert ends == {0, 1, 2}


def deleted(root: Path, *versions: int) -> None:
    with releases(root).open() as opened:
        for version in versions:
            opened.delete(version, "old")


def every_moment(root: Path, made: Path, work: Callable[[], object]) -> Iterator[int]:
    """Stop at every moment: each time with a copy of what was `made`, and `work` killed right there."""
    for moment in range(10_000):
        for path in root.iterdir():
            remove_tree(path)
        for path in made.iterdir():
            shutil.copytree(path, root / path.name)
        if not killed_at(moment, work):
            assert moment >= FEWEST_MOMENTS, "the kills have missed what they are for"
            return
        yield moment


def test_a_disk_that_refuses_any_operation_is_named_and_nothing_is_stuck(root: Path) -> None:
    codes = []
    for moment in range(10_000):
        for path in root.iterdir():
            remove_tree(path)
        five(root)
        code = failed_at(moment, lambda: deleted(root, 2))
        if code is None:
            break
        codes.append(code)
        with contextlib.suppress(EnvironmentFailure):
            deleted(root, 2)
        assert {"1", "3", "5"} <= {*names(root)} and promoted(root / "serving", Store(root / "store"), "f") == 6
    assert set(codes) <= {ExitCode.DONE, ExitCode.ENVIRONMENT} and codes.count(ExitCode.ENVIRONMENT) > 3


def test_a_version_that_cannot_be_removed_is_left_as_it_was(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    five(root)
    before = tree(root)
    monkeypatch.setattr("os.access", lambda *_: False)
    monkeypatch.setattr("os.geteuid", lambda: 4_000_000)
    with releases(root).open() as opened, pytest.raises(EnvironmentFailure, match="Permission denied"):
        opened.delete(2, "old")
    assert tree(root) == before


def test_a_version_that_is_a_link_goes_and_what_it_leads_to_stays(root: Path) -> None:
    five(root)
    place, moved = root / "serving" / NAME / "1", root / "moved"
    place.rename(moved)
    place.symlink_to(moved)
    before = tree(moved)
    with releases(root).open() as opened:
        ((_, freed),) = opened.delete(1, "old")
    assert freed == len(str(moved)) and "1" not in names(root) and tree(moved) == before
    deleted(root)


def test_a_pin_keeps_a_version_until_it_is_removed(root: Path) -> None:
    five(root)

    def pinned(version: int, *, remove: bool = False) -> JournalLine | None:
        return pin(Release(serving_root=root / "serving", name=NAME, reason="why"), version, remove=remove)

    def kept() -> set[int]:
        return {*retention(releases(root).names(), releases(root).journal(), None, {}, 0).kept}

    assert kept() == {3, 5}
    for version in (1, 2):
        assert pinned(version) is not None and pinned(version) is None, "twice is once"
    assert kept() == {1, 2, 3, 5}
    assert pinned(1, remove=True) is not None
    assert kept() == {2, 3, 5}
    for version, remove in ((1, True), (9, False)):
        with pytest.raises(UsageError, match=f"pin model {version}"):
            pinned(version, remove=remove)


def test_bytes_go_with_the_last_name_of_a_file(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
        (tmp_path / name / "own").write_bytes(b"x" * 10)
    (tmp_path / "a" / "shared").write_bytes(b"x" * 100)
    (tmp_path / "a" / "again").hardlink_to(tmp_path / "a" / "shared")
    (tmp_path / "b" / "shared").hardlink_to(tmp_path / "a" / "shared")
    freed = Freed()
    assert [freed.by(tmp_path / name) for name in "abc"] == [10, 110, 10]
    assert [Freed().by(tmp_path / name) for name in "abc"] == [10, 10, 10]
    assert Freed().by(tmp_path) == 130
