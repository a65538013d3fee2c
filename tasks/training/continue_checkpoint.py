"""Continuing a brought checkpoint, in a child: its own graph, its own train op, the user's batches.

Layout: see `tasks/baseline/training_run.py`. Nothing is initialised: what the train op needs and the checkpoint does not
hold is refused. Before the first step the graph that is trained answers for the probe bit for bit as the original does
by its own loader.
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
from tasks.forms import saver
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
from tasks.training.batches_file import Fed
from tasks.training.graph_mode import SessionTrainee, saver_of
from tasks.user_code.model import Graph


def train(given: ModelOptions, source: ProbeSource, training: Training, out: Path) -> None:
    """Train to the global step `training.steps`, going on from `out`'s last whole checkpoint, else from the brought one.

    Raises:
        UsageError: the start has no graph to train, `steps` lies behind it, or the train op wants other feeds.
        CoverageError: the checkpoint does not hold what the train op or the outputs need.
        DamagedError, UnsafeGraph, UnsupportedGraph: the files are not whole, or must not or cannot be run here.
        NondeterministicError, ParityError: the original differs from itself, or the graph to train from it.
    """
    assert training.start is not None
    found = detect(training.start, training.start_step)
    if not found.form.of_saver:
        remedy = "give a checkpoint of tf.compat.v1.train.Saver with its `.meta`, or fine-tune from Python code."
        raise UsageError(str(training.start), "a Saver checkpoint with its graph", found.form.value, remedy)
    for left in out.glob("scratch-*"):  # by a run that was killed
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(dir=out, prefix="scratch-") as scratch:
        with source_model.opened(found, given, None, training.session, Path(scratch)) as brought:
            start = _Start.of(brought, found, training)
            _write_inputs(brought, source, out)
            whole = loop.last_whole(out)
            rows = tensor_file.read_tensors(TrainingRun(out).probe_file)
            answers = {} if whole else _answers(brought, rows, training, Path(scratch))
        _train(start, training, rows, answers, whole, out)


@dataclass
class _Start:
    """A brought model about to be trained: its graph imported, what trains it, and where it stands."""

    brought: SourceModel
    found: Found
    graph: Any
    saving: Any
    names: GraphNames
    feeds: Fed
    step: int
    unused: tuple[str, ...]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, brought: SourceModel, found: Found, training: Training) -> _Start:
        """Raises as `train`, before anything of the graph is run for training."""
        import tensorflow as tf

        names = train_ops.named(brought, training)
        step = source_model.global_step(brought, found)
        if training.steps is None or training.steps <= step:
            asked = "none" if training.steps is None else str(training.steps)
            raise UsageError("--steps", f"a final global step beyond {step}, where {found.path.name} stands", asked,
                             f"ask for more: --steps {step + 100} trains 100 steps.")  # fmt: skip
        graph = tf.Graph()
        with graph.as_default():
            tf.compat.v1.train.import_meta_graph(brought.meta, clear_devices=True)
        feeds = batches_file.read(training.batches, training.batch_size, graph, train_ops.aliases(brought))
        part = train_ops.part(brought, names, {*feeds.scalars, *feeds.arrays})
        targets = train_ops.targets(names)
        scan.require_runnable(part, targets, str(found.path))
        needed = graphs.Graph(part).variables(targets)
        _require_held(needed, brought, part, targets)
        names = train_ops.counted(names, part)
        by_name = {variable.op.name: variable for variable in graph.get_collection("variables")}
        for variable in by_name.values():
            variable._save_slice_info = None  # parts of partitioned variables are saved as tensors of their own
        with graph.as_default():
            saving = saver_of(training, [by_name[name] for name in sorted(brought.sources)])
        kept = graph_variables.restored(graph.as_graph_def(), saving.as_saver_def())
        if left := sorted(needed - kept.keys()):
            found_words = f"{', '.join(left[:5])} left out"
            remedy = "leave var_list out: interrupted training could not be resumed."
            raise UsageError("training.saver.var_list", "every variable that is trained", found_words, remedy)
        variables = graph_variables.variable_facts(brought.meta.graph_def).keys()
        unused = tuple(sorted(variables - needed - set(names.needed)))
        return cls(brought, found, graph, saving, names, feeds, step, unused, train_ops.defaults(part))


def _require_held(needed: set[str], brought: SourceModel, part: Any, targets: list[str]) -> None:
    """Raise CoverageError where training needs what the checkpoint does not hold."""
    assert brought.prefix is not None
    if missing := sorted(needed - brought.sources.keys()):
        status = {one.name: one for one in saver.compared(part, brought.sources, brought.prefix, targets).variables}
        some = ", ".join(f"{name} {status[name].expected}" for name in missing[:8])
        raise CoverageError(
            f"{brought.prefix.name}: {len(missing)} of {len(needed)} variables that the train op needs",
            f"the values that training stood at ({some}{', …' if len(missing) > 8 else ''})",
            "none in the checkpoint",
            "give one that was saved whole (optimizer slots, global step), or fine-tune from Python code, where the rest "
            "is initialised and listed; here nothing is.",
            facts={"missing": missing},
        )
    if state := graphs.Graph(part).other_state(targets):
        remedy = "feed the tensors after it: name them in the file of --batches."
        what = "variables, whose values a checkpoint holds"
        raise CoverageError(f"{brought.prefix.name}: what the train op reads", what, ", ".join(state[:5]), remedy)


def _write_inputs(brought: SourceModel, source: ProbeSource, out: Path) -> None:
    rows, _ = establish.establish(source, brought.meta, brought.names.signatures, None, brought.places)
    run = TrainingRun(out)
    tensor_file.write_tensors(run.probe_file, rows)
    run.copy_assets(brought.places)


def _answers(brought: SourceModel, rows: Tensors, training: Training, scratch: Path) -> Tensors:
    """What the original answers. Raises NondeterministicError or ParityError where that is no baseline."""
    run = TrainingRun(scratch)
    record = baselines.record(run, 0, brought.live, brought.requested, rows, (), (), training.session)
    compare.require_usable(record)
    answered = tensor_file.read_tensors(run.outputs_file(0))
    return {name: array for name, array in answered.items() if not name.startswith("/")}


def _train(start: _Start, training: Training, rows: Tensors, answers: Tensors, whole: list[Path], out: Path) -> None:
    names, graph, saving, brought = start.names, start.graph, start.saving, start.brought
    run = TrainingRun(out)
    run.write_names(names)
    run.graph_file.write_bytes(_with_nodes_of(graph, brought.meta, saving.as_saver_def()))
    keys = graph_variables.restored(graph.as_graph_def(), saving.as_saver_def())
    readers = graph_variables.read_tensors(graph, keys)
    with closing(predictors.session(graph, training.session)) as session:
        live = SessionPredictor(LIVE_SESSION, session, names.signatures, readers)
        saver.fill_tables(session, names.table_init, names.assets, run.assets)
        if whole:
            with graph.as_default():
                saving.restore(session, saver.spelled(whole[-1]))
            saving.recover_last_checkpoints([saver.spelled(prefix) for prefix in whole])
            resumed = saver.step_of(whole[-1]) or 0
        else:
            assert brought.prefix is not None
            fine_tune.load(session, brought.sources, brought.prefix)
            _require_same(live, names, rows, answers)
            fine_tune.leave(_started(start), out)
            resumed = start.step
        built = Graph({}, graph.get_operation_by_name(str(names.train_op)),
                      graph.get_tensor_by_name(names.loss) if names.loss else None)  # fmt: skip
        trainee = _Trainee(session, built, start.feeds, training, out, saving, live, names, keys, rows)
        trainee.at(resumed)
        loop.run(trainee, start.feeds, training, out, resumed, int(training.steps or 0), {})


class _Trainee(SessionTrainee):
    """See `SessionTrainee`; it sees to it that the model's own global step counts as we do."""

    def at(self, step: int) -> None:
        """It has been trained for `step` steps."""
        self.step, self.first = step, step + 1

    def update(self, batch: Mapping[str, Array]) -> dict[str, float]:
        """See `loop.Trainee`. Raises UsageError where the train op does not take the batch."""
        import tensorflow as tf

        self.step += 1
        try:
            said = super().update(batch)
        except tf.errors.InvalidArgumentError as error:
            name = self.training.batches.name if self.training.batches else ""
            words = str(error).split("\n")[0][:300]
            remedy = "look at the dtypes, shapes and values of what is fed."
            raise UsageError(f"--batches {name}, step {self.step}", "what the train op takes", words, remedy) from None
        if self.step == self.first:
            self._require_counted()
        return said

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
                "name the train op of one whole step: --train-op NAME.",
            )


