"""A Keras model, a tf.Module and a graph function are trained and taken through every form like a TF1 graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks import isolate
from tasks.artifact_views import Pinned
from tasks.artifacts.store import Artifact
from tasks.baseline.training_run import TrainingRun
from tasks.checkpoint import checkpoint
from tasks.errors import ChildFailed, ImpureError, NondeterministicError, PipelineError, UsageError
from tasks.export import export
from tasks.forms import checkpoint_files, saver
from tasks.freeze import freeze
from tasks.records.adoption import ModelOptions
from tasks.records.baseline import Baseline
from tasks.records.parity import ParityReport
from tasks.records.settings import SaverPolicy, Selection, Serving, Training
from tasks.records.signature import Impurity
from tasks.restore_verify import restore_verify
from tasks.smoke_test import smoke_test
from tasks.step import Run
from tasks.train import train
from tasks.training import cluster as clusters
from tasks.user_code.source import ModelSource
from tests.makers.tolerance import DECLARED

FLOWERS = ModelSource(
    name="flowers", module="keras_flowers", attribute="Flowers", folder=Path(__file__).parents[1] / "makers"
)
LINE = ModelSource(name="line", module="module_line", attribute="Line", folder=Path(__file__).parents[1] / "makers")
DOUBLING = LINE.model_copy(update={"name": "doubling", "attribute": "Doubling"})
TOLERANCE = DECLARED
SERVING = Serving.model_validate({"runtime": "embedded", "latency_requests": 2})


def trained(source: ModelSource, saver_policy: dict[str, Any] | None = None, **hyperparameters: Any) -> Artifact:
    policy = SaverPolicy.model_validate({"every_steps": 10, **(saver_policy or {})})
    return train(source, Training(hyperparameters=hyperparameters, saver=policy))


def steps_in(run: Path) -> list[int | None]:
    return [checkpoint_files.step_of(prefix) for prefix in checkpoint_files.prefixes(run / "checkpoints")]


def baseline(artifact: Artifact, step: int) -> Baseline:
    return Baseline.model_validate_json((artifact.path / "baselines" / f"{step}.json").read_bytes())


@pytest.mark.parametrize("source", [FLOWERS, LINE, DOUBLING], ids=lambda source: source.name)
def test_every_form_of_it_gives_bit_for_bit_what_the_live_object_gave(run: Run, source: ModelSource) -> None:
    made = trained(source)
    found = checkpoint(made, Selection())
    verified = restore_verify(found, made, TOLERANCE)
    frozen, exported = freeze(found, verified, made, TOLERANCE), export(found, verified, made, TOLERANCE)
    for artifact in (verified, frozen, exported):
        report = ParityReport.model_validate_json((artifact.path / "parity.json").read_bytes())
        assert report.passed
        assert {row.test.value for row in report.rows} <= {"exact", "values", "structure"}
    assert smoke_test(exported, found, made, frozen, SERVING, TOLERANCE).refusal() is None


def test_the_run_is_laid_out_as_that_of_a_graph(run: Run) -> None:
    made = trained(FLOWERS, {"max_to_keep": 2})
    assert steps_in(made.path) == [30, 40]
    assert {path.name for path in made.path.iterdir()} - {"manifest.json"} == {
        "graph.meta", "graph.json", "checkpoints", "baselines", "probe.tensors", "metrics.jsonl",
    }  # fmt: skip
    lines = [json.loads(line) for line in (made.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 30, 40]
    assert lines[-1]["accuracy"] > 0.6
    assert Pinned(checkpoint(made, Selection(which="best")).path).record().metrics["accuracy"] > 0.6


def test_variables_of_one_name_are_told_apart(run: Run) -> None:
    made = trained(LINE)
    recorded = {variable.name for variable in baseline(made, 40).variables}
    assert recorded == {"v", "v_1"} == set(TrainingRun(made.path).names().needed)


def test_saver_rules_hold_for_objects_too(run: Run) -> None:
    made = trained(LINE, {"max_to_keep": 1, "keep_checkpoint_every_n_hours": 1e-9, "sharded": True})
    assert steps_in(made.path) == [10, 20, 30, 40]
    old = trained(LINE, {"write_version": "V1"}, steps=20)
    assert restore_verify(checkpoint(old, Selection()), old, TOLERANCE)


@pytest.mark.parametrize("source", [FLOWERS, LINE], ids=lambda source: source.name)
def test_training_that_was_killed_goes_on_and_ends_as_if_nothing_had_happened(run: Run, source: ModelSource) -> None:
    """Dropout's random state, Adam's slots and batch normalisation's averages included."""
    training = Training(hyperparameters={"pause": 0.05} if source is LINE else {}, saver=SaverPolicy(every_steps=10))

    class KilledError(Exception):
        pass

    def kill(name: str, facts: Any) -> None:
        if facts.get("step", 0) >= 20:
            raise KilledError

    run.observer.progress = kill  # type: ignore[method-assign]
    with pytest.raises(KilledError):
        train(source, training)
    staging = run.store.staging("train", train.recipe(source, training)[0].key)
    assert (staging / "resume").is_dir()
    run.observer.progress = lambda name, facts: None  # type: ignore[method-assign]
    resumed = train(source, training)
    assert not (resumed.path / "resume").exists()
    lines = [json.loads(line)["step"] for line in (resumed.path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [10, 20, 30, 40]
    whole = trained(source, {"max_to_keep": 4})
    for step in (30, 40):
        first, second = (
            isolate.call(saver.tensor_table, artifact.path / "checkpoints" / f"model.ckpt-{step}")
            for artifact in (resumed, whole)
        )
        assert first == second
    assert restore_verify(checkpoint(resumed, Selection()), resumed, TOLERANCE)


@pytest.mark.parametrize("torn", ["checkpoints/model.ckpt-30.data*", "resume/state-30.data*", "baselines/30.tensors"])
def test_a_torn_last_checkpoint_is_passed_over_when_training_resumes(run: Run, torn: str) -> None:
    training = Training(hyperparameters={"stop_at": 35}, saver=SaverPolicy(every_steps=10))
    with pytest.raises(ChildFailed, match="told to stop here"):
        train(LINE, training)
    staging = run.store.staging("train", train.recipe(LINE, training)[0].key)
    (found,) = staging.glob(torn)
    found.write_bytes(found.read_bytes()[:-2])
    with pytest.raises(ChildFailed, match="told to stop here"):
        train(LINE, training)
    lines = [json.loads(line)["step"] for line in (staging / "metrics.jsonl").read_text().splitlines()]
    assert lines == [10, 20, 30]
    assert steps_in(staging) == [10, 20, 30]


ODD = """
import keras, tensorflow as tf
import module_line
from module_line import Line
from tasks.user_code.model import Objects
from tests.makers.tolerance import DECLARED
DATA = ()

class NoSignature(Line):
    def build(self, hyperparameters) -> Objects:
        return Objects(tf.Module())

class NoStep(Line):
    def build(self, hyperparameters) -> Objects:
        line = module_line.Affine()
        return Objects(line, {"serving_default": line.serve})

class NoProbe(Line):
    def probe(self):
        return {}

class Subclassed(Line):
    def build(self, hyperparameters) -> Objects:
        class Own(keras.Model):
            def call(self, x): return x
        return Objects(Own())

class Ragged(Line):
    def build(self, hyperparameters) -> Objects:
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="x")])
        def split(x): return {"y": tf.strings.split(x)}
        return Objects(signatures={"serving_default": split})

class Untyped(Line):
    def build(self, hyperparameters) -> Objects:
        return Objects(signatures={"serving_default": tf.function(lambda x: x)})

class Noisy(Line):
    def build(self, hyperparameters) -> Objects:
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
        def noisy(x): return {"y": x + tf.random.normal(tf.shape(x))}
        return Objects(signatures={"serving_default": noisy})
"""


def odd(folder: Path, name: str) -> ModelSource:
    (folder / "odd_objects.py").write_text(ODD)
    (folder / "module_line.py").write_text((Path(__file__).parents[1] / "makers" / "module_line.py").read_text())
    return ModelSource(name="odd", module="odd_objects", attribute=name, folder=folder)


@pytest.mark.parametrize(
    ("name", "steps", "message"),
    [
        ("NoSignature", 40, "at least one signature"),
        ("NoStep", 40, "a train_step for 40 steps"),
        ("NoProbe", 40, "inputs serving_default/x"),
        ("Subclassed", 0, "inputs of known shape"),
        ("Ragged", 0, "RaggedTensor"),
        ("Untyped", 0, "input_signature"),
    ],
)
def test_what_the_code_does_not_say_is_asked_for(run: Run, tmp_path: Path, name: str, steps: int, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        trained(odd(tmp_path, name), steps=steps)


def test_a_function_that_answers_twice_differently_is_nondeterministic(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ImpureError, match=r"serving_default/y.*random numbers"):
        trained(odd(tmp_path, "Noisy"), steps=0)
    training = Training(hyperparameters={"steps": 0}, saver=SaverPolicy(every_steps=10))
    made = train(odd(tmp_path, "Noisy"), training, given=ModelOptions(impure=(Impurity.RANDOM,)))
    assert baseline(made, 0).unstable == ("serving_default/y",)
    with pytest.raises(NondeterministicError, match="serving_default/y"):
        restore_verify(checkpoint(made, Selection()), made, TOLERANCE)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "a cluster and this process's task"),
        ("[1]", "a cluster and this process's task"),
        ('{"cluster": {"worker": "here:1"}}', "addresses 'here:1'"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}', "worker 1 of 1 workers"),
        ('{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}}', "found ps"),
    ],
)
def test_a_cluster_that_is_none_is_said(config: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        clusters.read(config)
