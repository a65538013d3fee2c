"""Training of live objects, in a child: a Keras model or a tf.Module, with the checkpoints of graph mode.

Layout: see `tasks/baseline/training_run.py`; and, until training ends, `resume/`: a tf.train.Checkpoint of everything needed to
resume, and the variable of each variable operation in the graph.

At a checkpoint the object is exported and flattened, and its values are saved by a Saver; the baseline is recorded from
the live object itself.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

from tasks.adoption import flatten
from tasks.baseline import record as baselines
from tasks.baseline.training_run import PREFIX, TrainingRun
from tasks.errors import DamagedError, PipelineError, UsageError
from tasks.forms import checkpoint_files, saver
from tasks.forms.live_object import LivePredictor
from tasks.graphs import graph as graphs
from tasks.parity import predictor as predictors
from tasks.records.adoption import ModelOptions
from tasks.records.baseline import Variable
from tasks.records.cluster import Cluster
from tasks.records.settings import Training
from tasks.records.signature import GraphNames
from tasks.tensors import tensor_file
from tasks.tensors.tensor_file import Array, Tensors
from tasks.training import loop, object_steps
from tasks.training.graph_mode import saver_of
from tasks.training.multi_worker import Workers, joined
from tasks.user_code import objects
from tasks.user_code import source as sources
from tasks.user_code.source import ModelSource

_RESUME = "resume"
_OPERATIONS = "operations.json"
EXPORTED = "exported"


def train(
    model: Any,
    source: ModelSource,
    training: Training,
    given: ModelOptions,
    cluster: Cluster,
    out: Path,
    steps: int,
    hyperparameters: Mapping[str, Any],
) -> None:
    """Train a model whose `build` makes live objects, together with the other workers of `cluster` if it has several.

    Raises:
        PipelineError: the model's code lacks something, or another worker does not join or ends early.
        UsageError: the workers' settings differ, or save by their clocks, which differ.
    """
    if cluster.several and training.saver.every_seconds:
        remedy = "set training.saver.every_steps instead."
        found = f"{training.saver.every_seconds:g} seconds"
        raise UsageError("training.saver.every_seconds", "several workers to save at the same step", found, remedy)
    predictors.eager(training.session)
    with joined(cluster) as workers:
        if workers is not None:
            import tensorflow as tf

            made_of, _ = sources.digests(source, training.data)
            identity = [made_of, training.model_dump(mode="json"), steps, dict(hyperparameters), tf.version.VERSION]
            workers.require_same(json.dumps(identity, sort_keys=True))
        _train(model, source, training, given, workers, out, steps, hyperparameters)


def _train(
    model: Any,
    source: ModelSource,
    training: Training,
    given: ModelOptions,
    workers: Workers | None,
    out: Path,
    steps: int,
    hyperparameters: Mapping[str, Any],
) -> None:
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(training.seed)
    tf.random.set_seed(training.seed)
    with workers.strategy.scope() if workers else nullcontext():
        built = objects.build(model, hyperparameters)
        state = object_steps.state(built)
    step_of, evaluate = object_steps.step_of(built, workers), object_steps.evaluation_of(built, workers)
    if steps and step_of is None:
        remedy = "compile the Keras model, return a train_step, or set steps to 0."
        raise PipelineError("build()", f"a train_step for {steps} steps", "none", remedy)
    live = objects.live(built)
    if workers is not None:
        workers.require_mirrored(live.variables)
    for left in out.glob("exported-*"):  # by a process that was killed
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(dir=out, prefix="exported-") as scratch:
        flat = _Flat.of(live, Path(scratch), out, training, hyperparameters)
        loop.require_declared(flat.names, source, training)
        flat.names = loop.require_pure(flat.graph.as_graph_def(), flat.names, given)
        probe = _write_once(out, flat, model, Path(scratch))
    with closing(
        predictors.session(flat.graph, training.session)
    ) as session:  # not the default graph: the object is eager
        trainee = _Trainee(session, flat, live, state, model, training, out, probe, step_of, evaluate, workers)
        resumed = trainee.resume()
        loop.run(trainee, model, training, out, resumed, steps, hyperparameters)
    shutil.rmtree(out / _RESUME, ignore_errors=True)


class _Flat:
    """The graph of all checkpoints of a training run, made from the first export of its live object."""

    def __init__(self, graph: Any, saving: Any, names: GraphNames, operations: Mapping[str, str]) -> None:
        self.graph, self.saving, self.names, self.operations = graph, saving, names, dict(operations)

    @classmethod
    def of(
        cls, live: LivePredictor, scratch: Path, out: Path, training: Training, hyperparameters: Mapping[str, Any]
    ) -> _Flat:
        """Return the training run's graph if training resumes, else that of a first export."""
        import tensorflow as tf

        operations, names = exported(live, scratch)
        kept = out / _RESUME / _OPERATIONS
        meta = saver.meta_graph(TrainingRun(scratch).graph_file)
        if kept.exists() and json.loads(kept.read_text()) == operations:
            run = TrainingRun(out)
            meta, names = saver.meta_graph(run.graph_file), run.names()
        graph = tf.Graph()
        with graph.as_default():
            tf.compat.v1.train.import_meta_graph(meta)
            if not tf.compat.v1.get_collection("hyperparameters"):
                encoded = json.dumps(hyperparameters, sort_keys=True).encode()
                tf.compat.v1.add_to_collection("hyperparameters", encoded)
            saving = saver_of(training) if operations else None
        return cls(graph, saving, names, operations)


