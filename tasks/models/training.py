"""Training in TF1 graph mode, in a child: rolling checkpoints, and the baseline of each from the live session.

graph.meta                    the MetaGraphDef, written once, under a name that no rotation deletes
graph.json                    GraphNames
checkpoints/                  what Saver keeps
baselines/<step>.json .tensors
probe.tensors  batch.tensors  the probe, and one training batch for restore-verify
metrics.jsonl                 one line a logged step
assets/
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.errors import DamagedError, PipelineError
from tasks.forms import baseline as baselines
from tasks.forms import graph as graphs
from tasks.forms import proof, saver, tensors
from tasks.forms import predictor as predictors
from tasks.forms.predictor import SessionPredictor
from tasks.forms.tensors import Tensors
from tasks.isolate import progress
from tasks.models import source as sources
from tasks.models.model import Graph
from tasks.models.source import ModelSource
from tasks.records.baseline import Baseline, Variable
from tasks.records.settings import Training
from tasks.records.signature import Asset, GraphNames, Signature, TensorSpec

PREFIX = "model.ckpt"
DEFAULT = "serving_default"  # comes first wherever signatures are listed
_LOG_EVERY = 10


def train(source: ModelSource, training: Training, out: Path) -> None:
    """Train to the final global step, going on from the last whole checkpoint that `out` holds.

    Raises:
        PipelineError: the model's code does not say what it must.
    """
    import numpy as np
    import tensorflow as tf

    random.seed(training.seed)
    np.random.seed(training.seed)
    with sources.importable(source) as model_class:
        model = model_class()
    hyperparameters = {**model.hyperparameters, **training.hyperparameters}
    steps = int(training.steps if training.steps is not None else hyperparameters.get("steps", 0))
    graph = tf.Graph()
    with graph.as_default():
        tf.compat.v1.set_random_seed(training.seed)
        built = model.build(hyperparameters)
        _require(built, steps)
        tf.compat.v1.add_to_collection("hyperparameters", json.dumps(hyperparameters, sort_keys=True).encode())
        saving = _saver(training)
        initializer = tf.compat.v1.global_variables_initializer()
    names = _names(built, graph)
    keys = graphs.restored(graph.as_graph_def(), saving.as_saver_def())
    readers = graphs.readers(graph, (variable.op.name for variable in _variables(graph)))
    _require_declared(names, source, training)
    _write_once(out, names, built, model, graph, saving)
    probe = tensors.read_tensors(out / "probe.tensors")
    with predictors.session(graph, training.session) as session:
        live = SessionPredictor("live session", session, names.signatures, readers)
        if names.table_init:
            session.run(built.table_init)
        resumed = _resume(session, saving, out)
        if resumed is None:
            session.run(initializer)
        loop = _Loop(session, built, model, training, out, saving, live, names, keys, probe)
        loop.run(resumed, steps, hyperparameters)


class _Loop:
    """The training loop: steps, log lines, checkpoints with their baselines."""

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
        self.session, self.built, self.model, self.training, self.out = session, built, model, training, out
        self.saving, self.live, self.names, self.keys, self.probe = saving, live, names, keys, probe
        self.last_saved = time.monotonic()
        outputs = [spec.tensor for signature in names.signatures for spec in signature.outputs.values()]
        self.constants = tuple(graphs.constants(session.graph.as_graph_def(), outputs, names.assets))

    def run(self, resumed: int | None, steps: int, hyperparameters: Mapping[str, Any]) -> None:
        start = resumed or 0
        policy = self.training.saver
        batches = self.model.batches(start, hyperparameters)
        _cut_metrics(self.out / "metrics.jsonl", start)
        for step in range(start + 1, steps + 1):
            batch = next(batches)
            if not (self.out / "batch.tensors").exists():
                tensors.write_tensors(self.out / "batch.tensors", batch)
            fetches = {"train": self.built.train_op} | (
                {"loss": self.built.loss} if self.built.loss is not None else {}
            )
            loss = self.session.run(fetches, batch).get("loss")
            due = step == steps or (
                time.monotonic() - self.last_saved >= policy.every_seconds
                if policy.every_seconds
                else step % policy.every_steps == 0
            )
            if due or step % _LOG_EVERY == 0:
                facts = {"step": step, "of": steps} | ({"loss": float(loss)} if loss is not None else {})
                metrics = self.metrics() if due else {}
                # Before the checkpoint: a kill between them is followed by training from an earlier one, which cuts
                # this line off again, and never by training from this one, which would miss it.
                with (self.out / "metrics.jsonl").open("a") as stream:
                    stream.write(json.dumps(facts | metrics) + "\n")
                if due:
                    self.save(step, metrics)
                progress(facts | metrics)
        if steps == 0 and resumed is None:
            self.save(start, self.metrics())

    def metrics(self) -> dict[str, float]:
        """The validation metrics now."""
        if not self.built.metrics:
            return {}
        found = self.session.run(dict(self.built.metrics), self.model.validation())
        return {name: float(value) for name, value in found.items()}

    def save(self, step: int, metrics: dict[str, float]) -> None:
        """One checkpoint, and what the live session gives at it."""
        (self.out / "checkpoints").mkdir(exist_ok=True)
        facts = {fact.name: fact for fact in self.live.values()}
        variables = [
            Variable(name=name, key=self.keys.get(name, name), value=fact) for name, fact in sorted(facts.items())
        ]
        options = self.training.session
        signatures = self.names.signatures
        baselines.record(self.out, step, self.live, signatures, self.probe, variables, self.constants, options, metrics)
        # The graph is in graph.meta: with `write_meta_graph` here, rotation would delete it with an old checkpoint.
        self.saving.save(self.session, str(self.out / "checkpoints" / PREFIX), global_step=step, write_meta_graph=False)
        kept = {saver.step_of(prefix) for prefix in saver.prefixes(self.out / "checkpoints")}
        for old in (self.out / "baselines").iterdir():
            if int(old.stem) not in kept:
                old.unlink()
        self.last_saved = time.monotonic()


def _require(built: Graph, steps: int) -> None:
    if not getattr(built, "signatures", None):
        raise PipelineError(
            "build()",
            "a Graph with at least one signature",
            type(built).__name__,
            "say what goes in and out: `signatures=…`.",
        )
    if slashed := [key for key in built.signatures if "/" in key or not key]:
        raise PipelineError("build()", "signature keys without a slash", repr(slashed[0]), "name it otherwise.")
    if steps and built.train_op is None:
        raise PipelineError("build()", f"a train_op for {steps} steps", "none", "return one, or set steps to 0.")


def _require_declared(names: GraphNames, source: ModelSource, training: Training) -> None:
    """Refuse an asset that is in no key: it could change without training being run again."""
    found, complete = sources.digests(source, training.data)
    unknown = [asset.filename for asset in names.assets if asset.sha256 not in found.values()]
    if complete and unknown:
        raise PipelineError(
            "build()",
            "assets among the files that DATA or training.data name",
            unknown[0],
            f"add it: DATA = (…, {unknown[0]!r}).",
        )


def _saver(training: Training) -> Any:
    import tensorflow as tf
    from tensorflow.core.protobuf import saver_pb2

    policy = training.saver
    variables = None
    if policy.var_list is not None:
        by_name = {variable.op.name: variable for variable in tf.compat.v1.global_variables()}
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
        for key, signature in sorted(built.signatures.items(), key=lambda item: (item[0] != DEFAULT, item[0]))
    )
    outputs = [output.tensor for signature in signatures for output in signature.outputs.values()]
    return GraphNames(
        signatures=signatures,
        assets=tuple(Asset(**proof.record_asset(path, tensor.name)) for path, tensor in built.assets),
        needed=tuple(sorted(graphs.variables_needed(graph.as_graph_def(), outputs))),
        table_init=built.table_init.name if built.table_init is not None else None,
        train_op=built.train_op.name if built.train_op is not None else None,
        loss=built.loss.name if built.loss is not None else None,
        global_step=built.global_step.name if built.global_step is not None else None,
    )


def _write_once(out: Path, names: GraphNames, built: Graph, model: Any, graph: Any, saving: Any) -> None:
    """Everything that does not change while training."""
    import tensorflow as tf

    probe = {
        f"{key}/{name}": tensors.as_array(array)
        for key, inputs in model.probe().items()
        for name, array in inputs.items()
    }
    wanted = {f"{signature.key}/{name}" for signature in names.signatures for name in signature.inputs}
    if set(probe) != wanted:
        raise PipelineError(
            "probe()",
            f"inputs {', '.join(sorted(wanted))}",
            ", ".join(sorted(probe)) or "none",
            "give one batch for every input of every signature.",
        )
    if empty := [name for name, array in probe.items() if not array.size]:
        raise PipelineError("probe()", "at least one row for every input", f"none for {empty[0]}", "give some.")
    tensors.write_tensors(out / "probe.tensors", probe)
    (out / "graph.json").write_text(names.model_dump_json(indent=1))
    for path, _ in built.assets:
        (out / "assets").mkdir(exist_ok=True)
        shutil.copyfile(path, out / "assets" / path.name)
    with graph.as_default():
        tf.compat.v1.train.export_meta_graph(str(out / "graph.meta"), graph=graph, saver_def=saving.as_saver_def())


def _resume(session: Any, saving: Any, out: Path) -> int | None:
    """Restore the newest checkpoint that is whole and has its baseline; its global step, or None.

    What an interrupted save or rotation left half done is removed: it must be neither chosen nor committed later.
    """
    folder = out / "checkpoints"
    whole = [prefix for prefix in (saver.prefixes(folder) if folder.exists() else ()) if _whole(out, prefix)]
    kept = {folder / "checkpoint"} if whole else set()
    for prefix in whole:
        kept |= {*saver.files(prefix), *(out / "baselines").glob(f"{saver.step_of(prefix)}.*")}
    for path in {*folder.glob("*"), *(out / "baselines").glob("*")} - kept:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    if not whole:
        return None
    saving.restore(session, saver.spelled(whole[-1]))
    saving.recover_last_checkpoints([saver.spelled(prefix) for prefix in whole])
    return saver.step_of(whole[-1])


def _whole(out: Path, prefix: Path) -> bool:
    """Whether a checkpoint and its baseline can be read."""
    step = saver.step_of(prefix)
    try:
        saver.tensor_table(prefix)
        Baseline.model_validate_json((out / "baselines" / f"{step}.json").read_bytes())
        tensors.read_tensors(out / "baselines" / f"{step}.tensors")
    except (DamagedError, OSError, ValueError):
        return False
    return True


def _cut_metrics(path: Path, start: int) -> None:
    """Forget logged steps after the one that training goes on from, and a line that was cut by a kill."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            break
        if entry["step"] <= start:
            kept.append(line + "\n")
    path.write_text("".join(kept))
