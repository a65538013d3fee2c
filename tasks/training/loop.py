"""The training loop of both modes: steps, log lines, checkpoints when due, and order in the training run's folder.

Layout: see `tasks/baseline/training_run.py`.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from tasks.baseline.training_run import TrainingRun
from tasks.errors import DamagedError, PipelineError
from tasks.forms import checkpoint_files, saver
from tasks.graphs import purity
from tasks.graphs.protos import GraphDef
from tasks.isolate import progress
from tasks.records.adoption import ModelOptions
from tasks.records.settings import Training
from tasks.records.signature import GraphNames, OutputRef
from tasks.tensors import tensor_file
from tasks.tensors.tensor_file import Array, Tensors
from tasks.user_code import source as sources
from tasks.user_code.source import ModelSource

_LOG_EVERY = 10


class Trainee(Protocol):
    """A live model in training, in either mode."""

    def update(self, batch: Mapping[str, Array]) -> Mapping[str, float]:
        """Take one step of the optimiser; return what it reports, such as `loss`."""
        ...

    def metrics(self) -> Mapping[str, float]:
        """Return the current validation metrics."""
        ...

    def save(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the baseline of this step, then its checkpoint, and rotate older ones."""
        ...


def run(
    trainee: Trainee,
    model: Any,
    training: Training,
    out: Path,
    resumed: int | None,
    steps: int,
    hyperparameters: Mapping[str, Any],
) -> None:
    """Train from the step after `resumed` to the global step `steps`."""
    start = resumed or 0
    policy = training.saver
    batches = model.batches(start, hyperparameters)
    metrics_file = TrainingRun(out).metrics_file
    _cut_metrics(metrics_file, start)
    last_saved = time.monotonic()
    for step in range(start + 1, steps + 1):
        reported = trainee.update(next(batches))
        due = step == steps or (
            time.monotonic() - last_saved >= policy.every_seconds
            if policy.every_seconds
            else step % policy.every_steps == 0
        )
        if due or step % _LOG_EVERY == 0:
            facts = {"step": step, "of": steps} | dict(reported)
            metrics = trainee.metrics() if due else {}
            # Before the checkpoint: if the process is killed between them, training resumes from an earlier one and this
            # line is cut off. After the checkpoint, the line could be missing.
            with metrics_file.open("a") as stream:
                stream.write(json.dumps(facts | dict(metrics)) + "\n")
            if due:
                trainee.save(step, metrics)
                forget_baselines(out, step)
                last_saved = time.monotonic()
            progress(facts | dict(metrics))
    if steps == 0 and resumed is None:
        trainee.save(start, trainee.metrics())


def forget_baselines(out: Path, step: int) -> None:
    """Delete the baselines whose checkpoints were rotated; a model without variables keeps the last one."""
    run = TrainingRun(out)
    kept = {checkpoint_files.step_of(prefix) for prefix in checkpoint_files.prefixes(run.checkpoints)} or {step}
    for old in run.baselines.iterdir():
        if int(old.stem) not in kept:
            old.unlink()


def write_probe(out: Path, names: GraphNames, batches: Mapping[str, Mapping[str, Any]]) -> Tensors:
    """Write the probe, and return it as it is read back.

    Raises:
        PipelineError: it lacks rows for an input of a signature, or has other inputs.
    """
    probe = {
        str(OutputRef(key, name)): tensor_file.as_array(array)
        for key, inputs in batches.items()
        for name, array in inputs.items()
    }
    wanted = {str(OutputRef(signature.key, name)) for signature in names.signatures for name in signature.inputs}
    if set(probe) != wanted:
        raise PipelineError(
            "probe()",
            f"inputs {', '.join(sorted(wanted))}",
            ", ".join(sorted(probe)) or "none",
            "return one batch for every input of every signature.",
        )
    if empty := [name for name, array in probe.items() if not array.size]:
        raise PipelineError("probe()", "at least one row for every input", f"none for {empty[0]}", "add rows.")
    place = TrainingRun(out).probe_file
    tensor_file.write_tensors(place, probe)
    return tensor_file.read_tensors(place)


def require_declared(names: GraphNames, source: ModelSource, training: Training) -> None:
    """Check that every asset is part of the key: otherwise it could change without the model being trained again.

    Raises:
        PipelineError: an asset is not.
    """
    found, complete = sources.digests(source, training.data)
    unknown = [asset.filename for asset in names.assets if asset.sha256 not in found.values()]
    if complete and unknown:
        raise PipelineError(
            "build()",
            "assets among the files that DATA or training.data name",
            unknown[0],
            f"add it: DATA = (…, {unknown[0]!r}).",
        )


def require_pure(graph_def: GraphDef, names: GraphNames, given: ModelOptions) -> GraphNames:
    """Return the names with what the outputs depend on besides the inputs. Raises ImpureError where that is not declared."""
    impure = purity.require_pure(graph_def, names.signatures, given.impure, "the trained model")
    return names.model_copy(update={"impure": impure})


def complete_checkpoints(out: Path, also: Callable[[Path], bool] = lambda prefix: True) -> list[Path]:
    """Return the complete checkpoints with their baselines, newest last; `also` is another condition.

    Files of an interrupted save or rotation are removed: they must be neither selected nor committed later.
    """
    run = TrainingRun(out)
    folder = run.checkpoints
    prefixes = checkpoint_files.prefixes(folder) if folder.exists() else []
    found = [prefix for prefix in prefixes if _complete(run, prefix) and also(prefix)]
    kept = {folder / "checkpoint"} if found else set()
    for prefix in found:
        kept |= {*checkpoint_files.files(prefix), *run.baselines.glob(f"{checkpoint_files.step_of(prefix)}.*")}
    for path in {*folder.glob("*"), *run.baselines.glob("*")} - kept:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    return found


def _complete(run: TrainingRun, prefix: Path) -> bool:
    """Return True if a checkpoint and its baseline can be read."""
    step = checkpoint_files.step_of(prefix)
    if step is None:
        return False
    try:
        saver.tensor_table(prefix)
        run.baseline(step)
        tensor_file.read_tensors(run.outputs_file(step))
    except (DamagedError, OSError, ValueError):
        return False
    return True


def _cut_metrics(path: Path, start: int) -> None:
    """Remove logged steps after the one from which training resumes, and an incomplete last line."""
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
