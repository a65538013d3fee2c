"""Training in TF1 graph mode, in a child: a session, its Saver, and a baseline for each checkpoint.

Layout: see `tasks/baseline/training_run.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tasks.baseline import record as baselines
from tasks.baseline import reference
from tasks.baseline.training_run import PREFIX, TrainingRun
from tasks.errors import PipelineError
from tasks.forms import checkpoint_files
from tasks.graphs import graph as graphs
from tasks.graphs import variables as graph_variables
from tasks.parity import predictor as predictors
from tasks.parity.predictor import SessionPredictor
from tasks.records.adoption import ModelOptions
from tasks.records.baseline import Variable
from tasks.records.forms import LIVE_SESSION
from tasks.records.settings import Training
from tasks.records.signature import DEFAULT_KEY, Asset, GraphNames, Signature, TensorSpec
from tasks.tensors import tensor_file
from tasks.tensors.tensor_file import Array, Tensors
from tasks.training import fine_tune, loop
from tasks.user_code.model import Graph
from tasks.user_code.source import ModelSource


def train(
    model: Any,
    source: ModelSource,
    training: Training,
    given: ModelOptions,
    out: Path,
    steps: int,
    hyperparameters: Mapping[str, Any],
) -> None:
    """Train a model whose `build` makes a graph, from its initial values or those of `training.start`.

    Raises:
        PipelineError: the model's code lacks something.
        UsageError, CoverageError, DamagedError: `training.start` cannot be used; see `fine_tune.py`.
    """
    import tensorflow as tf

    graph = tf.Graph()
    with graph.as_default():
        tf.compat.v1.set_random_seed(training.seed)
        built = model.build(hyperparameters)
        _require(built, steps)
        tf.compat.v1.add_to_collection("hyperparameters", json.dumps(hyperparameters, sort_keys=True).encode())
        saving = saver_of(training)
        initializer = tf.compat.v1.global_variables_initializer()
    names = _names(built, graph)
    keys = graph_variables.restored(*_saved(graph, saving))
    readers = graph_variables.read_tensors(graph, (variable.op.name for variable in _variables(graph)))
    # What `var_list` leaves out is in no checkpoint: such a training cannot be resumed.
    complete = {variable.op.name for variable in _variables(graph)} <= set(keys)
    loop.require_declared(names, source, training)
    names = loop.require_pure(graph.as_graph_def(), names, given)
    probe = _write_once(out, names, built, model, graph, saving)
    with predictors.session(graph, training.session) as session:
        live = SessionPredictor(LIVE_SESSION, session, names.signatures, readers)
        if names.table_init:
            session.run(built.table_init)
        resumed = None
        if resumable := loop.complete_checkpoints(out, lambda prefix: complete):
            saving.restore(session, checkpoint_files.spelled(resumable[-1]))
            saving.recover_last_checkpoints([checkpoint_files.spelled(prefix) for prefix in resumable])
            resumed = checkpoint_files.step_of(resumable[-1])
        else:
            session.run(initializer)
            if training.start is not None:
                fine_tune.begin(
                    session, names, graph_variables.restored_slices(*_saved(graph, saving)), training, given, out
                )
        trainee = SessionTrainee(session, built, model, training, out, saving, live, names, keys, probe)
        loop.run(trainee, model, training, out, resumed, steps, hyperparameters)


class SessionTrainee:
    """A session with the model in it. See `loop.Trainee`."""

    def __init__(
        self,
        session: Any,
        built: Graph,
        model: Any,
        training: Training,
        out: Path,
        saving: Any,
        live: SessionPredictor,
        names: GraphNames,
        keys: Mapping[str, str],
        probe: Tensors,
    ) -> None:
        self.session, self.built, self.model, self.training = session, built, model, training
        self.run = TrainingRun(out)
        self.saving, self.live, self.names, self.keys, self.probe = saving, live, names, keys, probe
        outputs = [spec.tensor for signature in names.signatures for spec in signature.outputs.values()]
        self.constants = tuple(graphs.Graph(session.graph.as_graph_def()).constants(outputs, names.assets))

    def update(self, batch: Mapping[str, Array]) -> dict[str, float]:
        """See `loop.Trainee`; the first batch is saved for restore-verify."""
        if not self.run.batch_file.exists():
            tensor_file.write_tensors(self.run.batch_file, batch)
        fetches = {"train": self.built.train_op} | ({"loss": self.built.loss} if self.built.loss is not None else {})
        found = self.session.run(fetches, batch)
        return {"loss": float(found["loss"])} if "loss" in found else {}

    def metrics(self) -> dict[str, float]:
        """See `loop.Trainee`."""
        if not self.built.metrics:
            return {}
        found = self.session.run(dict(self.built.metrics), self.model.validation())
        return {name: float(value) for name, value in found.items()}

    def save(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `loop.Trainee`."""
        self.run.checkpoints.mkdir(exist_ok=True)
        facts = {fact.name: fact for fact in self.live.values()}
        variables = [
            Variable(name=name, key=self.keys.get(name, name), value=fact) for name, fact in sorted(facts.items())
        ]
        options = self.training.session
        signatures = self.names.signatures
        baselines.record(self.run, step, self.live, signatures, self.probe, variables, self.constants, options, metrics)
        # The graph is in graph.meta: with `write_meta_graph` here, rotation would delete it with an old checkpoint.
        self.saving.save(self.session, str(self.run.checkpoints / PREFIX), global_step=step, write_meta_graph=False)


