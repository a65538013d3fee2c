"""Each fault in a model or its release is refused by its own cause; harmless changes pass.

Each mutant is committed with a correct manifest, and for weights with correct tensor checksums: hashing is not what
finds it. `python -m tests.makers.mutants` prints the whole table; with `-s`, so does this.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.artifacts import manifest as manifests
from tasks.artifacts.store import Artifact, Store
from tasks.errors import DamagedError, SmokeRefused
from tasks.promote import promote
from tasks.records.parity import ParityTest
from tasks.records.settings import Release, Serving
from tasks.releases.publish import Releases
from tasks.serving.checks import lifecycle
from tasks.serving.runtimes import embedded
from tasks.serving.runtimes.embedded import EmbeddedRuntime
from tasks.smoke_test import smoke_test
from tasks.step import Run, running
from tests.artifacts.disk import separate
from tests.makers import saved_model_faults
from tests.makers.chain import TOLERANCE, Chain
from tests.makers.mutants import BY_NAME, HARMLESS, MUTANTS, PASSED, Mutant
from tests.makers.mutants_releases import DATA, RELEASES, ReleaseMutant, Site, flip
from tests.serving.checks.gate import QUIET, Gate, serve_unprivileged
from tests.silent import Silent

# What a validator that only loads and queries lets through, one of each kind at least.
BLESSED_BY_LOAD_AND_QUERY = (
    "all weights NaN",
    "another model's variables",
    "the restore reads two variables crosswise",
    "a stale vocabulary beside the right one",
    "output renamed",
    "output of another dtype",
    "dropout left on",
    "batch norm in training mode",
    "argmax over the wrong axis",
    "rows in reverse order",
    "slower than its gate",
    "aborts at many rows",
)
CORRUPT = ("data truncated", "data missing", "saved_model.pb missing", "saved_model.pb truncated", "op unknown")
FEWEST, FEWEST_HARMLESS = 40, 5


@pytest.fixture(scope="module")
def gate(chain: Chain, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Gate]:
    """The gate, already at work on the mutants of the tests that were chosen."""
    judging = Gate(chain, tmp_path_factory.mktemp("mutants"))
    chosen = [item.callspec.params.get("mutant") for item in request.session.items if hasattr(item, "callspec")]
    with judging.at_work([mutant for mutant in chosen if isinstance(mutant, Mutant)]):
        yield judging


def named(mutant: Mutant | ReleaseMutant) -> str:
    return mutant.name


@pytest.mark.parametrize("mutant", MUTANTS, ids=named)
def test_a_mutant_is_refused_by_its_cause(gate: Gate, mutant: Mutant) -> None:
    verdict = gate.verdict(mutant)
    assert mutant.error is not None
    assert verdict.error == mutant.error.__name__, verdict.said
    assert mutant.cause in verdict.cause, verdict.said

    if mutant.cause.endswith(" values"):  # found by its value, whatever the outputs show
        assert verdict.report is not None and {row.test for row in verdict.report.failures} == {ParityTest.VALUES}


@pytest.mark.parametrize("name", ["a weight moved by 1e-4", "a weight zeroed", "all weights NaN"])
def test_a_wrong_weight_is_named(gate: Gate, name: str) -> None:
    report = gate.verdict(BY_NAME[name]).report
    assert report is not None and saved_model_faults.WEIGHT in {row.output for row in report.failures}


def test_a_signature_that_differs_is_said_with_both_dtypes(gate: Gate) -> None:
    said = gate.verdict(BY_NAME["output of another dtype"]).said
    assert "int32" in said and "int64" in said


@pytest.mark.parametrize("mutant", HARMLESS, ids=named)
def test_a_harmless_change_passes(gate: Gate, mutant: Mutant) -> None:
    verdict = gate.verdict(mutant)
    assert verdict.error is None, verdict.said


def test_all_are_killed_and_a_validator_that_loads_and_queries_blesses_half(gate: Gate) -> None:
    print(f"\n{gate.table()}")
    assert len(MUTANTS) >= FEWEST and len(HARMLESS) >= FEWEST_HARMLESS
    assert [mutant.name for mutant in MUTANTS if gate.verdict(mutant).error is None] == []
    assert [name for name in BLESSED_BY_LOAD_AND_QUERY if gate.load_and_query[name] != PASSED] == []
    unread = [] if os.geteuid() == 0 else ["files that nobody may read"]  # as they lie; the store gives the right back
    assert [mutant.name for mutant in HARMLESS if gate.load_and_query[mutant.name] != PASSED] == unread


def test_the_kill_rate_is_shown(gate: Gate, record_property: Callable[[str, str], None]) -> None:
    record_property("the gate:", gate.summary())


@pytest.mark.parametrize("name", CORRUPT)
def test_a_corrupt_model_is_refused_when_the_server_gives_it_up_and_not_at_a_deadline(gate: Gate, name: str) -> None:
    with (
        pytest.raises(SmokeRefused, match=r"load error|unknown op"),
        lifecycle.serving(EmbeddedRuntime(), "model", gate.spoiled[name].parent, 1, 3600.0),
    ):
        pass


def test_damage_that_a_quick_look_misses_is_no_verdict_on_the_model(gate: Gate, tmp_path: Path) -> None:
    site = site_of(gate, tmp_path)
    flip(site.model / DATA)
    serving = Serving.model_validate(QUIET | {"latency_requests": 1})  # another key than that of the kept blessing
    with running(Run("damage", Store(tmp_path / "store"), Silent())) as run, pytest.raises(DamagedError):
        smoke_test(site.exported, gate.chain.pinned, gate.chain.trained, gate.chain.frozen, serving, TOLERANCE)
    assert list((run.store.root / "smoke_test").iterdir()) == [site.blessed.path]  # nothing was kept beside it
    assert not site.exported.path.exists()  # set aside: the next run exports anew


# Releases -------------------------------------------------------------------------------------------------------------


def site_of(gate: Gate, folder: Path) -> Site:
    """The model's export and blessing in a store of their own, and an empty base path."""
    store = Store(folder / "store")

    def copied(artifact: Artifact) -> Artifact:
        place = store.place(artifact.step, artifact.key)
        shutil.copytree(artifact.path, place)
        return store.verify(place)

    base = folder / "serving" / "model"
    base.mkdir(parents=True)
    return Site(copied(gate.chain.exported), copied(gate.original), base)


