"""`tfship gc` shows what killed runs left and what retention lets go, and deletes with --yes exactly what it showed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.proven_model import proven
from tasks.artifacts import manifest as manifests
from tasks.artifacts.store import Artifact, Store
from tasks.releases import rules
from tasks.releases.publish import Releases
from tests.artifacts.disk import tree, whole
from tests.flows.cli.process import QUICK, STEPS, Answer, Shell, tfship
from tests.makers.leftovers import aged, unfinished
from tests.makers.released import CHAIN, NAME, SIZE, artifact, chain, published, reported, rolled_back, withdrawn
from tests.serving.embedded.embedded_server import serving, wait_until

NO_ENGINE = {"DOCKER_HOST": "unix:///no/engine.sock"}
AGE = 8
SECONDS = 120.0


def gc(*arguments: str | Path, **environment: str) -> Answer:
    answer = tfship("gc", *arguments, **NO_ENGINE, **environment)
    assert answer.code == 0, answer.err
    return answer


def on_disk(*folders: Path) -> int:
    """The bytes of all files below, each counted once however many names it has."""
    found = [path.lstat() for folder in folders for path in folder.rglob("*") if path.is_file()]
    return sum({(one.st_dev, one.st_ino): one.st_size for one in found}.values())


def state(folder: Path) -> dict[str, Any]:
    """All below a folder: what it holds, and when it was changed."""
    return {**tree(folder), "times": {str(path): path.lstat().st_mtime_ns for path in folder.rglob("*")}}


@pytest.fixture
def left(store: Store) -> Path:
    return unfinished(store, "k", AGE)


def test_without_yes_it_says_what_would_go_and_changes_nothing(store: Store, left: Path, tmp_path: Path) -> None:
    before = state(tmp_path)
    answer = gc("--store", store.root)
    assert f"would delete {left} (unfinished" in answer.out
    assert "would free 1.0 kB" in answer.out
    assert answer.out.splitlines()[-1] == f"next    tfship gc --older-than 7d --store {store.root} --yes"
    assert state(tmp_path) == before


def test_what_went_is_said_as_one_document(store: Store, left: Path) -> None:
    document = gc("--store", store.root, "--yes", "--json").document
    assert [(one["path"], one["kind"]) for one in document["removed"]] == [(str(left), "unfinished")]
    assert document["freed_bytes"] == SIZE and document["deleted"]
    assert "no socket /no/engine.sock" in document["not_looked_at"]
    assert not left.exists()
    assert gc("--store", store.root, "--yes", "--json").document["removed"] == []


def test_what_a_live_process_builds_is_kept_and_said(store: Store, left: Path) -> None:
    with store.lock("train", "k"):
        answer = gc("--store", store.root, "--yes")
    assert f"kept    {left}: a live process uses it" in answer.out
    assert left.exists()


@pytest.mark.parametrize(("age", "goes"), [("9d", False), ("191h", True), ("1w", True), ("11530.5m", False)])
def test_the_age_is_a_number_and_a_unit(store: Store, left: Path, age: str, goes: bool) -> None:
    gc("--store", store.root, "--older-than", age, "--yes")
    assert left.exists() is not goes


def test_mistakes_are_told(tmp_path: Path, store: Store) -> None:
    for arguments in (
        ["--older-than", "7"],
        ["--older-than", "-1d"],
        ["--store", str(tmp_path)],
        ["--serving-root", "nosuch"],
        ["--keep-versions", "-1"],
        ["--keep-runs", "3", "--store", str(store.root)],  # no reports
    ):
        answer = tfship("gc", *arguments, **NO_ENGINE)
        assert answer.code == 2, arguments
        assert "Remedy: " in answer.err


class World:
    """A store, a serving root and reports in the current folder, as runs leave them: a to f promoted, b and d undone; n was not."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / ".tfship"
        self.store = Store(self.root / "store")
        self.serving, self.reports = self.root / "serving", self.root / "reports"
        self.chains: dict[str, dict[str, Artifact]] = {}
        for number, content in enumerate("nabcdef"):
            made = self.chains[content] = chain(self.store, content)
            reported(self.reports, f"2026{number}", made)
            if content == "n":
                continue
            if content == "d":
                withdrawn(self.serving, self.store, content)
                continue
            with Releases(self.serving, NAME).open() as releases:
                published(releases, self.store, made)
            if content == "b":
                rolled_back(self.serving)
        for place in self.store.root.glob("[!.]*/*"):
            aged(place, AGE)

    @property
    def names(self) -> list[str]:
        return [name for name in Releases(self.serving, NAME).names() if not name.startswith(".")]

    def whole(self) -> set[str]:
        """The models whose chains are there, each artifact whole; of the others some are gone."""
        return {
            content
            for content, made in self.chains.items()
            if all(one.path.exists() and whole(one.path) for one in made.values())
        }

    def pinned(self, version: int) -> None:
        assert tfship("pin", NAME, str(version), "--reason", "auditors").code == 0