def exported(live: LivePredictor, scratch: Path) -> tuple[dict[str, str], GraphNames]:
    """Export and flatten a live object into `scratch`; return variable operation -> object path, and the graph's names.

    Leaves a SavedModel (`EXPORTED`), the graph as in a training run, and the checkpoint `model.ckpt`, by operations' names.
    """
    operations = live.export(scratch / EXPORTED)
    names = flatten.saved_model(scratch / EXPORTED, ("serve",), TrainingRun(scratch).graph_file, scratch / PREFIX)
    allowed = {key for key, signature in live.signatures.items() if signature.allow_nonfinite}
    order = list(live.signatures)
    signatures = tuple(
        signature.model_copy(update={"allow_nonfinite": signature.key in allowed})
        for signature in sorted(names.signatures, key=lambda signature: order.index(signature.key))
    )
    return operations, names.model_copy(update={"signatures": signatures})


def _write_once(out: Path, flat: _Flat, model: Any, scratch: Path) -> Tensors:
    """Write the files that do not change while training; return the probe."""
    import tensorflow as tf

    probe = loop.write_probe(out, flat.names, model.probe())
    run = TrainingRun(out)
    run.write_names(flat.names)
    assets = scratch / EXPORTED / "assets"
    run.bring_assets({asset.filename: assets / asset.filename for asset in flat.names.assets})
    with flat.graph.as_default():
        definition = flat.saving.as_saver_def() if flat.saving is not None else None
        tf.compat.v1.train.export_meta_graph(str(run.graph_file), graph=flat.graph, saver_def=definition)
    (out / _RESUME).mkdir(exist_ok=True)
    (out / _RESUME / _OPERATIONS).write_text(json.dumps(flat.operations))
    return probe