def promoted(gate: Gate, site: Site) -> None:
    release = Release(serving_root=site.base.parent, name=site.base.name)
    store = Store(site.exported.path.parents[1])
    with running(Run("release", store, Silent())):
        serving = Serving.model_validate(QUIET)
        promote(site.exported, site.blessed, gate.chain.pinned, gate.chain.trained, release, serving, TOLERANCE)


@pytest.mark.parametrize("release", RELEASES, ids=named)
def test_a_spoiled_release_is_not_promoted(gate: Gate, tmp_path: Path, release: ReleaseMutant) -> None:
    site = site_of(gate, tmp_path)
    digest = Releases(site.base.parent, "model").digest
    release.spoil(site)
    if release.error is None:
        promoted(gate, site)
        version = Releases(site.base.parent, "model").served()
        assert version is not None and version < 10
        assert {entry.path for entry in site.exported.manifest.files if entry.path.startswith("saved_model/")} == {
            f"saved_model/{path.relative_to(site.base / str(version)).as_posix()}"
            for path in (site.base / str(version)).rglob("*")
            if path.is_file()
        }
        return
    before = set(site.base.iterdir()) if site.base.is_dir() else set()
    with pytest.raises(release.error, match=release.cause):
        promoted(gate, site)
    there = {path for path in site.base.iterdir() if path.name.isdecimal()} if site.base.is_dir() else set()
    assert there - before <= {site.base / "99"}, "what was refused is still under a version's number"
    assert digest(1) is None


def test_a_blessing_goes_with_its_own_model_only_and_a_refusal_is_none(gate: Gate, tmp_path: Path) -> None:
    site = site_of(gate, tmp_path)
    (swapped,) = [mutant for mutant in MUTANTS if mutant.name == "outputs swapped"]
    assert gate.verdict(swapped).error
    with running(gate.run):
        spoiled = gate.exported(swapped)
    tests = gate.chain.store.artifacts("smoke_test")
    (refused,) = [test for test in tests if test.manifest.inputs["exported"] == spoiled.digest]
    for blessed, said in ((site.blessed, "a blessing of"), (refused, "a passed smoke test")):
        with pytest.raises(SmokeRefused, match=said):
            promoted(gate, Site(spoiled, blessed, site.base))
        assert not list(site.base.iterdir())


def test_a_file_that_the_server_may_not_read_is_a_load_error(
    gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store and `publish` give everybody leave to read; a mode that is taken away later is refused in seconds."""
    monkeypatch.setattr(embedded, "serve", serve_unprivileged)
    source = gate.chain.exported.path / "saved_model"
    with Releases(tmp_path, "model").open() as releases:
        releases.publish(source, manifests.entries(source))
    base = tmp_path / "model"
    with lifecycle.serving(EmbeddedRuntime(), "model", base, 1, 60.0):
        pass
    separate(base / "1" / "saved_model.pb").chmod(0)
    with pytest.raises(SmokeRefused, match="load error"), lifecycle.serving(EmbeddedRuntime(), "model", base, 1, 60.0):
        pass