@pytest.fixture
def world(folder: Path) -> World:
    return World(folder)


def test_nothing_goes_unless_it_is_asked_for(world: World) -> None:
    document = gc("--yes", "--json", "--older-than", "0s").document
    assert document["removed"] == [] and world.whole() == {*"nabcdef"} and len(world.names) == 6
    assert document["models"] == {}, "not looked at: a damaged journal stops nothing"
    only = gc("--keep-runs", "7", "--json", "--older-than", "0s").document
    assert only["removed"] == [] and only["models"][NAME]["kept"] == {
        "6": ["served", "all are kept"],
        "5": ["a rollback from 6 leads to it", "all are kept"],
        **{version: ["all are kept"] for version in "4321"},
    }
    assert "kept    all versions of model" in gc("--keep-runs", "7").out


@pytest.mark.parametrize("given", ["options", "settings"])
def test_what_was_shown_goes_and_the_disk_gains_what_was_said(world: World, folder: Path, given: str) -> None:
    world.pinned(2)
    limits = ("--keep-versions", "1", "--keep-runs", "1")
    environment = {} if given == "options" else {"TFSHIP_RETENTION": "{versions: 1, runs: 1}"}
    arguments = limits if given == "options" else ()
    before, bytes_before = state(folder), on_disk(world.root)
    shown = gc(*arguments, "--json", **environment).document
    assert state(folder) == before and not shown["deleted"]
    said = gc(*arguments, **environment).out
    assert "kept    version 2 of model: pinned: auditors" in said and "6 of runs" in said
    assert said.splitlines()[-1].endswith(" ".join((*arguments, "--yes")))

    done = gc(*arguments, "--yes", "--json", **environment).document
    for field in ("removed", "models", "artifacts", "in_use", "freed_bytes"):
        assert done[field] == shown[field], field
    journal = world.serving / NAME / ".tfship" / "journal.jsonl"
    gained = bytes_before - (
        on_disk(world.root) - journal.stat().st_size + len(before[str(journal.relative_to(folder))])
    )
    assert done["freed_bytes"] == gained > 0

    assert world.names == ["2.rolled-back", "4.withdrawn", "5", "6"]
    assert world.whole() == {*"bdef"}
    kinds = [one["kind"] for one in done["removed"]]
    assert kinds.count("version") == 2 and kinds.count("artifact") == 3 * len(CHAIN)
    # A model's file has two names, in the store and under the serving root: its bytes are those of the last one.
    assert [one["bytes"] for one in done["removed"] if one["kind"] == "version"] == [0, 0]
    again = gc(*arguments, "--yes", "--json", **environment).document
    assert again["removed"] == [] and again["models"][NAME]["kept"] == done["models"][NAME]["kept"], "twice is once"


def test_versions_alone_free_nothing_that_the_store_has(world: World) -> None:
    document = gc("--keep-versions", "1", "--yes", "--json").document
    assert [one["path"].rsplit("/", 1)[1] for one in document["removed"]] == ["3", "2.rolled-back", "1"]
    assert document["freed_bytes"] == 0 and world.whole() == {*"nabcdef"}


