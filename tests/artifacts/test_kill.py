"""A step that is killed before or after any of its disk operations leaves a complete artifact or none."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.artifacts.store import Store
from tasks.errors import CoverageError, ExitCode
from tasks.step import Run, Step, running, step
from tests.artifacts.disk import failed_at, killed_at, tree, whole, writable, writing
from tests.silent import Silent

FILES = {"graph.pb": b"graph" * 100, "variables/variables.index": b"index", "variables/deep/shard": b"weights" * 1000}
FEWEST_MOMENTS = 60


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder on a disk without latency, where there is one: there are hundreds of kills to come."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="tfship-test-", dir=memory if memory.is_dir() else None))
    yield folder
    shutil.rmtree(folder)


@step(version=1)
def plain(out: Path) -> None:
    writing(FILES)(out)


@step(version=1, resumes=True)
def resuming(seen: str, out: Path) -> None:
    """Writes what is missing, each file whole or not at all, and appends what it found to the file `seen`."""
    found = tree(out)
    for name in found:
        with (out / name).open("r+b"):
            pass
    for name, content in FILES.items():
        if name in found:
            assert found[name] == content
            continue
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        partial = out / f"{name}.partial"
        partial.write_bytes(content)
        partial.rename(out / name)
    Path(seen).write_text("\n".join(sorted(found)))


@step(version=1, resumes=True)
def judged(accepts: str, out: Path) -> None:
    """A step whose verdict depends on the day."""
    writing(FILES)(out)
    if not Path(accepts).exists():
        raise CoverageError("here", "this", "that", "look")


@step(version=1)
def drawn_from(urn: str, out: Path) -> None:
    """A step that gives something else whenever `urn` does, as a training might."""
    writing(FILES | {"drawn": Path(urn).read_bytes()})(out)


def run_in(root: Path, work: Callable[[], object], *refresh: str) -> list[str]:
    """Do `work` in a run on the store of `root`; return the warnings."""
    warnings: list[str] = []
    with running(Run("test", Store(root / "store", warn=warnings.append), Silent(), frozenset(refresh))):
        work()
    return warnings


def place_of(root: Path, name: str) -> Path | None:
    """Where the step's one artifact is, if it is."""
    found = list((root / "store" / name).glob("*"))
    assert len(found) <= 1
    return found[0] if found else None


def nothing_staged(root: Path, name: str) -> bool:
    return not list((root / "store" / ".staging" / name).glob("*"))


def every_moment(root: Path, prepare: Callable[[], None], work: Callable[[], object]) -> Iterator[int]:
    """Stop at every moment: each time after `prepare` in an empty folder, and `work` killed right there."""
    for moment in range(10_000):
        for path in root.iterdir():
            shutil.rmtree(path)
        (root / "beside").mkdir()
        prepare()
        if not killed_at(moment, work):
            assert moment >= FEWEST_MOMENTS, "the kills have missed what they are for"
            return
        yield moment


def same_digest_without_a_kill(root: Path, wanted: Step[...], *args: str) -> str:
    digests: list[str] = []
    run_in(root, lambda: digests.append(wanted(*args).digest))
    return digests[0]


def test_a_killed_step_is_absent_or_whole(root: Path) -> None:
    digest = same_digest_without_a_kill(root, plain)
    for moment in every_moment(root, lambda: None, lambda: run_in(root, plain)):
        left = place_of(root, "plain")
        assert left is None or whole(left), moment
        assert same_digest_without_a_kill(root, plain) == digest, moment
        assert (place := place_of(root, "plain")) and whole(place)
        assert nothing_staged(root, "plain"), moment


def test_a_killed_training_goes_on_from_what_it_had(root: Path) -> None:
    seen = str(root / "beside" / "seen")
    (root / "beside").mkdir()
    digest = same_digest_without_a_kill(root, resuming, seen)
    for moment in every_moment(root, lambda: None, lambda: run_in(root, lambda: resuming(seen))):
        left = place_of(root, "resuming")
        staged = list((root / "store" / ".staging").glob("resuming/*"))
        had = {name for name in tree(staged[0]) if name in FILES} if staged else set()
        Path(seen).unlink(missing_ok=True)
        assert left is None or whole(left), moment
        assert same_digest_without_a_kill(root, resuming, seen) == digest, moment
        if left is None:
            found = set(Path(seen).read_text().split())
            assert had <= found <= set(FILES) | {f"{name}.partial" for name in FILES}, moment
        assert nothing_staged(root, "resuming"), moment