def _require(built: Graph, steps: int) -> None:
    if not getattr(built, "signatures", None):
        raise PipelineError(
            "build()",
            "a Graph with at least one signature",
            type(built).__name__,
            "name inputs and outputs: `signatures=…`.",
        )
    if slashed := [key for key in built.signatures if "/" in key or not key]:
        raise PipelineError("build()", "signature keys without a slash", repr(slashed[0]), "rename it.")
    if steps and built.train_op is None:
        raise PipelineError("build()", f"a train_op for {steps} steps", "none", "return a train_op, or set steps to 0.")


def saver_of(training: Training, among: Iterable[Any] | None = None) -> Any:
    """Return the default graph's Saver by the policy, for the variables `among` or all.

    Raises:
        PipelineError: `var_list` names an unknown variable.
    """
    import tensorflow as tf
    from tensorflow.core.protobuf import saver_pb2

    policy = training.saver
    variables = None if among is None else list(among)
    if policy.var_list is not None:
        known = tf.compat.v1.global_variables() if variables is None else variables
        by_name = {variable.op.name: variable for variable in known}
        unknown = [name for name in policy.var_list if name not in by_name]
        if unknown:
            raise PipelineError(
                "training.saver.var_list",
                "names of the graph's variables",
                ", ".join(unknown),
                f"choose from {', '.join(sorted(by_name))}.",
            )
        variables = [by_name[name] for name in policy.var_list]
    return tf.compat.v1.train.Saver(
        variables,
        max_to_keep=policy.max_to_keep,
        keep_checkpoint_every_n_hours=policy.keep_checkpoint_every_n_hours,
        sharded=policy.sharded,
        write_version=saver_pb2.SaverDef.V1 if policy.write_version == "V1" else saver_pb2.SaverDef.V2,
        save_relative_paths=True,
    )


def _saved(graph: Any, saving: Any) -> tuple[Any, Any]:
    return graph.as_graph_def(), saving.as_saver_def()


def _variables(graph: Any) -> list[Any]:
    import tensorflow as tf

    variables: list[Any] = graph.get_collection(tf.compat.v1.GraphKeys.GLOBAL_VARIABLES)
    return variables


def _names(built: Graph, graph: Any) -> GraphNames:
    def spec(tensor: Any) -> TensorSpec:
        shape = tuple(tensor.shape.as_list()) if tensor.shape.rank is not None else None
        return TensorSpec(tensor=tensor.name, dtype=tensor.dtype.base_dtype.name, shape=shape)

    signatures = tuple(
        Signature(
            key=key,
            method=signature.method,
            inputs={name: spec(tensor) for name, tensor in signature.inputs.items()},
            outputs={name: spec(tensor) for name, tensor in signature.outputs.items()},
            allow_nonfinite=signature.allow_nonfinite,
        )
        for key, signature in sorted(built.signatures.items(), key=lambda item: (item[0] != DEFAULT_KEY, item[0]))
    )
    outputs = [output.tensor for signature in signatures for output in signature.outputs.values()]
    return GraphNames(
        signatures=signatures,
        assets=tuple(Asset(**reference.record_asset(path, tensor.name)) for path, tensor in built.assets),
        needed=tuple(sorted(graphs.Graph(graph.as_graph_def()).variables(outputs))),
        table_init=built.table_init.name if built.table_init is not None else None,
        train_op=built.train_op.name if built.train_op is not None else None,
        loss=built.loss.name if built.loss is not None else None,
        global_step=built.global_step.name if built.global_step is not None else None,
    )


def _write_once(out: Path, names: GraphNames, built: Graph, model: Any, graph: Any, saving: Any) -> Tensors:
    """Write the files that do not change while training; return the probe."""
    import tensorflow as tf

    probe = loop.write_probe(out, names, model.probe())
    run = TrainingRun(out)
    run.write_names(names)
    run.bring_assets({path.name: path for path, _ in built.assets})
    with graph.as_default():
        tf.compat.v1.train.export_meta_graph(str(run.graph_file), graph=graph, saver_def=saving.as_saver_def())
    return probe