def test_the_chain_of_every_version_that_is_there_stays_and_is_promoted_from_again(world: World) -> None:
    document = gc("--keep-runs", "0", "--yes", "--json").document
    assert world.whole() == {*"abcdef"}, "not that which was not promoted"
    kept = {Path(one["path"]).name: one["reasons"] for one in document["artifacts"]}
    assert kept["train-a"] == ["version 1 of model"]
    for content in "abcdef":
        digest = world.chains[content]["smoke_test"].digest
        found = proven(world.store, world.reports, digest)
        assert (
            found is not None and found.artifacts["smoke_test"].digest == digest and len(found.artifacts) == len(CHAIN)
        )


def test_what_is_held_stays_so_after_it_is_deleted(world: World) -> None:
    (line,) = (one for one in Releases(world.serving, NAME).journal() if one.version == 2 and one.event == "promoted")
    gc("--keep-versions", "0", "--keep-runs", "0", "--yes")
    assert world.names == ["5", "6"]
    journal = Releases(world.serving, NAME).journal()
    assert rules.held(line.digest, line.model, journal) is not None
    shown = tfship("releases", NAME)
    assert shown.out.count("deleted") == 4 and "not among the newest" in shown.out
    assert tfship("status", NAME).code == 0, "what was deleted is not missed"


def test_young_and_used_artifacts_stay(world: World) -> None:
    used = world.chains["a"]["train"]
    young = artifact(world.store, "train", "young")
    assert world.store.hold(used)
    document = gc("--keep-versions", "0", "--keep-runs", "0", "--yes", "--json").document
    world.store.close()
    assert document["in_use"] == [str(used.path)] and used.path.exists() and young.path.exists()
    assert not world.chains["a"]["export"].path.exists()
    gc("--keep-versions", "0", "--keep-runs", "0", "--older-than", "0s", "--yes")
    assert not used.path.exists() and not young.path.exists()


