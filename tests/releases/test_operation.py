"""Promotion, labels and rollback where a server is in operation: no client notices, and what fails is taken back."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tasks import isolate
from tasks.artifacts.store import Artifact
from tasks.errors import ChildFailed, EnvironmentFailure, ParityError, PipelineError, UsageError
from tasks.label import label
from tasks.promote import promote
from tasks.records.release import Event
from tasks.records.run import Promotion
from tasks.records.settings import Release
from tasks.releases import rules
from tasks.releases.labels import Configuration
from tasks.releases.publish import Releases
from tasks.releases.server_config import FILE, Entry
from tasks.releases.status import status
from tasks.rollback import rollback
from tasks.serving.clients import model_service
from tasks.smoke_test import smoke_test
from tasks.step import Run
from tests.artifacts.disk import killed_at
from tests.makers.exported import TOLERANCE, Made, a_run, exported, serving
from tests.serving.embedded.embedded_server import RunningServer, wait_until
from tests.serving.embedded.embedded_server import serving as served_by

NAME = "m"
FACTORS = (2.0, 3.0, 5.0)
SECONDS = 120.0
_PAUSE_SECONDS = 0.01
CHANGES = 20 if os.environ.get("SWEEPS") == "whole" else 5
FLAGS = (
    "--model_config_file_poll_wait_seconds=1",
    "--file_system_poll_wait_seconds=1",
    "--allow_version_labels_for_unavailable_models=true",
    "--max_num_load_retries=0",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with a_run(tmp_path_factory.mktemp("store")) as entered:
        yield entered


@pytest.fixture(scope="module")
def models(run: Run) -> dict[float, tuple[Made, Artifact]]:
    """Models that differ by one number, each with its blessing."""
    made = {factor: exported("Scaled", factor=factor) for factor in FACTORS}
    return {factor: (one, smoke_test(*one, serving(), TOLERANCE)) for factor, one in made.items()}


def release(root: Path, **options: Any) -> Release:
    return Release(serving_root=root, name=NAME, **options)


def promoted(model: tuple[Made, Artifact], root: Path, **options: Any) -> Promotion:
    (out, checkpoint, made, _), blessed = model
    return promote(out, blessed, checkpoint, made, release(root, **options), serving(load_timeout=SECONDS), TOLERANCE)


def entry(root: Path) -> Entry:
    found = Configuration(root).entry(NAME)
    assert found is not None
    return found


@contextmanager
def in_operation(root: Path, folder: Path) -> Iterator[tuple[RunningServer, dict[str, Any]]]:
    """A server that reads the root's configuration, and the options that name it."""
    with served_by([f"--model_config_file={root / FILE}", *FLAGS], folder) as server:
        yield server, {"servers": [f"127.0.0.1:{server.grpc_port},{server.rest_port}"]}


class Client:
    """A client that asks all the time, for a label or for none; the answers to 1.0, and what failed."""

    def __init__(self, server: RunningServer, path: str) -> None:
        self.url = f"{server.url}/v1/models/{NAME}{path}:predict"
        self.answers: list[float] = []
        self.failed: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        with httpx.Client(timeout=60, trust_env=False) as client:
            while not self._stop.is_set():
                answer = client.post(self.url, json={"instances": [1.0]})
                if answer.status_code == 200:
                    self.answers.append(answer.json()["predictions"][0])
                else:
                    self.failed.append(answer.text)
                self._stop.wait(_PAUSE_SECONDS)

    def __enter__(self) -> Client:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()


def test_no_request_fails_through_promotions_label_moves_and_rollbacks(
    models: Mapping[float, tuple[Made, Artifact]], tmp_path: Path
) -> None:
    root = tmp_path / "serving"
    assert promoted(models[2.0], root, label="stable").labels == {"stable": 1}
    assert entry(root) == Entry(base_path=str(root / NAME), versions=(1,), labels={"stable": 1})
    with (
        in_operation(root, tmp_path) as (server, named),
        Client(server, "/labels/stable") as stable,
        Client(server, "") as latest,
    ):
        held, now, expected = {1: 2.0}, 1, [2.0]
        for number in range(CHANGES):
            factor = next(one for one in FACTORS[number % 3 :] + FACTORS if one != held[now])
            if number % 4 == 3:
                line = rollback(release(root, reason="a test", **named), None, serving(load_timeout=SECONDS), "test")
                now = line.version
                assert line.labels == {"stable": now}
            elif number % 4 == 2:
                canary = promoted(models[factor], root, label="canary", force=True, reason="again", **named)
                assert canary.version is not None and canary.labels == {"stable": now, "canary": canary.version}
                assert server.states(NAME)[str(now)] == server.states(NAME)[str(canary.version)] == "AVAILABLE"
                label(release(root, label="stable", **named), canary.version, SECONDS)
                label(release(root, label="canary", **named), None, SECONDS)
                now = canary.version
                held[now] = factor
            else:
                found = promoted(models[factor], root, force=True, reason="again", **named)
                assert found.version is not None and found.labels == {"stable": found.version}
                assert found.outcome == "promoted" and "running server" in found.confirmed_by
                now = found.version
                held[now] = factor
            expected.append(held[now])
            assert entry(root).labels == {"stable": now}
            assert entry(root).versions == (now,), "what the label led to before is unloaded"
            assert [version for version, state in server.states(NAME).items() if state == "AVAILABLE"] == [str(now)]
            assert not status(release(root, **named), full=True).disagreements
    assert stable.failed == latest.failed == []
    assert set(stable.answers) == set(expected) and stable.answers[-1] == expected[-1]
    assert len(stable.answers) > 10 * CHANGES


