"""`tfship gc` removes leftovers and the containers of dead runs, or lists them in a dry run."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.artifacts.store import Store
from tests.flows.cli.process import tfship
from tests.makers.leftovers import unfinished

NO_ENGINE = {"DOCKER_HOST": "unix:///no/engine.sock"}


@pytest.fixture
def left(store: Store) -> Path:
    return unfinished(store, "k", 8)


def test_a_dry_run_says_what_would_go_and_removes_nothing(store: Store, left: Path) -> None:
    answer = tfship("gc", "--dry-run", "--store", store.root, **NO_ENGINE)
    assert answer.code == 0, answer.err
    assert f"would remove {left} (unfinished" in answer.out
    assert answer.out.splitlines()[-1].startswith("next    tfship gc --older-than 7d")
    assert left.exists()


def test_what_went_is_said_as_one_document(store: Store, left: Path) -> None:
    document = tfship("gc", "--store", store.root, "--json", **NO_ENGINE).document
    assert [one["path"] for one in document["removed"]] == [str(left)]
    assert document["freed_bytes"] >= 1000
    assert "no socket /no/engine.sock" in document["not_looked_at"]
    assert not left.exists()
    assert tfship("gc", "--store", store.root, "--json", **NO_ENGINE).document["removed"] == []


def test_what_a_live_process_builds_is_kept_and_said(store: Store, left: Path) -> None:
    with store.lock("train", "k"):
        answer = tfship("gc", "--store", store.root, **NO_ENGINE)
    assert f"kept {left}: a live process builds there" in answer.out
    assert left.exists()


@pytest.mark.parametrize(("age", "goes"), [("9d", False), ("191h", True), ("1w", True), ("11530.5m", False)])
def test_the_age_is_a_number_and_a_unit(store: Store, left: Path, age: str, goes: bool) -> None:
    assert tfship("gc", "--store", store.root, "--older-than", age, **NO_ENGINE).code == 0
    assert left.exists() is not goes


def test_mistakes_are_told(tmp_path: Path, store: Store) -> None:
    for arguments in (["--older-than", "7"], ["--older-than", "-1d"], ["--store", str(tmp_path)]):
        answer = tfship("gc", *arguments, **NO_ENGINE)
        assert answer.code == 2, arguments
        assert "Remedy: " in answer.err


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
        asked = tfship("gc", "--dry-run", "--store", store.root, "--json")
        assert dead in asked.document["containers"]
        done = tfship("gc", "--store", store.root, "--json")
        assert dead in json.loads(done.out)["containers"]
        left = client.containers.list(all=True, filters={"label": f"{owner.RUN}={run_id}"})
        assert [one.id for one in left] == [live.id]
    finally:
        live.remove(force=True)
        client.close()