def test_a_verdict_killed_before_its_commit_is_forgotten(root: Path) -> None:
    """Killed between the verdict and its commit, a step that resumes does not take the old verdict for a new one."""
    accepts = root / "beside" / "accepts"

    def refused() -> None:
        with pytest.raises(CoverageError):
            judged(str(accepts))

    for moment in every_moment(root, lambda: None, lambda: run_in(root, refused)):
        left = place_of(root, "judged")
        assert left is None or whole(left), moment
        accepts.touch()
        run_in(root, refused if left else lambda: judged(str(accepts)))
        place = place_of(root, "judged")
        assert place and whole(place) and (place / "refusal.json").exists() == bool(left), moment
        assert nothing_staged(root, "judged"), moment


def test_a_killed_refresh_never_loses_what_was_there(root: Path) -> None:
    urn = root / "beside" / "urn"

    def committed() -> None:
        urn.write_bytes(b"old")
        run_in(root, lambda: drawn_from(str(urn)))
        urn.write_bytes(b"new")

    def drawn(folder: Path) -> object:
        assert whole(folder)
        return tree(folder)["drawn"]

    for moment in every_moment(root, committed, lambda: run_in(root, lambda: drawn_from(str(urn)), "drawn_from")):
        left = place_of(root, "drawn_from")
        aside = [drawn(folder) for folder in (root / "store" / ".aside").iterdir()]
        kept = [drawn(left)] if left and not aside else aside
        assert kept == [b"old"], moment
        run_in(root, lambda: drawn_from(str(urn)))
        run_in(root, lambda: drawn_from(str(urn)), "all")
        assert (place := place_of(root, "drawn_from")) and drawn(place) == b"new", moment
        assert nothing_staged(root, "drawn_from"), moment


def test_a_repair_that_is_killed_keeps_the_damaged_bytes(root: Path) -> None:
    def damaged() -> None:
        run_in(root, plain)
        place = place_of(root, "plain")
        assert place
        with writable(place / "graph.pb") as path:
            path.write_bytes(b"scratched")

    for moment in every_moment(root, damaged, lambda: run_in(root, plain)):
        run_in(root, plain)
        aside = list((root / "store" / ".aside").iterdir())
        assert [tree(folder)["graph.pb"] for folder in aside] == [b"scratched"], moment
        assert (place := place_of(root, "plain")) and whole(place)
        assert nothing_staged(root, "plain"), moment


@pytest.mark.parametrize("refreshes", [False, True], ids=["first build", "refresh"])
def test_a_disk_that_fills_up_at_any_operation_is_named_and_loses_nothing(root: Path, refreshes: bool) -> None:
    urn = root / "beside" / "urn"
    refresh = ["drawn_from"] if refreshes else []
    outcomes = []
    for moment in range(10_000):
        for path in root.iterdir():
            shutil.rmtree(path)
        (root / "beside").mkdir()
        urn.write_bytes(b"old")
        if refreshes:
            run_in(root, lambda: drawn_from(str(urn)))
            urn.write_bytes(b"new")
        code = failed_at(moment, lambda: run_in(root, lambda: drawn_from(str(urn)), *refresh))
        if code is None:
            break
        outcomes.append(code)
        kept = [*(root / "store" / "drawn_from").glob("*"), *(root / "store" / ".aside").glob("*")]
        assert all(whole(folder) for folder in kept)
        assert not refreshes or b"old" in [tree(folder)["drawn"] for folder in kept], moment
        run_in(root, lambda: drawn_from(str(urn)))
        assert (place := place_of(root, "drawn_from")) and whole(place)
    assert set(outcomes) == {ExitCode.DONE, ExitCode.ENVIRONMENT}
    assert outcomes.count(ExitCode.ENVIRONMENT) >= FEWEST_MOMENTS // 3
