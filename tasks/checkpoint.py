"""checkpoint: pin one checkpoint of a training run as an artifact that can be moved and needs nothing else.

Follows train or adopt. Layout:

    model.ckpt-<step>.index .data-* .meta     (V1: model.ckpt-<step> and .meta)
    checkpoint                                names the prefix relatively
    pinned.json                               PinnedCheckpoint: which, why, every tensor with dtype, shape and checksum:
                                              of a variable as the live model had it, which restore_verify compares
    graph.json  assets/                       as in the training run
"""

from __future__ import annotations

import math
from pathlib import Path

from tasks import isolate
from tasks.artifact_views import Pinned
from tasks.artifacts.hashes import Hashes
from tasks.artifacts.store import Artifact
from tasks.baseline.training_run import TrainingRun
from tasks.errors import UsageError
from tasks.forms import checkpoint_files, saver
from tasks.records.baseline import Baseline
from tasks.records.checkpoint import PinnedCheckpoint
from tasks.records.settings import Selection
from tasks.step import current, step

VERSION = 3


@step(version=VERSION)
def checkpoint(run: Artifact, selection: Selection, out: Path) -> None:
    """Pin the checkpoint that `selection` names.

    Raises:
        UsageError: the training run does not hold it.
    """
    isolate.call(pin, run.path, selection, current().store.hashes, out)


def pin(run: Path, selection: Selection, hashes: Hashes, out: Path) -> None:
    """In a child: bring the selected checkpoint's files, and list its tensors."""
    trained, pinned = TrainingRun(run), Pinned(out)
    kept = trained.checkpoints
    found = checkpoint_files.prefixes(kept) if kept.exists() else []
    prefixes = {step: path for path in found if (step := checkpoint_files.step_of(path)) is not None}
    # A model without variables has a baseline, and no files to pin beside its graph.
    steps = prefixes or {step: trained.prefix(step) for step in trained.steps()}
    baselines = {step: trained.baseline(step) for step in steps}
    if trained.adopted() is not None and isinstance(selection.which, int):
        # adopt has taken the checkpoint of that number, by its name; its global step may be another.
        ((step, chosen),) = ((step, "the one that was adopted") for step in baselines)
    else:
        step, chosen = choose(selection, list(baselines.values()))
    prefix = steps[step]
    for path in checkpoint_files.files(prefix):
        hashes.bring(path, out / path.name)
    hashes.bring(trained.graph_file, out / f"{prefix.name}{checkpoint_files.META}")
    hashes.bring(trained.names_file, out / trained.names_file.name)
    assets = [asset.filename for asset in trained.names().assets]
    TrainingRun(out).bring_assets({name: trained.assets / name for name in assets}, hashes)
    if prefixes:
        (out / "checkpoint").write_text(
            checkpoint_files.state_file(Path(checkpoint_files.spelled(out / prefix.name)).name)
        )
    # Reading them again would tell no more: restore_verify compares the restored values with the live ones.
    live = [variable.value.model_copy(update={"name": variable.key}) for variable in baselines[step].variables]
    record = PinnedCheckpoint(
        step=step,
        prefix=prefix.name,
        chosen=chosen,
        available=tuple(sorted(baselines_step.step for baselines_step in baselines.values())),
        metrics=baselines[step].metrics,
        tensors=tuple(saver.tensor_table(out / prefix.name, live)),
    )
    pinned.write(record)


def choose(selection: Selection, baselines: list[Baseline]) -> tuple[int, str]:
    """Return the global step to pin, and the reason in words.

    Raises:
        UsageError: there is no checkpoint of that step, or none with that metric.
    """
    steps = sorted(baseline.step for baseline in baselines)
    if isinstance(selection.which, int):
        if selection.which not in steps:
            found = f"checkpoints of steps {', '.join(map(str, steps))}"
            raise UsageError(
                "selection",
                f"a checkpoint of step {selection.which}",
                found,
                "choose one of them, or raise max_to_keep.",
            )
        return selection.which, f"step {selection.which}, as requested"
    if selection.which == "latest":
        return steps[-1], "the latest"
    metrics = {b.step: b.metrics[selection.metric] for b in baselines if selection.metric in b.metrics}
    measured = {step: value for step, value in metrics.items() if math.isfinite(value)}
    if not measured:
        known = sorted({name for baseline in baselines for name in baseline.metrics})
        raise UsageError(
            "selection",
            f"a metric {selection.metric!r}",
            ", ".join(known) or "no metrics",
            "choose `latest` or a step.",
        )
    sign = 1 if selection.mode == "max" else -1
    # Of equals the later one, which was trained longer.
    best = max(measured, key=lambda step: (sign * measured[step], step))
    return best, f"best {selection.metric} {measured[best]:.4f}"
