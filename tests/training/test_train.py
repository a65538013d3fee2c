"""A training run keeps the Saver's rules, a baseline for every checkpoint, and every graph."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tasks import isolate
from tasks.artifact_views import Pinned
from tasks.artifacts.store import Artifact
from tasks.baseline.training_run import TrainingRun
from tasks.checkpoint import checkpoint
from tasks.errors import (
    ChildFailed,
    CoverageError,
    ImpureError,
    NondeterministicError,
    ParityError,
    PipelineError,
    UsageError,
)
from tasks.forms import checkpoint_files, saver
from tasks.records.adoption import ModelOptions
from tasks.records.checkpoint import RestoreReport
from tasks.records.settings import SaverPolicy, Selection, Training
from tasks.records.signature import Impurity
from tasks.restore_verify import restore_verify
from tasks.step import Run
from tasks.train import train
from tasks.user_code.source import ModelSource
from tests.makers.tolerance import DECLARED
from tests.training import calls

LINE = ModelSource(name="line", module="small_model", attribute="Line", folder=Path(__file__).parents[1] / "makers")


def trained(saver_policy: dict[str, Any] | None = None, **hyperparameters: Any) -> Artifact:
    policy = SaverPolicy.model_validate({"every_steps": 10, **(saver_policy or {})})
    return train(LINE, Training(hyperparameters=hyperparameters, saver=policy))


def steps_in(artifact: Artifact) -> list[int | None]:
    return [checkpoint_files.step_of(prefix) for prefix in checkpoint_files.prefixes(artifact.path / "checkpoints")]


def test_max_to_keep_deletes_checkpoints_and_never_the_only_graph(run: Run) -> None:
    artifact = trained({"max_to_keep": 2})
    assert steps_in(artifact) == [30, 40]
    assert sorted(path.stem for path in (artifact.path / "baselines").glob("*.json")) == ["30", "40"]
    assert not list((artifact.path / "checkpoints").glob("*.meta"))
    assert (artifact.path / "graph.meta").stat().st_size > 0
    found = checkpoint(artifact, Selection())
    assert (found.path / "model.ckpt-40.meta").exists()
    assert (found.path / "checkpoint").read_text().splitlines()[0] == 'model_checkpoint_path: "model.ckpt-40"'


def test_keep_checkpoint_every_n_hours_keeps_what_rotation_would_delete(run: Run) -> None:
    artifact = trained({"max_to_keep": 1, "keep_checkpoint_every_n_hours": 1e-9})
    assert steps_in(artifact) == [10, 20, 30, 40]


def test_checkpoints_by_seconds(run: Run) -> None:
    artifact = trained({"every_seconds": 0.2, "max_to_keep": 50}, steps=30, pause=0.03)
    found = steps_in(artifact)
    assert 2 <= len(found) < 30
    assert found[-1] == 30


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("version", ["V1", "V2"])
def test_every_write_version_is_pinned_restored_and_equal(run: Run, version: str, sharded: bool) -> None:
    artifact = trained({"write_version": version, "sharded": sharded}, steps=20)
    found = checkpoint(artifact, Selection())
    names = {tensor.name for tensor in Pinned(found.path).record().tensors}
    assert names == {"w", "b", "unused", "global_step"}
    verified = restore_verify(found, artifact, DECLARED)
    report = RestoreReport.model_validate_json((verified.path / "restore.json").read_bytes())
    assert report.parity.passed
    assert report.one_more_step == "passed"
    assert report.global_step == 20
    assert report.hyperparameters["rate"] == 0.05


def test_a_needed_variable_left_out_of_var_list_is_refused_by_name(run: Run) -> None:
    artifact = trained({"var_list": ["b", "global_step"]}, steps=10)
    with pytest.raises(CoverageError, match=r"variable w, which the outputs need"):
        restore_verify(checkpoint(artifact, Selection()), artifact, DECLARED)


def test_an_unneeded_variable_left_out_is_listed_and_passes(run: Run) -> None:
    artifact = trained({"var_list": ["w", "b", "global_step"]}, steps=10)
    verified = restore_verify(checkpoint(artifact, Selection()), artifact, DECLARED)
    report = RestoreReport.model_validate_json((verified.path / "restore.json").read_bytes())
    assert [v.name for v in report.coverage.variables if v.status == "missing"] == ["unused"]
    assert report.one_more_step == "passed"


def test_selection_by_step_by_metric_and_latest(run: Run) -> None:
    artifact = trained()
    assert Pinned(checkpoint(artifact, Selection()).path).record().step == 40
    assert Pinned(checkpoint(artifact, Selection(which=20)).path).record().step == 20
    measured = {
        step: json.loads((artifact.path / "baselines" / f"{step}.json").read_text())["metrics"]["nearness"]
        for step in (10, 20, 30, 40)
    }
    best = Pinned(checkpoint(artifact, Selection(which="best", metric="nearness")).path).record()
    worst = Pinned(checkpoint(artifact, Selection(which="best", metric="nearness", mode="min")).path).record()
    assert measured[best.step] == max(measured.values()) > measured[worst.step] == min(measured.values())
    with pytest.raises(UsageError, match="steps 10, 20, 30, 40"):
        checkpoint(artifact, Selection(which=15))
    with pytest.raises(UsageError, match="nearness"):
        checkpoint(artifact, Selection(which="best", metric="accuracy"))


def test_an_older_step_is_proven_with_its_own_baseline(run: Run) -> None:
    artifact = trained()
    verified = restore_verify(checkpoint(artifact, Selection(which=20)), artifact, DECLARED)
    assert RestoreReport.model_validate_json((verified.path / "restore.json").read_bytes()).global_step == 20


def test_training_that_was_killed_goes_on_and_ends_as_if_nothing_had_happened(run: Run, tmp_path: Path) -> None:
    """SIGKILL in the middle; the second half starts at the last checkpoint, and the weights are the same bytes."""
    training = Training(hyperparameters={"pause": 0.1}, saver=SaverPolicy(every_steps=10))

    class KilledError(Exception):
        pass

    def kill(name: str, facts: Any) -> None:
        if facts.get("step", 0) >= 20:
            raise KilledError

    run.observer.progress = kill  # type: ignore[method-assign]
    with pytest.raises(KilledError):
        train(LINE, training)
    staging = run.store.staging("train", train.recipe(LINE, training)[0].key)
    assert [checkpoint_files.step_of(prefix) for prefix in checkpoint_files.prefixes(staging / "checkpoints")][-1] == 20
    assert run.store.artifacts("train") == []
    run.observer.progress = lambda name, facts: None  # type: ignore[method-assign]
    resumed = train(LINE, training)
    lines = [json.loads(line)["step"] for line in (resumed.path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [10, 20, 30, 40]
    whole = trained()
    for step in (30, 40):
        first, second = (
            isolate.call(saver.tensor_table, artifact.path / "checkpoints" / f"model.ckpt-{step}")
            for artifact in (resumed, whole)
        )
        assert first == second
    assert signal.SIGKILL == 9


def test_a_torn_last_checkpoint_is_passed_over_when_training_resumes(run: Run) -> None:
    training = Training(hyperparameters={"stop_at": 35}, saver=SaverPolicy(every_steps=10))
    with pytest.raises(ChildFailed, match="told to stop here"):
        train(LINE, training)
    staging = run.store.staging("train", train.recipe(LINE, training)[0].key)
    (torn,) = (staging / "checkpoints").glob("model.ckpt-30.data*")
    torn.write_bytes(torn.read_bytes()[:-2])
    with pytest.raises(ChildFailed, match="told to stop here"):
        train(LINE, training)
    lines = [json.loads(line)["step"] for line in (staging / "metrics.jsonl").read_text().splitlines()]
    assert lines == [10, 20, 30]


def test_a_live_model_that_answers_twice_differently_is_nondeterministic_even_where_that_is_declared(run: Run) -> None:
    with pytest.raises(ImpureError, match=r"serving_default/y.*random numbers, by random_normal"):
        trained(steps=10, noise=0.1)
    noisy = Training(hyperparameters={"steps": 10, "noise": 0.1})
    artifact = train(LINE, noisy, given=ModelOptions(impure=(Impurity.RANDOM,)))
    assert TrainingRun(artifact.path).names().impure == ("random",)
    with pytest.raises(NondeterministicError, match="serving_default/y"):
        restore_verify(checkpoint(artifact, Selection()), artifact, DECLARED)


def test_a_baseline_with_nan_is_refused(run: Run) -> None:
    artifact = trained(steps=10, fill=float("nan"))
    with pytest.raises(ParityError, match="NaN or infinities in serving_default/y"):
        restore_verify(checkpoint(artifact, Selection()), artifact, DECLARED)


def test_a_var_list_of_unknown_names_says_which(run: Run) -> None:
    with pytest.raises(PipelineError, match="nope"):
        trained({"var_list": ["nope"]}, steps=10)


def test_two_variables_have_other_names_in_the_checkpoint_than_in_python(run: Run, tmp_path: Path) -> None:
    """The oldest exercise there is: save A = [3, 3] and B = [5, 5, 5], and read them back by their names."""
    from tasks.user_code import source

    artifact = train(source.resolve("two_variables", tmp_path), Training())
    prefix = artifact.path / "checkpoints" / "model.ckpt-0"
    assert isolate.call(calls.tensor, prefix, "first/threes") == [3.0, 3.0]
    assert isolate.call(calls.tensor, prefix, "second/fives") == [5.0, 5.0, 5.0]
    assert set(TrainingRun(artifact.path).names().needed) == {"first/threes", "second/fives"}


def test_sundaynet_learns_and_says_what_it_was_told(run: Run, tmp_path: Path) -> None:
    from tasks.user_code import source

    artifact = train(source.resolve("sundaynet", tmp_path), Training())
    found = checkpoint(artifact, Selection(which="best"))
    assert Pinned(found.path).record().metrics["accuracy"] >= 0.985
    verified = restore_verify(found, artifact, DECLARED)
    report = RestoreReport.model_validate_json((verified.path / "restore.json").read_bytes())
    assert report.hyperparameters["learning_rate"] == 0.01
    assert report.train_op == "train_op"
    assert report.one_more_step == "passed"
    assert report.global_step == Pinned(found.path).record().step