def test_what_a_run_has_come_to_rest_on_meanwhile_stays(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ends while others' artifacts are deleted has written down what it used before it lets go."""
    delete, ended = Store.delete, list[Path]()

    def meanwhile(store: Store, one: Artifact, wanted: Callable[[], bool]) -> int | None:
        if not ended:
            ended.append(reported(world.reports, "20270", world.chains["n"]))
        return delete(store, one, wanted)

    monkeypatch.setattr(Store, "delete", meanwhile)
    document = gc("--keep-runs", "1", "--yes", "--json").document
    assert ended and document["removed"] == [] and len(document["in_use"]) == len(CHAIN)
    assert world.whole() == {*"nabcdef"}
    assert gc("--keep-runs", "1", "--yes", "--json").document["removed"] == []


def test_runs_count_by_name_and_one_that_cannot_be_read_keeps_what_it_names(world: World) -> None:
    others = {content: chain(world.store, content) for content in "xyz"}
    reported(world.reports, "20250", others["x"], name="other")
    (world.reports / "20251").mkdir()
    (world.reports / "20251" / "run.json").write_text(f"half of a document with {others['y']['train'].digest}")
    gc("--keep-versions", "0", "--keep-runs", "1", "--older-than", "0s", "--yes")
    world.chains |= others
    assert world.whole() == {*"efx"}
    assert others["y"]["train"].path.exists() and not others["y"]["checkpoint"].path.exists()


def test_a_model_in_the_middle_of_a_change_is_left_alone_and_that_is_said(world: World) -> None:
    with Releases(world.serving, NAME).open() as releases:
        releases.begin_rollback(5, "worse", labels={"stable": 5})
    answer = gc("--keep-versions", "0", "--keep-runs", "0", "--yes")
    assert "kept    all of model: rolling back version 5" in answer.out
    assert len(world.names) == 6 and world.whole() == {*"abcdef"}


def test_an_interrupted_deletion_is_finished(world: World) -> None:
    with Releases(world.serving, NAME).open() as releases:
        releases.append(event="deleting", version=1, digest="")
    assert "kept    all of model: deleting version 1" in gc("--keep-versions", "5").out
    gc("--keep-versions", "5", "--yes")
    assert world.names == ["2.rolled-back", "3", "4.withdrawn", "5", "6"]


def test_labels_and_listed_versions_stay(world: World) -> None:
    entry = f'name: "{NAME}" base_path: "/m" model_platform: "tensorflow"'
    policy = 'model_version_policy { specific { versions: 6 versions: 3 } } version_labels { key: "stable" value: 3 }'
    (world.serving / "models.config").write_text(f"model_config_list {{ config {{ {entry} {policy} }} }}")
    gc("--keep-versions", "0", "--yes")
    assert world.names == ["1", "3", "5", "6"], "1 is what a rollback of stable leads to"


def test_a_deletion_waits_for_a_promotion_and_keeps_what_it_made(world: World, shell: Callable[..., Shell]) -> None:
    with Releases(world.serving, NAME).open() as releases:
        limits = ("--keep-versions", "1", "--keep-runs", "0")
        process = shell("gc", *limits, "--yes", "--json", environment=NO_ENGINE)
        lock = f":{(releases.own / 'lock').stat().st_ino} "
        process.until(
            lambda: [one for one in Path("/proc/locks").read_text().splitlines() if "->" in one and lock in one]
        )
        world.chains["g"] = chain(world.store, "g")
        assert published(releases, world.store, world.chains["g"]) == 7
        with Releases(world.serving, "other").open() as others:
            assert published(others, world.store, world.chains["n"]) == 1
    answer = process.answer()
    assert answer.code == 0, answer.err
    assert world.names == ["4.withdrawn", "6", "7"], "judged again when the lock was free"
    assert answer.document["models"][NAME]["kept"]["7"][0] == "served"
    assert world.whole() == {*"ndfg"}, "the other model was promoted while this waited"


def test_what_a_running_server_has_loaded_stays(copied: Path) -> None:
    name, root = QUICK[0], copied / ".tfship" / "serving"
    one = root / name / "1"
    with Releases(root, name).open() as releases:
        for _ in range(4):
            files = manifests.entries(one)
            version = releases.publish(one, files)
            releases.append(event="promoted", version=version, digest=manifests.digest_of(files))
    policy = 'model_platform: "tensorflow" model_version_policy { specific { versions: 2 } }'
    config = copied / "servers.config"
    config.write_text(f'model_config_list {{ config {{ name: "{name}" base_path: "{root / name}" {policy} }} }}')
    with serving([f"--model_config_file={config}"], copied) as server:
        wait_until(lambda: server.states(name) == {"2": "AVAILABLE"}, SECONDS, "version 2 to be loaded")
        address = f"127.0.0.1:{server.grpc_port}"
        document = gc("--keep-versions", "0", "--server", address, "--yes", "--json").document
    assert document["models"][name]["kept"] == {
        "5": ["served"],
        "4": ["a rollback from 5 leads to it"],
        "2": [f"loaded in {address}"],
        "1": ["a rollback from 2 leads to it"],
    }
    assert rules.versions(Releases(root, name).names()) == [1, 2, 4, 5]
    answer = tfship("gc", "--keep-versions", "0", "--server", address, "--yes", **NO_ENGINE)
    assert answer.code == 4 and "an answer over gRPC" in answer.err, "the server is gone"


def test_evidence_and_what_is_not_ours_stay(world: World) -> None:
    base = world.serving / NAME
    mine = [base / ".tfship" / "evidence" / "1" / "probe.npz", base / "notes" / "x", base / "1.bak" / "y"]
    mine += [
        base / ".tfship" / "unknown" / "z",
        world.store.root / "notes" / "mine" / "w",
        base / "77" / "saved_model.pb",
    ]
    for path in mine:
        path.parent.mkdir(parents=True)
        path.touch()
    document = gc("--keep-versions", "0", "--keep-runs", "0", "--older-than", "0s", "--yes", "--json").document
    assert all(path.exists() for path in mine)
    assert document["models"][NAME]["kept"]["77"] == ["served", "came by hand"]


def test_a_damaged_journal_stops_it_before_anything_goes(world: World, folder: Path) -> None:
    unfinished(world.store, "k", AGE)
    journal = world.serving / NAME / ".tfship" / "journal.jsonl"
    journal.write_text("{}\n" + journal.read_text())
    before = state(folder)
    answer = tfship("gc", "--keep-versions", "0", "--yes", **NO_ENGINE)
    assert answer.code == 3 and "journal.jsonl, line 1" in answer.err and "Remedy: " in answer.err
    assert state(folder) == before


def test_a_pin_is_shown_and_taken_away(world: World) -> None:
    world.pinned(1)
    assert tfship("pin", NAME, "1", "--reason", "x", "--json").document["changed"] is False
    shown = tfship("releases", NAME).out
    assert "pinned  1" in shown and "auditors" in shown
    gc("--keep-versions", "0", "--yes")
    assert world.names == ["1", "5", "6"]
    assert tfship("pin", NAME, "1", "--remove", "--reason", "they left").out.startswith(
        "version 1 of model is no longer"
    )
    gc("--keep-versions", "0", "--yes")
    assert world.names == ["5", "6"]
    wrong = tfship("pin", NAME, "1", "--reason", "x")
    assert wrong.code == 2 and "found 5, 6" in wrong.err


def test_a_run_after_it_builds_what_is_missing_and_a_run_beside_it_loses_nothing(
    copied: Path, shell: Callable[..., Shell]
) -> None:
    everything = ("--keep-runs", "0", "--older-than", "0s", "--yes", "--json")
    kept = gc(*everything).document
    assert kept["removed"] == [] and kept["artifacts"], "version 1 was promoted from all of it"
    assert tfship("run", *QUICK, "--json").document["promotion"]["outcome"] == "unchanged"
    os.rename(".tfship/serving", ".tfship/other")
    assert len(gc(*everything).document["removed"]) == len(STEPS) - 2
    process = shell("run", *QUICK, "--json")
    process.until(lambda: list(copied.glob(".tfship/store/checkpoint/*")))
    while process.process.poll() is None:
        gc(*everything)
    answer = process.answer()
    assert answer.code == 0, answer.err
    assert {*answer.states.values()} == {"built"}


OWNER = """
import docker, sys
sys.path.insert(0, sys.argv[1])
from tasks.serving.runtimes.docker import owner
labels = {owner.RUN: sys.argv[3], **owner.owner()}
docker.from_env().containers.create(sys.argv[2], entrypoint=["sleep", "60"], labels=labels)
"""


@pytest.fixture
def image() -> Iterator[str]:
    root = Path(__file__).resolve().parents[3]
    made = subprocess.run(
        [sys.executable, str(root / "tests/docker_engine/images.py"), "base"],
        capture_output=True,
        text=True,
        check=True,
    )
    yield made.stdout.split()[-1]


@pytest.mark.engine
def test_the_container_of_a_dead_owner_goes_and_a_live_ones_stays(image: str, store: Store) -> None:
    from tasks.serving.runtimes.docker import owner
    from tasks.serving.runtimes.docker.engine import connect

    client: Any = connect()
    run_id, root = uuid.uuid4().hex, str(Path(__file__).resolve().parents[3])
    subprocess.run([sys.executable, "-c", OWNER, root, image, run_id], check=True)
    live = client.containers.create(image, entrypoint=["sleep", "60"], labels={owner.RUN: run_id, **owner.owner()})  # fmt: skip
    try:
        (dead,) = {one.id for one in client.containers.list(all=True, filters={"label": f"{owner.RUN}={run_id}"})} - {live.id}  # fmt: skip
        asked = tfship("gc", "--store", store.root, "--json")
        assert dead in asked.document["containers"]
        done = tfship("gc", "--store", store.root, "--yes", "--json")
        assert dead in json.loads(done.out)["containers"]
        left = client.containers.list(all=True, filters={"label": f"{owner.RUN}={run_id}"})
        assert [one.id for one in left] == [live.id]
    finally:
        live.remove(force=True)
        client.close()
