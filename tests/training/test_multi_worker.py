"""Several workers train one model together, all on one host."""

from __future__ import annotations

import contextvars
import json
import socket
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import isolate
from tasks.artifacts.store import Artifact, Store
from tasks.checkpoint import checkpoint
from tasks.errors import PipelineError, UsageError
from tasks.forms import checkpoint_files
from tasks.records.adoption import ModelOptions, ProbeSource
from tasks.records.cluster import Cluster
from tasks.records.settings import SaverPolicy, Selection, Training
from tasks.restore_verify import restore_verify
from tasks.step import Run, running
from tasks.train import assist, train
from tasks.training import cluster as clusters
from tasks.user_code.source import ModelSource
from tests.makers.tolerance import DECLARED
from tests.silent import Silent
from tests.training import calls

FOLDER = Path(__file__).parents[1] / "makers"


def source(name: str, module: str = "multi_worker_models") -> ModelSource:
    return ModelSource(name=name.lower(), module=module, attribute=name, folder=FOLDER)


def settings(saver: dict[str, Any] | None = None, **hyperparameters: Any) -> Training:
    return Training(
        hyperparameters=hyperparameters, saver=SaverPolicy.model_validate({"every_steps": 5} | (saver or {}))
    )


def places(count: int = 2, seconds: float = 120.0) -> list[Cluster]:
    """A cluster on free ports, as each of its workers sees it."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    config = {"cluster": {"worker": addresses}}
    return [
        clusters.read(json.dumps(config | {"task": {"type": "worker", "index": index}}), seconds)
        for index in range(count)
    ]


class Workers:
    """A chief and those beside it, each a run of its own with a store of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, cluster: Cluster) -> Run:
        return Run("test", Store(self.folder / str(cluster.index)), Silent(), cluster=cluster)

    def start(
        self, model: ModelSource, *told: Training, killed: Callable[[str, Any], None] | None = None
    ) -> list[Future[Artifact | None]]:
        """Train on as many workers as there are settings, the chief first; `killed` watches the last one."""
        pool = ThreadPoolExecutor(len(told))
        runs = [self.run(cluster) for cluster in places(len(told))]
        if killed is not None:
            runs[-1].observer.progress = killed  # type: ignore[method-assign]
        found = [
            pool.submit(contextvars.Context().run, self.work, run, model, training)
            for run, training in zip(runs, told, strict=True)
        ]
        pool.shutdown(wait=False)
        return found

    def work(self, run: Run, model: ModelSource, training: Training) -> Artifact | None:
        with running(run):
            if run.cluster.index == 0:
                return train(model, training)
            assist(model, training, ModelOptions(), ProbeSource())
            return None

    def train(self, model: ModelSource, training: Training) -> Artifact:
        """Train on two to the end; what the chief keeps."""
        chief, other = self.start(model, training, training)
        made = chief.result(240)
        assert other.result(240) is None and made is not None
        return made


@pytest.fixture
def workers(tmp_path: Path) -> Workers:
    return Workers(tmp_path)


def values(artifact: Artifact, step: int = 15) -> dict[str, Any]:
    found = isolate.call(calls.tensors, artifact.path / "checkpoints" / f"model.ckpt-{step}")
    return {name: np.array(value) for name, value in found.items()}