def test_a_canary_is_served_beside_stable_without_a_server_to_tell(
    models: Mapping[float, tuple[Made, Artifact]], tmp_path: Path
) -> None:
    promoted(models[2.0], tmp_path)
    assert Configuration(tmp_path).entry(NAME) is None, "servers take the highest version: nothing is to be configured"
    assert promoted(models[3.0], tmp_path, label="canary").labels == {"stable": 1, "canary": 2}
    assert entry(tmp_path).versions == (1, 2)
    again = promoted(models[3.0], tmp_path, label="canary")
    assert (again.outcome, again.version) == ("unchanged", 2)
    # Without a label it is stable that moves; what it led to stays loaded, for nobody says when the new one is.
    assert promoted(models[3.0], tmp_path).outcome == "labelled"
    assert entry(tmp_path) == Entry(base_path=str(tmp_path / NAME), versions=(1, 2), labels={"stable": 2, "canary": 2})
    # A server takes nothing of a configuration whose label moves to what it has not loaded: nothing is published either.
    for change in (
        lambda: promoted(models[5.0], tmp_path),
        lambda: rollback(release(tmp_path, reason="a test"), None, serving(), "test"),
    ):
        with pytest.raises(UsageError, match="--server HOST:PORT"):
            change()
    assert rules.versions(Releases(tmp_path, NAME).names()) == [1, 2] and entry(tmp_path).versions == (1, 2)
    assert [line.event for line in Releases(tmp_path, NAME).journal() if not line.event.is_intent] == [
        Event.PROMOTED,
        Event.PROMOTED,
        Event.LABELLED,
    ]
    assert not status(release(tmp_path), full=True).disagreements


def test_a_server_that_polls_follows_without_being_told(
    models: Mapping[float, tuple[Made, Artifact]], tmp_path: Path
) -> None:
    root = tmp_path / "serving"
    promoted(models[2.0], root, label="stable")
    with in_operation(root, tmp_path) as (server, _), Client(server, "/labels/stable") as stable:
        assert promoted(models[3.0], root, label="canary").labels == {"stable": 1, "canary": 2}
        address = f"127.0.0.1:{server.grpc_port}"

        def led() -> list[int | None]:
            return [isolate.call(model_service.version_of, address, NAME, name) for name in ("stable", "canary")]

        wait_until(lambda: led() == [1, 2], SECONDS, "the canary")
        label(release(root, label="stable"), 2, SECONDS)
        wait_until(lambda: led() == [2, 2], SECONDS, "stable to move")
        # A server that is named now, and has all of it, is brought on from where it is.
        found = promoted(models[5.0], root, servers=[address])
        assert found.labels == {"stable": 3, "canary": 2} and led() == [3, 2]
        assert entry(root).versions == (2, 3)
    assert stable.failed == [] and set(stable.answers) == {2.0, 3.0, 5.0}


def test_other_models_and_comments_in_the_configuration_stay_as_they_are(
    models: Mapping[float, tuple[Made, Artifact]], tmp_path: Path
) -> None:
    others = '# ours since 2017\nmodel_config_list {\n  config { name: "old" base_path: "/old" # do not touch\n  }\n}\n'
    (tmp_path / FILE).write_text(others)
    (tmp_path / FILE).chmod(0o640)
    promoted(models[2.0], tmp_path, label="stable", server_root="/models")
    written = (tmp_path / FILE).read_text()
    head, foot = others[: others.rindex("}")], others[others.rindex("}") :]
    assert written.startswith(head) and written.endswith(foot)
    assert entry(tmp_path).base_path == "/models/m"
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o640


