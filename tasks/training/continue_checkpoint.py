"""Continue training a Saver checkpoint, in a child: its own graph and train op, the user's batches.

Layout: see `tasks/baseline/training_run.py`. Nothing is initialised: a checkpoint
without a variable that the train op needs is refused. Before the first step, the graph to train must answer the probe
bit for bit as the original by its own loader.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.adoption import source_model
from tasks.adoption.source_model import SourceModel
from tasks.baseline import record as baselines
from tasks.baseline.training_run import TrainingRun
from tasks.errors import CoverageError, ParityError, UsageError
from tasks.forms import checkpoint_files, saver
from tasks.forms.detect import detect
from tasks.graphs import graph as graphs
from tasks.graphs import scan
from tasks.graphs import variables as graph_variables
from tasks.graphs.protos import MetaGraphDef
from tasks.parity import compare
from tasks.parity import predictor as predictors
from tasks.parity.predictor import SessionPredictor
from tasks.probe import establish
from tasks.records.adoption import Found, ModelOptions, ProbeSource
from tasks.records.forms import LIVE_SESSION
from tasks.records.parity import ParityReport, ParityTest, Tolerance
from tasks.records.settings import Training
from tasks.records.signature import GraphNames
from tasks.records.start import StartedFrom
from tasks.tensors import tensor_file
from tasks.tensors.tensor_file import Array, Tensors
from tasks.training import batches_file, fine_tune, loop, train_ops
from tasks.training.batches_file import Batches
from tasks.training.graph_mode import SessionTrainee, saver_of
from tasks.user_code.model import Graph


def train(given: ModelOptions, source: ProbeSource, training: Training, out: Path) -> None:
    """Train to the global step `training.steps`, from the last complete checkpoint in `out`, else from `training.start`.

    Raises:
        UsageError: the start has no graph to train, its global step is not before `steps`, or feeds are missing.
        CoverageError: the checkpoint does not hold what the train op or the outputs need.
        DamagedError, UnsafeGraph, UnsupportedGraph: the files are damaged, or must not or cannot be run here.
        NondeterministicError, ParityError: the original differs from itself, or from the graph to train.
    """
    assert training.start is not None
    found = detect(training.start, training.start_step)
    if not found.form.of_saver:
        remedy = "give a checkpoint of tf.compat.v1.train.Saver with its `.meta`, or fine-tune from Python code."
        raise UsageError(str(training.start), "a Saver checkpoint with its graph", found.form.value, remedy)
    for left in out.glob("scratch-*"):  # by a process that was killed
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(dir=out, prefix="scratch-") as scratch:
        with source_model.opened(found, given, None, training.session, Path(scratch)) as model:
            start = _Start.of(model, found, training)
            start.names = loop.require_pure(model.meta.graph_def, start.names, given)
            _write_inputs(model, source, out)
            resumable = loop.complete_checkpoints(out)
            rows = tensor_file.read_tensors(TrainingRun(out).probe_file)
            answers = {} if resumable else _answers(model, rows, training, Path(scratch))
        _train(start, training, rows, answers, resumable, out)


@dataclass
class _Start:
    """A source model about to be trained: its imported graph, its train op and batches, and its global step."""

    model: SourceModel
    found: Found
    graph: Any
    saving: Any
    names: GraphNames
    feeds: Batches
    step: int
    unused: tuple[str, ...]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, model: SourceModel, found: Found, training: Training) -> _Start:
        """Check everything before a training step is run. Raises as `train`."""
        import tensorflow as tf

        names = train_ops.named(model, training)
        step = source_model.global_step(model, found)
        if training.steps is None or training.steps <= step:
            requested = "none" if training.steps is None else str(training.steps)
            raise UsageError("--steps", f"a final global step beyond {step}, that of {found.path.name}", requested,
                             f"--steps {step + 100} trains 100 steps.")  # fmt: skip
        graph = tf.Graph()
        with graph.as_default():
            tf.compat.v1.train.import_meta_graph(model.meta, clear_devices=True)
        feeds = batches_file.read(training.batches, training.batch_size, graph, train_ops.aliases(model))
        part = train_ops.part(model, names, {*feeds.scalars, *feeds.arrays})
        targets = train_ops.targets(names)
        scan.require_runnable(part, targets, str(found.path))
        needed = graphs.Graph(part).variables(targets)
        _require_held(needed, model, part, targets)
        names = train_ops.counted(names, part)
        by_name = {variable.op.name: variable for variable in graph.get_collection("variables")}
        for variable in by_name.values():
            variable._save_slice_info = None  # parts of partitioned variables are saved as tensors of their own
        with graph.as_default():
            saving = saver_of(training, [by_name[name] for name in sorted(model.sources)])
        kept = graph_variables.restored(graph.as_graph_def(), saving.as_saver_def())
        if left := sorted(needed - kept.keys()):
            left_out = f"{', '.join(left[:5])} left out"
            remedy = "leave var_list out: interrupted training could not be resumed."
            raise UsageError("training.saver.var_list", "every variable that is trained", left_out, remedy)
        variables = graph_variables.variable_facts(model.meta.graph_def).keys()
        unused = tuple(sorted(variables - needed - set(names.needed)))
        return cls(model, found, graph, saving, names, feeds, step, unused, train_ops.defaults(part))


def _require_held(needed: set[str], model: SourceModel, part: Any, targets: list[str]) -> None:
    """Raise CoverageError if training needs what the checkpoint does not hold."""
    assert model.prefix is not None
    if missing := sorted(needed - model.sources.keys()):
        status = {one.name: one for one in saver.compared(part, model.sources, model.prefix, targets).variables}
        some = ", ".join(f"{name} {status[name].expected}" for name in missing[:8])
        raise CoverageError(
            f"{model.prefix.name}: {len(missing)} of {len(needed)} variables that the train op needs",
            f"their values ({some}{', …' if len(missing) > 8 else ''})",
            "none in the checkpoint",
            "give a complete checkpoint (with optimizer slots and global step), or fine-tune from Python code, which "
            "initialises and lists the rest.",
            missing=missing,
        )
    if state := graphs.Graph(part).other_state(targets):
        remedy = "feed the tensors computed from it: name them in the file of --batches."
        expected = "variables, whose values a checkpoint holds"
        raise CoverageError(f"{model.prefix.name}: what the train op reads", expected, ", ".join(state[:5]), remedy)


def _write_inputs(model: SourceModel, source: ProbeSource, out: Path) -> None:
    rows, _ = establish.establish(source, model.meta, model.names.signatures, None, model.places)
    run = TrainingRun(out)
    tensor_file.write_tensors(run.probe_file, rows)
    run.bring_assets(model.places)


def _answers(model: SourceModel, rows: Tensors, training: Training, scratch: Path) -> Tensors:
    """Return the original's answers.

    Raises:
        NondeterministicError, ParityError: they are not fit for a baseline.
    """
    run = TrainingRun(scratch)
    record = baselines.record(run, 0, model.live, model.requested, rows, (), (), training.session)
    compare.require_usable(record)
    answered = tensor_file.read_tensors(run.outputs_file(0))
    return {name: array for name, array in answered.items() if not name.startswith("/")}


def _train(
    start: _Start, training: Training, rows: Tensors, answers: Tensors, resumable: list[Path], out: Path
) -> None:
    names, graph, saving, model = start.names, start.graph, start.saving, start.model
    run = TrainingRun(out)
    run.write_names(names)
    run.graph_file.write_bytes(_with_nodes_of(graph, model.meta, saving.as_saver_def()))
    keys = graph_variables.restored(graph.as_graph_def(), saving.as_saver_def())
    readers = graph_variables.read_tensors(graph, keys)
    with closing(predictors.session(graph, training.session)) as session:
        live = SessionPredictor(LIVE_SESSION, session, names.signatures, readers)
        saver.fill_tables(session, names.table_init, names.assets, run.assets)
        if resumable:
            with graph.as_default():
                saving.restore(session, checkpoint_files.spelled(resumable[-1]))
            saving.recover_last_checkpoints([checkpoint_files.spelled(prefix) for prefix in resumable])
            resumed = checkpoint_files.step_of(resumable[-1]) or 0
        else:
            assert model.prefix is not None
            fine_tune.load(session, model.sources, model.prefix)
            _require_same(live, names, rows, answers)
            fine_tune.record(_started(start), out)
            resumed = start.step
        built = Graph({}, graph.get_operation_by_name(str(names.train_op)),
                      graph.get_tensor_by_name(names.loss) if names.loss else None)  # fmt: skip
        trainee = _Trainee(session, built, start.feeds, training, out, saving, live, names, keys, rows)
        trainee.at(resumed)
        loop.run(trainee, start.feeds, training, out, resumed, int(training.steps or 0), {})


class _Trainee(SessionTrainee):
    """A `SessionTrainee` that checks that the model's own global step counts every step."""

    def at(self, step: int) -> None:
        """Set the number of steps that the model was trained for."""
        self.step, self.first = step, step + 1

    def update(self, batch: Mapping[str, Array]) -> dict[str, float]:
        """See `loop.Trainee`.

        Raises:
            UsageError: the train op does not accept the batch, or does not count its step.
        """
        import tensorflow as tf

        self.step += 1
        try:
            reported = super().update(batch)
        except tf.errors.InvalidArgumentError as error:
            name = self.training.batches.name if self.training.batches else ""
            found = str(error).split("\n")[0][:300]
            remedy = "check the dtypes, shapes and values in the file."
            raise UsageError(f"--batches {name}, step {self.step}", "feeds for the train op", found, remedy) from None
        if self.step == self.first:
            self._require_counted()
        return reported

    def save(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `loop.Trainee`."""
        self._require_counted()
        with self.session.graph.as_default():
            super().save(step, metrics)

    def _require_counted(self) -> None:
        if self.names.global_step is None:
            return
        found = int(self.session.run(self.live.named[graphs.node_name(self.names.global_step)]))
        if found != self.step:
            raise UsageError(
                f"the train op {self.names.train_op}",
                f"one that takes {self.names.global_step} from {self.step - 1} to {self.step}",
                str(found),
                "name the train op of one complete step: --train-op NAME.",
            )


def _require_same(live: SessionPredictor, names: GraphNames, rows: Tensors, answers: Tensors) -> None:
    """Raise ParityError if the graph to train, pinned and restored, does not answer as the original."""
    found = compare.outputs(live, names.signatures, rows, answers, ParityTest.EXACT, Tolerance())
    report = ParityReport(baseline="original", rows=tuple(found))
    if not report.passed:
        raise ParityError.of(report)


def _started(start: _Start) -> StartedFrom:
    model, found = start.model, start.found
    assert model.prefix is not None
    keys = set(saver.reader(model.prefix).get_variable_to_shape_map())
    return StartedFrom(
        form=found.form,
        checkpoint=found.path.name,
        step=start.step,
        restored=tuple(sorted(model.sources)),
        unused=start.unused,
        left_out=tuple(sorted(keys - {source.key for source in model.sources.values()})),
        pins=model.pins,
        notes=(*model.notes, *start.notes),
    )


def _with_nodes_of(graph: Any, meta: MetaGraphDef, saver_def: Any) -> bytes:
    """Return the source model's MetaGraphDef, unchanged but for the nodes that were added to its imported graph."""
    complete = type(meta)()
    complete.CopyFrom(meta)
    there = {node.name for node in meta.graph_def.node}
    complete.graph_def.node.extend(node for node in graph.as_graph_def().node if node.name not in there)
    complete.saver_def.CopyFrom(saver_def)
    return bytes(complete.SerializeToString(deterministic=True))