class _Trainee:
    """A live object, and the session from which its values are saved. See `loop.Trainee`."""

    def __init__(
        self,
        session: Any,
        flat: _Flat,
        live: LivePredictor,
        state: Mapping[str, Any],
        model: Any,
        training: Training,
        out: Path,
        probe: Tensors,
        step_of: Any,
        evaluate: Any,
        workers: Workers | None,
    ) -> None:
        import tensorflow as tf

        self.session, self.flat, self.live, self.model, self.training = session, flat, live, model, training
        self.run, self.probe, self.step_of, self.evaluate = TrainingRun(out), probe, step_of, evaluate
        self.workers = workers
        self.state = tf.train.Checkpoint(**state)
        outputs = [spec.tensor for signature in flat.names.signatures for spec in signature.outputs.values()]
        graph_def = saver.meta_graph(self.run.graph_file).graph_def
        self.constants = tuple(graphs.Graph(graph_def).constants(outputs, flat.names.assets))

    def resume(self) -> int | None:
        """Restore the newest complete checkpoint, the chief's of several workers; return its global step, or None."""
        found = loop.complete_checkpoints(self.run.path, self._resumable)
        step = checkpoint_files.step_of(found[-1]) if found else None
        if self.workers is not None:
            step = self._of_chief(step, self.workers)
        if step is None:
            return None
        self.state.read(str(self._state_prefix(step))).assert_existing_objects_matched().assert_consumed()
        if found:
            self.flat.saving.recover_last_checkpoints([checkpoint_files.spelled(prefix) for prefix in found])
        return step

    def _of_chief(self, step: int | None, workers: Workers) -> int | None:
        """Return the step from which the chief resumes; afterwards this worker's folder has its state too."""
        own = checkpoint_files.files(self._state_prefix(step)) if step is not None else []
        at, names = json.loads(workers.of_chief(json.dumps([step, sorted(path.name for path in own)]).encode()))
        for name in names:
            path = self.run.path / _RESUME / name
            content = workers.of_chief(path.read_bytes() if path in own else b"")
            if path not in own:
                path.write_bytes(content)
        return None if at is None else int(at)

    def update(self, batch: Mapping[str, Array]) -> dict[str, float]:
        """See `loop.Trainee`."""
        return _scalars(self.step_of(batch))

    def metrics(self) -> dict[str, float]:
        """See `loop.Trainee`; afterwards the values are the same on every worker."""
        if self.workers is not None:
            self.workers.settle(self.live.variables)
        batch = self.model.validation() if self.evaluate is not None else {}
        return _scalars(self.evaluate(batch)) if batch else {}

    def save(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `loop.Trainee`."""
        self.run.checkpoints.mkdir(exist_ok=True)
        self.state.write(str(self._state_prefix(step)))
        values = {fact.name: fact for fact in self.live.values()}
        with tempfile.TemporaryDirectory(dir=self.run.path, prefix="exported-") as scratch:
            operations, _ = exported(self.live, Path(scratch))
            self._require_same(operations, step)
            variables = [Variable(name=name, key=name, value=values[path]) for name, path in sorted(operations.items())]
            signatures, options = self.flat.names.signatures, self.training.session
            baselines.record(
                self.run, step, self.live, signatures, self.probe, variables, self.constants, options, metrics
            )
            if self.flat.saving is not None:
                self._save(Path(scratch) / PREFIX, step)
        for old in (self.run.path / _RESUME).glob("state-*"):
            if old.name.split(".")[0] not in {self._state_prefix(kept).name for kept in self._last_two()}:
                old.unlink()

    def _save(self, flattened: Path, step: int) -> None:
        """Save the values by the Saver of the training run's graph, so that all its rules apply."""
        with self.flat.graph.as_default():
            checkpoint = saver.reader(flattened)
            for variable in self.flat.graph.get_collection("variables"):
                variable.load(saver.read(checkpoint, variable.op.name, flattened), self.session)
            self.flat.saving.save(
                self.session, str(self.run.checkpoints / PREFIX), global_step=step, write_meta_graph=False
            )

    def _require_same(self, operations: Mapping[str, str], step: int) -> None:
        if dict(operations) != self.flat.operations:
            changed = sorted(set(operations.items()) ^ set(self.flat.operations.items()))
            raise PipelineError(
                f"the live object at step {step}",
                "the variables that it had when training began",
                ", ".join(f"{path} as {name}" for name, path in changed[:5]),
                "create every variable in build().",
            )

    def _state_prefix(self, step: int | None) -> Path:
        return self.run.path / _RESUME / f"state-{step}"

    def _last_two(self) -> list[int]:
        """Return the steps whose state is kept: the last, and the one before it in case the last is incomplete."""
        steps = {checkpoint_files.step_of(prefix) for prefix in checkpoint_files.prefixes(self.run.checkpoints)}
        return sorted(step for step in steps if step is not None)[-2:]

    def _resumable(self, prefix: Path) -> bool:
        try:
            saver.tensor_table(self._state_prefix(checkpoint_files.step_of(prefix)))
        except (DamagedError, OSError):
            return False
        return True


def _scalars(answer: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(tensor_file.as_array(value)) for name, value in answer.items()}