def logged(artifact: Artifact) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (artifact.path / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", ["Module", "Keras"])
def test_two_with_half_the_rows_each_train_what_one_trains(run: Run, workers: Workers, name: str) -> None:
    together, alone = workers.train(source(name), settings()), train(source(name), settings())
    assert together.key != alone.key
    first, second = values(together), values(alone)
    assert first.keys() == second.keys()
    for variable in first:
        np.testing.assert_allclose(first[variable], second[variable], rtol=1e-4, atol=1e-5)
    for one, other in zip(logged(together), logged(alone), strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5)
    assert "error" in logged(together)[-1]
    assert restore_verify(checkpoint(together, Selection()), together, DECLARED).refusal() is None
    assert not list((workers.folder / "1").glob("[a-z]*"))


class KilledError(Exception):
    """What ends a run from within, and with it its child by SIGKILL."""


def killed_at(step: int) -> Callable[[str, Any], None]:
    def kill(name: str, facts: Any) -> None:
        if facts.get("step", 0) >= step:
            raise KilledError

    return kill


def test_where_one_is_killed_the_other_says_so_and_both_go_on_from_the_chiefs_checkpoint(workers: Workers) -> None:
    """Statistics, optimiser slots and random state reach the new worker; it ends as if nothing had happened."""
    model, training = source("Normalised"), settings(pause=0.05)
    chief, other = workers.start(model, training, training, killed=killed_at(10))
    with pytest.raises(KilledError):
        other.result(240)
    with pytest.raises(PipelineError, match=r"worker 0 of 2: expected every worker to train to the end") as failure:
        chief.result(240)
    assert failure.value.exit_code == 1 and "start every worker again" in failure.value.remedy
    with running(workers.run(Cluster(("a:1", "b:1")))) as run:
        staging = run.store.staging("train", train.recipe(model, training)[0].key)
    assert [prefix.name for prefix in checkpoint_files.prefixes(staging / "checkpoints")]
    resumed = workers.train(model, training)
    assert [line["step"] for line in logged(resumed)] == [5, 10, 15]
    whole = Workers(workers.folder / "whole").train(model, training)
    first, second = values(resumed), values(whole)
    assert {name: array.tolist() for name, array in first.items()} == {
        name: array.tolist() for name, array in second.items()
    }
    assert restore_verify_of(resumed)


def restore_verify_of(artifact: Artifact) -> bool:
    with running(Run("test", Store(artifact.path.parents[1]), Silent())):
        return restore_verify(checkpoint(artifact, Selection()), artifact, DECLARED).refusal() is None


REFUSED = {
    "rows that cannot be shared": (
        source("Keras"),
        settings(rows=15),
        "batches whose rows divide equally among 2 workers",
        1,
    ),
    "gradients that stay apart": (source("Apart"), settings(), "train_step, variable b: expected the same values", 1),
    "checkpoints by the clock": (source("Keras"), settings({"every_seconds": 1.0}), "every_steps", 2),
    "a graph": (source("Line", "small_model"), settings(), "one worker for a model that builds a TF1 graph", 2),
}


@pytest.mark.parametrize(("model", "training", "message", "code"), REFUSED.values(), ids=REFUSED.keys())
def test_what_several_cannot_train_is_refused_on_each(
    workers: Workers, model: ModelSource, training: Training, message: str, code: int
) -> None:
    for worker in workers.start(model, training, training):
        with pytest.raises(PipelineError, match=message) as refusal:
            worker.result(240)
        assert refusal.value.exit_code == code


def test_workers_that_were_told_other_things_say_so(workers: Workers) -> None:
    for worker in workers.start(source("Keras"), settings(), settings(rate=0.2)):
        with pytest.raises(UsageError, match="others on worker 1 than on the chief"):
            worker.result(240)


def test_one_that_waits_in_vain_says_for_whom_and_how_long(workers: Workers) -> None:
    _, alone = places(2, seconds=2.0)
    with pytest.raises(PipelineError, match=f"worker 1 of 2: expected all of {alone.workers[0]}, .* within 2 s"):
        workers.work(workers.run(alone), source("Keras"), settings())


def test_a_port_that_is_taken_is_named(workers: Workers) -> None:
    chief, _ = places()
    host, _, port = chief.workers[0].rpartition(":")
    with socket.create_server((host, int(port))), pytest.raises(PipelineError, match=f"worker 0 of 2, {host}:{port}"):
        workers.work(workers.run(chief), source("Keras"), settings())


def test_one_worker_is_no_cluster_and_has_the_key_that_it_has_without(store: Store) -> None:
    cluster = clusters.read('{"cluster": {"worker": ["a:1"]}, "task": {"index": 0}}')
    keys = []
    for known in (Cluster(), cluster):
        with running(Run("test", store, Silent(), cluster=known)):
            keys.append(train.recipe(source("Keras"), settings())[0].key)
    assert not cluster.several and keys[0] == keys[1]
    assert clusters.read('{"cluster": {}}') == Cluster(text='{"cluster": {}}')
