"""Many processes change the releases of one model at once, and of several models in one configuration."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.artifacts import manifest as manifests
from tasks.errors import EnvironmentFailure
from tasks.records.release import Event, JournalLine
from tasks.records.settings import Release
from tasks.releases import labels, rules
from tasks.releases.publish import Releases
from tests.artifacts.disk import exit_of, fork

PROCESSES, EACH = 8, 13
SHARED = ("a", "b", "c")
OUTCOMES = (Event.PROMOTED, Event.WITHDRAWN, Event.ROLLED_BACK)


def model(folder: Path, content: str) -> Path:
    source = folder / "models" / content
    source.mkdir(parents=True)
    (source / "saved_model.pb").write_text(content * 50)
    return source


def promote(serving: Path, name: str, source: Path, label: str | None = None) -> None:
    """As the step does: what is served already stays, anything else becomes the next version, and a label follows."""
    files = manifests.entries(source)
    digest, computed = manifests.digest_of(files), rules.model_digest(files)
    configuration = labels.of(Release(serving_root=serving, name=name, label=label), 1.0)
    with Releases(serving, name).open() as releases:
        served = releases.served()
        assert not releases.unconfirmed(), "another process is in the middle of its promotion"
        if served is not None and releases.digest(served) == digest:
            return
        version = releases.publish(source, files)
        if label is not None:
            labels.Placement.of(configuration, releases, label, version, served).lead()
        releases.append(event=Event.PROMOTED, version=version, digest=digest, model=computed, previous=served)


def at_once(work: Callable[[int], None]) -> None:
    """Do `work` in eight processes, which begin together."""
    reading, writing = os.pipe()

    def one(number: int) -> None:
        os.close(writing)
        os.read(reading, 1)  # ends when all have been started
        work(number)

    started = [fork(lambda number=number: one(number)) for number in range(PROCESSES)]  # type: ignore[misc]
    os.close(writing)
    os.close(reading)
    assert [exit_of(pid) for pid in started] == [0] * PROCESSES


def contents(serving: Path, name: str) -> dict[int, str]:
    """What each version on disk holds; a part of a model is none of them."""
    found = Releases(serving, name)
    return {
        version: (found.folder(version) / "saved_model.pb").read_text()[::50]
        for version in rules.versions(found.names())
    }


def test_a_hundred_promotions_of_the_same_and_of_other_models_under_one_name(tmp_path: Path) -> None:
    own = [[chr(0x4E00 + number * EACH + turn) for turn in range(EACH)] for number in range(PROCESSES)]
    sources = {content: model(tmp_path, content) for content in (*SHARED, *(one for many in own for one in many))}
    serving = tmp_path / "serving"

    def work(number: int) -> None:
        for turn, content in enumerate(own[number]):
            promote(serving, "model", sources[SHARED[turn % len(SHARED)] if turn % 2 else content])

    at_once(work)
    journal = Releases(serving, "model").journal()
    promoted = [line for line in journal if line.event is Event.PROMOTED]
    assert [line.version for line in promoted] == list(range(1, len(promoted) + 1)), (
        "a number is missing, or used twice"
    )
    assert [line.event for line in journal] == [Event.PROMOTING, Event.PROMOTED] * len(promoted), "two at a time"
    assert [line.previous for line in promoted] == [None, *range(1, len(promoted))]
    there = contents(serving, "model")
    digests = {content: manifests.digest_of(manifests.entries(source)) for content, source in sources.items()}
    assert {line.version: line.digest for line in promoted} == {at: digests[held[0]] for at, held in there.items()}
    held = [there[version][0] for version in sorted(there)]
    assert sorted(content for content in held if content not in SHARED) == sorted(
        own[number][turn] for number in range(PROCESSES) for turn in range(0, EACH, 2)
    ), "each of its own was promoted once"
    assert all(one != other for one, other in itertools.pairwise(held)), "what was served already was published again"
    assert not list((serving / "model" / ".tfship" / "staging").iterdir())


def test_labels_of_several_models_in_one_configuration(tmp_path: Path) -> None:
    own = [[model(tmp_path, chr(0x4E00 + number * 4 + turn)) for turn in range(4)] for number in range(PROCESSES)]
    serving = tmp_path / "serving"

    def work(number: int) -> None:
        for turn, source in enumerate(own[number]):
            promote(serving, f"m{number % 4}", source, f"of_{number}_{turn}")

    at_once(work)
    configuration = labels.Configuration(serving)
    for name in range(4):
        there = {held[0]: version for version, held in contents(serving, f"m{name}").items()}
        entry = configuration.entry(f"m{name}")
        assert entry is not None and dict(entry.labels) == {
            f"of_{number}_{turn}": there[source.name]
            for number in (name, name + 4)
            for turn, source in enumerate(own[number])
        }
    assert sorted(path.name for path in serving.iterdir() if path.is_file()) == ["models.config"]


def test_the_order_of_releases_does_not_hang_on_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serving, now = tmp_path / "serving", time.time()
    years: list[JournalLine] = []
    for turn, content in enumerate("abc"):
        monkeypatch.setattr(time, "gmtime", lambda seconds=now - turn * 1e8, real=time.gmtime: real(seconds))
        promote(serving, "model", model(tmp_path, content))
        monkeypatch.undo()
        years.append(Releases(serving, "model").journal()[-1])
    assert [line.time for line in years] == sorted((line.time for line in years), reverse=True), "the clock went back"
    with Releases(serving, "model").open() as releases:
        assert releases.upcoming() == 4 and releases.earlier(None) == 2
        releases.finish_rollback(releases.begin_rollback(2, "a test"))
    journal = Releases(serving, "model").journal()
    digests = {line.version: line.digest for line in journal if line.event is Event.PROMOTED}
    assert rules.held(digests[3], "", journal) is not None and rules.held(digests[2], "", journal) is None
    promote(serving, "model", model(tmp_path, "d"))
    assert Releases(serving, "model").served() == 4


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_root_that_is_read_only_is_named_and_serves_what_it_served(tmp_path: Path) -> None:
    serving, sources = tmp_path / "serving", [model(tmp_path, content) for content in "abc"]
    serving.mkdir()
    for turn, place in enumerate((".", "model", "model/.tfship/staging")):
        before = contents(serving, "model")
        (serving / place).chmod(0o555)
        with pytest.raises(EnvironmentFailure, match=r"serving root .*Permission denied"):
            promote(serving, "model", sources[turn])
        assert contents(serving, "model") == before
        (serving / place).chmod(0o755)
        promote(serving, "model", sources[turn])
        assert [*contents(serving, "model").values()] == [one.name for one in sources[: turn + 1]]
        assert not list((serving / "model" / ".tfship" / "staging").iterdir()), "what the refusal left"