def test_a_version_that_a_server_does_not_load_is_taken_back(
    models: Mapping[float, tuple[Made, Artifact]], tmp_path: Path
) -> None:
    root, elsewhere = tmp_path / "serving", tmp_path / "elsewhere"
    for place in (root, elsewhere):
        promoted(models[2.0], place)
    flags = [f"--model_name={NAME}", f"--model_base_path={elsewhere / NAME}", *FLAGS[1:]]
    (out, checkpoint, made, _), blessed = models[3.0]
    with served_by(flags, tmp_path) as server:
        named = {"servers": [f"127.0.0.1:{server.grpc_port}"]}
        with pytest.raises(ChildFailed, match="version 2 AVAILABLE within 2 s") as found:
            promote(out, blessed, checkpoint, made, release(root, **named), serving(load_timeout=2.0), TOLERANCE)
        assert "1 AVAILABLE" in found.value.found
        # Under the number that this one gets, it serves another model.
        with Releases(elsewhere, NAME).open() as releases:
            releases.append(event=Event.ABANDONED, version=2, digest="")
        promoted(models[5.0], elsewhere)
        with pytest.raises(ParityError) as differs:
            promoted(models[3.0], root, **named)
        assert "gRPC" in differs.value.where
    assert rules.versions(Releases(root, NAME).names()) == [1]
    events = [line.event for line in Releases(root, NAME).journal()]
    assert events.count(Event.WITHDRAWN) == 2 and events[-1] is Event.WITHDRAWN
    with pytest.raises(EnvironmentFailure, match="an answer over gRPC"):
        status(release(root, **named), full=False)


def test_what_a_server_does_not_load_under_a_label_is_taken_back_in_the_configuration_too(
    models: Mapping[float, tuple[Made, Artifact]], tmp_path: Path
) -> None:
    root = tmp_path / "serving"
    promoted(models[2.0], root, label="stable")
    before = (root / FILE).read_text()
    (out, checkpoint, made, _), blessed = models[3.0]
    with in_operation(root, tmp_path) as (server, named):
        with pytest.raises(PipelineError, match=rf"server 127\.0\.0\.1:{server.grpc_port}"):
            promote(out, blessed, checkpoint, made, release(root, **named), serving(load_timeout=0.001), TOLERANCE)
        assert (root / FILE).read_text() == before
        assert rules.versions(Releases(root, NAME).names()) == [1]
        agree = lambda: not status(release(root, **named), full=True).disagreements  # noqa: E731
        wait_until(agree, SECONDS, "the server to follow the configuration again")
        assert [version for version, state in server.states(NAME).items() if state == "AVAILABLE"] == ["1"]


def test_status_names_what_does_not_agree(models: Mapping[float, tuple[Made, Artifact]], tmp_path: Path) -> None:
    promoted(models[2.0], tmp_path, label="stable")
    promoted(models[3.0], tmp_path, label="canary")
    file = tmp_path / FILE
    file.write_text(file.read_text().replace("versions: 2", "versions: 7"))
    (tmp_path / NAME / "5").mkdir()
    found = status(release(tmp_path), full=False).disagreements
    assert len(found) == 3
    assert "models.config lists version 7, which is not on disk" in found
    assert "label canary leads to version 2, which models.config does not list" in found
    assert "version 5 came by hand: nothing is known of it" in found


def test_a_killed_change_of_labels_leaves_a_configuration_in_which_every_label_leads_to_a_version(
    tmp_path: Path,
) -> None:
    others = 'model_config_list { config { name: "old" base_path: "/old" } }\n'
    whole = 0
    for moment in range(1000):
        root = tmp_path / str(moment)
        for version in (1, 2):
            (root / NAME / str(version)).mkdir(parents=True)
        (root / FILE).write_text(others)
        change = lambda: Configuration(root).lead(NAME, {"stable": 2})  # noqa: E731, B023
        Configuration(root).lead(NAME, {"stable": 1}, {2})
        killed = killed_at(moment, change)
        assert entry(root).labels["stable"] in (entry(root).versions or ()), moment
        assert entry(root).labels in ({"stable": 1}, {"stable": 2}) and 'name: "old"' in (root / FILE).read_text(), (
            moment
        )
        change()
        assert entry(root).labels == {"stable": 2}, moment
        assert sorted(path.name for path in root.iterdir()) == [".tfship", NAME, FILE], "something is left"
        shutil.rmtree(root)
        whole += 1
        if not killed:
            break
    assert whole > 5