def _require_same(live: SessionPredictor, names: GraphNames, rows: Tensors, answers: Tensors) -> None:
    """Raise ParityError where the graph to train, pinned and restored, does not answer as the original."""
    found = compare.outputs(live, names.signatures, rows, answers, ParityTest.EXACT, Tolerance())
    report = ParityReport(baseline="original", rows=tuple(found))
    if not report.passed:
        raise ParityError.of(report)


def _started(start: _Start) -> StartedFrom:
    brought, found = start.brought, start.found
    assert brought.prefix is not None
    keys = set(saver.reader(brought.prefix).get_variable_to_shape_map())
    return StartedFrom(
        form=found.form,
        checkpoint=found.path.name,
        step=start.step,
        restored=tuple(sorted(brought.sources)),
        unused=start.unused,
        left_out=tuple(sorted(keys - {source.key for source in brought.sources.values()})),
        pins=brought.pins,
        notes=(*brought.notes, *start.notes),
    )


def _with_nodes_of(graph: Any, meta: MetaGraphDef, saver_def: Any) -> bytes:
    """The brought MetaGraphDef with the nodes that were added to its imported graph; what was there stays as it was."""
    whole = type(meta)()
    whole.CopyFrom(meta)
    there = {node.name for node in meta.graph_def.node}
    whole.graph_def.node.extend(node for node in graph.as_graph_def().node if node.name not in there)
    whole.saver_def.CopyFrom(saver_def)
    return bytes(whole.SerializeToString(deterministic=True))
