"""Only complete versions have numeric names, whenever a publication or a rollback is killed or refused."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.artifacts import manifest as manifests
from tasks.artifacts.store import remove_tree
from tasks.errors import DamagedError, ExitCode, UsageError
from tasks.records.release import Event, JournalLine
from tasks.releases import rules
from tasks.releases.publish import Releases
from tests.artifacts.disk import failed_at, killed_at, separate

NAME = "model"
FEWEST_MOMENTS = 15


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder on a disk without latency, where there is one: there are hundreds of kills to come."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="tfship-test-", dir=memory if memory.is_dir() else None))
    yield folder
    shutil.rmtree(folder)


def model(root: Path, content: str) -> Path:
    """A tiny model in a folder of its own; `content` of one letter is what it computes, what follows is its warmup."""
    source = root / "models" / content
    if content[1:]:
        (source / "assets.extra").mkdir(parents=True, exist_ok=True)
        (source / "assets.extra" / "tf_serving_warmup_requests").write_text(content[1:])
        content = content[:1]
    (source / "variables").mkdir(parents=True, exist_ok=True)
    (source / "saved_model.pb").write_text(content * 50)
    (source / "variables" / "variables.index").write_text(content)
    return source


def digest(source: Path) -> str:
    return manifests.digest_of(manifests.entries(source))


def promote(releases: Releases, source: Path) -> int:
    """Publish and confirm, as the step does: what a killed promotion of the same model published is confirmed only."""
    files = manifests.entries(source)
    served = releases.served() or 0
    killed = releases.unconfirmed().get(served)
    if killed is not None and killed.digest == manifests.digest_of(files):
        version = served
    else:
        version = releases.publish(source, files)
    releases.append(
        event=Event.PROMOTED, version=version, digest=manifests.digest_of(files), model=rules.model_digest(files)
    )
    return version


def held(root: Path, content: str) -> bool:
    source = model(root, content)
    return rules.held(digest(source), rules.model_digest(manifests.entries(source)), journal(root)) is not None


def publish(root: Path, content: str) -> int:
    with Releases(root / "serving", NAME).open() as releases:
        return promote(releases, model(root, content))


def test_what_is_published_is_readable_to_other_users_whatever_the_umask(root: Path) -> None:
    before = os.umask(0o077)
    try:
        publish(root, "one")
    finally:
        os.umask(before)
    served = root / "serving" / NAME
    for path in (served.parent, served, *(served / "1").rglob("*"), served / "1"):
        wanted = 0o055 if path.is_dir() else 0o044
        assert path.stat().st_mode & wanted == wanted, path


def confirmation_failed(root: Path, content: str) -> None:
    with Releases(root / "serving", NAME).open() as releases:
        source = model(root, content)
        version = releases.publish(source, manifests.entries(source))
        releases.withdraw(version, digest(source), "it did not answer")


def roll_back(root: Path, to: int | None = None) -> JournalLine:
    with Releases(root / "serving", NAME).open() as releases:
        return releases.finish_rollback(releases.begin_rollback(releases.earlier(to), "worse than the one before"))


def journal(root: Path) -> list[JournalLine]:
    return Releases(root / "serving", NAME).journal()


def served(root: Path) -> dict[int, str]:
    """Every version that a server sees, by what it holds; each must be a whole model."""
    base = root / "serving" / NAME
    whole = {digest(source): source.name for source in (root / "models").iterdir()}
    found = {}
    for version in rules.versions(path.name for path in base.iterdir()):
        what = digest(base / str(version))
        assert what in whole, f"version {version} is half a model"
        found[version] = whole[what]
    return found


def every_moment(root: Path, prepare: Callable[[], object], work: Callable[[], object]) -> Iterator[int]:
    """Stop at every moment: each time after `prepare` in an empty folder, and `work` killed right there."""
    for moment in range(10_000):
        for path in root.iterdir():
            remove_tree(path)
        prepare()
        if not killed_at(moment, work):
            assert moment >= FEWEST_MOMENTS, "the kills have missed what they are for"
            return
        yield moment


def is_unconfirmed(root: Path) -> bool:
    return bool(Releases(root / "serving", NAME).unconfirmed())


def repaired(root: Path) -> list[JournalLine]:
    """The journal after the next one to come has opened the releases; twice is once."""
    for _ in range(2):
        with Releases(root / "serving", NAME).open() as releases:
            kept = (None, *releases.unconfirmed().values(), releases.interrupted_rollback())
            assert rules.unfinished(releases.journal()) in kept
            assert not list((releases.own / "staging").iterdir())
            lines = releases.journal()
    assert lines == journal(root)
    return lines


def test_a_killed_publication_shows_whole_versions_only_and_is_repaired(root: Path) -> None:
    ends = set()
    for moment in every_moment(root, lambda: publish(root, "a"), lambda: publish(root, "b")):
        assert served(root) in ({1: "a"}, {1: "a", 2: "b"}), moment
        before = served(root)
        intended = any(line.version == 2 for line in journal(root))
        lines = repaired(root)
        assert served(root) == before, "less is served, or something else, than the kill left"
        ends.add((lines[-1].event, 2 in before))
        # The same model is finished where it stands, another gets the next number: one that was ever intended is not given again.
        if moment % 2:
            wanted = 2 if is_unconfirmed(root) or not intended else 3
            assert publish(root, "b") == wanted, moment
            assert served(root)[max(served(root))] == "b"
        else:
            assert publish(root, "c") == (3 if intended else 2), moment
            assert served(root)[max(served(root))] == "c"
        assert rules.unfinished(repaired(root)) is None
    assert ends == {
        (Event.PROMOTED, False),
        (Event.ABANDONED, False),
        (Event.PROMOTING, True),
        (Event.PROMOTED, True),
    }


def test_a_killed_rollback_has_happened_or_has_not(root: Path) -> None:
    def three() -> None:
        for content in "abc":
            publish(root, content)

    outcomes = set()
    for moment in every_moment(root, three, lambda: roll_back(root, 1)):
        # The highest goes first: what is left is what was there, without a gap.
        assert served(root) in ({1: "a", 2: "b", 3: "c"}, {1: "a", 2: "b"}, {1: "a"}), moment
        lines = repaired(root)
        now = served(root)
        assert now in ({1: "a", 2: "b", 3: "c"}, {1: "a"}), moment
        rolled_back = now == {1: "a"}
        outcomes.add(rolled_back)
        assert (lines[-1].event is Event.ROLLED_BACK) == rolled_back, moment
        for content in "bc":
            assert held(root, content) == rolled_back, moment
        assert publish(root, "d") == 4, moment
    assert outcomes == {True, False}
    kept = sorted(path.name for path in (root / "serving" / NAME).iterdir() if not path.name.startswith("."))
    assert kept == ["1", "2.rolled-back", "3.rolled-back"], "nothing is deleted"


def test_a_withdrawal_that_was_killed_is_finished(root: Path) -> None:
    ends = set()
    for moment in every_moment(root, lambda: publish(root, "a"), lambda: confirmation_failed(root, "b")):
        assert served(root) in ({1: "a"}, {1: "a", 2: "b"}), moment
        failed = any(line.event is Event.WITHDRAWING for line in journal(root))
        last = repaired(root)[-1]
        assert (2 in served(root)) == (last.event is Event.PROMOTING), moment
        assert not failed or served(root) == {1: "a"}, "it could not be confirmed, and is served"
        assert not held(root, "b"), "it was not rolled back"
        ends.add(last.event)
    assert ends == {Event.PROMOTED, Event.ABANDONED, Event.PROMOTING, Event.WITHDRAWN}


def test_a_version_that_was_not_confirmed_stays_known_as_such_whatever_comes_after_it(root: Path) -> None:
    publish(root, "a")
    with Releases(root / "serving", NAME).open() as releases:
        releases.publish(model(root, "b"), manifests.entries(model(root, "b")))
    assert is_unconfirmed(root) and publish(root, "c") == 3
    releases = Releases(root / "serving", NAME)
    assert list(releases.unconfirmed()) == [2]
    assert releases.earlier(None) == 1, "nobody compared the answers of 2"
    with pytest.raises(UsageError, match="version 2"):
        releases.earlier(2)
    roll_back(root)
    assert served(root) == {1: "a"} and not releases.unconfirmed()


def test_an_interrupted_rollback_of_labels_waits_for_the_next_one(root: Path) -> None:
    for content in "ab":
        publish(root, content)
    with Releases(root / "serving", NAME).open() as releases:
        begun = releases.begin_rollback(1, "worse", labels={"stable": 1})
    assert repaired(root)[-1] == begun and served(root) == {1: "a", 2: "b"}
    with Releases(root / "serving", NAME).open() as releases:
        with pytest.raises(UsageError, match="interrupted rollback"):
            releases.require_settled()
        assert releases.interrupted_rollback() == begun
        releases.finish_rollback(begun)
        releases.require_settled()
    assert served(root) == {1: "a"}


def test_a_version_that_was_published_and_spoiled_before_it_was_confirmed_is_withdrawn(root: Path) -> None:
    publish(root, "a")
    with Releases(root / "serving", NAME).open() as releases:
        releases.publish(model(root, "b"), manifests.entries(model(root, "b")))
    separate(root / "serving" / NAME / "2" / "saved_model.pb").write_text("spoiled")
    assert repaired(root)[-1].event is Event.WITHDRAWN
    assert served(root) == {1: "a"}


@pytest.mark.parametrize("act", ["publish", "roll back"])
def test_a_full_disk_at_any_operation_is_named_and_leaves_whole_versions(root: Path, act: str) -> None:
    codes = []
    for moment in range(10_000):
        for path in root.iterdir():
            remove_tree(path)
        for content in "ab":
            publish(root, content)
        model(root, "c")
        work = (lambda: publish(root, "c")) if act == "publish" else (lambda: roll_back(root))
        code = failed_at(moment, work)
        if code is None:
            break
        codes.append(code)
        assert set(served(root).items()) <= {(1, "a"), (2, "b"), (3, "c")}, moment
        assert 1 in served(root)
        repaired(root)
        assert publish(root, "d") >= 3
    assert set(codes) <= {ExitCode.DONE, ExitCode.ENVIRONMENT}
    assert codes.count(ExitCode.ENVIRONMENT) >= FEWEST_MOMENTS // 3


def test_what_is_held_is_what_a_model_computes(root: Path) -> None:
    publish(root, "a")
    publish(root, "b")
    roll_back(root)
    assert held(root, "b") and held(root, "b with other warmup requests") and not held(root, "a")
    publish(root, "b with other warmup requests")  # forced
    assert not held(root, "b")


def test_a_version_of_an_older_journal_is_held_by_the_digest_of_its_promotion(root: Path) -> None:
    """Also where its files have changed since."""
    publish(root, "a")
    publish(root, "b")
    file = root / "serving" / NAME / ".tfship" / "journal.jsonl"
    written = [line.model_copy(update={"model": ""}) for line in journal(root)]
    file.write_text("".join(line.model_dump_json() + "\n" for line in written))
    (root / "serving" / NAME / "2" / "saved_model.pb").write_text("damaged")
    roll_back(root)
    assert rules.held(digest(model(root, "b")), "", journal(root)) is not None


def test_a_version_that_came_by_hand_is_held_too(root: Path) -> None:
    publish(root, "a")
    shutil.copytree(model(root, "b by hand"), root / "serving" / NAME / "7")
    roll_back(root)
    assert held(root, "b by hand") and held(root, "b")


def test_a_version_by_hand_is_retired_by_whatever_name_reads_as_its_number(root: Path) -> None:
    publish(root, "a")
    shutil.copytree(model(root, "b"), root / "serving" / NAME / "0007")
    assert list(roll_back(root).retired) == [7] and held(root, "b")
    assert served(root) == {1: "a"} and (root / "serving" / NAME / "7.rolled-back").is_dir()


def test_numbers_are_never_reused(root: Path) -> None:
    assert [publish(root, content) for content in "ab"] == [1, 2]
    roll_back(root)
    assert publish(root, "c") == 3
    confirmation_failed(root, "d")
    assert publish(root, "e") == 5
    roll_back(root, 1)
    shutil.rmtree(root / "serving" / NAME / "5.rolled-back")  # somebody tidies up: the journal still knows
    assert publish(root, "f") == 6
    assert served(root) == {1: "a", 6: "f"}


def test_a_lost_journal_stops_what_it_would_have_held(root: Path) -> None:
    """Without the history nobody knows that a model was rolled back: better no release than that one again."""
    publish(root, "a")
    publish(root, "b")
    roll_back(root)
    (root / "serving" / NAME / ".tfship" / "journal.jsonl").unlink()
    with pytest.raises(DamagedError, match=r"the history of 2\.rolled-back"):
        publish(root, "b")
    assert served(root) == {1: "a"}


def test_a_rollback_of_what_is_not_there_is_a_usage_error_and_changes_nothing(root: Path) -> None:
    publish(root, "a")
    before = journal(root)
    for to in (None, 1, 2, 0, -1):
        with pytest.raises(UsageError, match="rollback model"):
            roll_back(root, to)
    assert journal(root) == before and served(root) == {1: "a"}


def test_a_model_that_changed_since_it_was_listed_is_not_published(root: Path) -> None:
    publish(root, "a")
    source = model(root, "b")
    files = manifests.entries(source)
    (source / "saved_model.pb").write_text("B" * 50)
    with Releases(root / "serving", NAME).open() as releases, pytest.raises(DamagedError, match=r"saved_model\.pb"):
        releases.publish(source, files)
    assert list(served(root)) == [1]
    assert [line.event for line in repaired(root)][-1] is Event.ABANDONED


def test_a_journal_that_was_cut_short_is_mended_and_one_that_was_edited_is_refused(root: Path) -> None:
    publish(root, "a")
    path = root / "serving" / NAME / ".tfship" / "journal.jsonl"
    with path.open("a") as stream:
        stream.write('{"time": "2026-')
    assert publish(root, "b") == 2
    assert [line.version for line in journal(root)] == [1, 1, 2, 2]
    path.write_text("{}\n" + path.read_text())
    with pytest.raises(DamagedError, match=r"journal.jsonl, line 1"):
        publish(root, "c")
    assert served(root) == {1: "a", 2: "b"}
