"""restore-verify: prove a pinned checkpoint in a fresh process, from a moved copy, with the original out of reach.

Follows checkpoint; freeze and export need it. Layout: `restore.json` (RestoreReport), `parity.json` (ParityReport).
"""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tasks import isolate
from tasks.artifact_views import Pinned, Restored
from tasks.artifacts.hashes import hash_file
from tasks.artifacts.store import Artifact
from tasks.baseline import noise
from tasks.baseline import reference as proof
from tasks.baseline.training_run import TrainingRun
from tasks.errors import CoverageError, EnvironmentFailure, ParityError
from tasks.forms import checkpoint_files, saver
from tasks.graphs import graph as graphs
from tasks.graphs import variables as graph_variables
from tasks.graphs.protos import MetaGraphDef
from tasks.isolate.hide import hide
from tasks.quality import evaluate as evaluations
from tasks.quality.probe_sensitivity import probe_worth
from tasks.records.checkpoint import PinnedCheckpoint, RestoreReport
from tasks.records.parity import Limits, Tolerance
from tasks.records.settings import LabelledData
from tasks.records.signature import GraphNames
from tasks.step import Facts, current, step
from tasks.tensors import tensor_file

VERSION = 6
_WORTH_SECONDS = 3.0  # a large model's probe is tried on its largest variables only
_MOST_ITEM_BYTES = 8
_NONE = LabelledData()
_HYPERPARAMETERS = "hyperparameters"
NOT_HIDDEN = (
    "restore_verify: the training run and the original checkpoint could not be hidden, because this system lets no "
    "process mount over them: it was not shown that the copy needs nothing of them"
)


def _facts(labelled: LabelledData, **_: object) -> Facts:
    try:
        return Facts({"labelled": hash_file(labelled.file) if labelled.file else None})
    except OSError as error:
        raise EnvironmentFailure.from_os(error, f"--evaluate {labelled.file}") from None


@step(version=VERSION, verifies=True, facts=_facts)
def restore_verify(
    checkpoint: Artifact, run: Artifact, tolerance: Tolerance, labelled: LabelledData = _NONE, *, out: Path
) -> None:
    """Restore, compare with the baseline, take one more training step in memory, and evaluate on labelled data."""
    pin = Pinned(checkpoint.path).record()
    with tempfile.TemporaryDirectory(dir=out, prefix="moved-") as moved, ExitStack() as held:
        paths = [entry.path for entry in checkpoint.manifest.files]
        pairs = [(checkpoint.path / path, Path(moved) / path) for path in paths]
        held.enter_context(current().store.hashes.brought(pairs))

        def compared(limits: Tolerance) -> RestoreReport:
            originals = [run.path, checkpoint.path]
            return isolate.call(verify, Path(moved), pin, run.path, originals, limits, labelled)

        report = noise.decided(compared, tolerance, Path(moved), pin, run.path)
    Restored(out).write(report)
    if not report.parity.passed:
        raise ParityError.of(report.parity)


def verify(
    moved: Path,
    pin: PinnedCheckpoint,
    run: Path,
    originals: list[Path],
    tolerance: Tolerance,
    labelled: LabelledData,
) -> RestoreReport:
    """In a child: restore, and make every check of a restored checkpoint.

    Where no noise was measured, floats may differ by rounding, and what that is of each output is in the report.
    """
    reference = proof.Reference.read(run, pin.step)
    limits = tolerance
    if not isinstance(limits, Limits):
        limits = Limits.measured_of(tolerance, noise.spread([reference.outputs]))
    trained = TrainingRun(run)
    batch = tensor_file.read_tensors(trained.batch_file) if trained.batch_file.exists() else None
    signatures = reference.names.signatures
    rows = evaluations.labelled(labelled.file, signatures, labelled.label) if labelled.file else None
    recorded = _hyperparameters(reference.meta)
    hidden = hide(originals)
    names, prefix = reference.names, moved / pin.prefix
    meta = saver.meta_graph(checkpoint_files.meta_file(prefix))
    _require_recorded(meta, names, recorded, pin)
    coverage = saver.coverage(meta, prefix, graph_variables.signature_targets(names))
    restored = {status.name for status in coverage.variables if status.status == "matched"}
    variables = [variable for variable in reference.baseline.variables if variable.name in restored]
    with saver.restored(moved, prefix, names, reference.session) as opened:
        constants = list(graphs.Graph(meta.graph_def).constants(_outputs(names), names.assets))
        parity = proof.judge(opened, moved, reference, variables, constants, limits)
        structure = proof.structure_rows(opened.form, meta.graph_def, signatures, reference, constants)
        parity = parity.model_copy(update={"rows": (*parity.rows, *structure)})
        if not hidden:
            parity = parity.model_copy(update={"notes": (*parity.notes, NOT_HIDDEN)})
        worth = evaluation = None
        if parity.passed:
            worth = probe_worth(
                opened,
                signatures,
                reference.probe,
                reference.outputs,
                seconds=_WORTH_SECONDS,
                values=[variable.value for variable in variables],
            )
        if parity.passed and rows is not None:
            inputs, labels, key = rows
            name = labelled.file.name if labelled.file else ""
            evaluation = evaluations.evaluate(opened, key, inputs, labels, labelled.batch, file=name)
        global_step = _global_step(opened.session, names, pin, restored)
        unsaved = [status.name for status in coverage.variables if status.status == "missing"]
        one_more = _one_more_step(opened.session, names, batch, unsaved, global_step) if parity.passed else "not tried"
    return RestoreReport(
        step=pin.step,
        coverage=coverage,
        parity=parity,
        hidden=hidden,
        hyperparameters=_settings(recorded),
        global_step=global_step,
        train_op=names.train_op,
        one_more_step=one_more,
        noise=limits.measured,
        worth=worth,
        evaluation=evaluation,
    )


def _hyperparameters(meta: MetaGraphDef) -> list[bytes]:
    """Return the entries of the collection of hyper-parameters, as they were written."""
    held = meta.collection_def
    return list(held[_HYPERPARAMETERS].bytes_list.value) if _HYPERPARAMETERS in held else []


def _require_recorded(meta: MetaGraphDef, names: GraphNames, recorded: list[bytes], pin: PinnedCheckpoint) -> None:
    """Check that the checkpoint's graph is the one that the training run recorded, as far as its outputs do not show it.

    Raises:
        CoverageError: a recorded train op, loss or global step is not in the graph, or hyper-parameters differ.
    """
    there = {node.name for node in meta.graph_def.node}
    remedy = "pin the checkpoint again (--refresh checkpoint), and find out who changed its graph."
    for what, name in (("train op", names.train_op), ("loss", names.loss), ("global step", names.global_step)):
        if name is not None and graphs.node_name(name) not in there:
            raise CoverageError(
                f"{pin.prefix}{checkpoint_files.META}",
                f"the {what} {name!r}, which the training run recorded",
                "none",
                remedy,
            )
    if (found := _hyperparameters(meta)) != recorded:
        expected, got = _difference(recorded, found)
        raise CoverageError(f"{pin.prefix}{checkpoint_files.META}: the hyper-parameters", expected, got, remedy)


def _difference(recorded: list[bytes], found: list[bytes]) -> tuple[str, str]:
    """Return the recorded and the found hyper-parameters that differ, in words."""
    sides = _settings(recorded), _settings(found)
    keys = [key for key in sorted(sides[0] | sides[1]) if sides[0].get(key, ...) != sides[1].get(key, ...)][:5]
    if not found or not keys:
        return f"{recorded!r}"[:300], f"{found!r}"[:300] if found else "none"
    expected, got = (", ".join(f"{key} {side[key]!r}" for key in keys if key in side) or "none" for side in sides)
    return expected, got


def _settings(encoded: list[bytes]) -> dict[str, Any]:
    """Merge the entries of the collection of hyper-parameters; another program's may hold anything."""
    settings: dict[str, Any] = {}
    for item in encoded:
        try:
            found = json.loads(item)
        except ValueError:
            continue
        settings |= found if isinstance(found, dict) else {}
    return settings


def _outputs(names: GraphNames) -> list[str]:
    return [spec.tensor for signature in names.signatures for spec in signature.outputs.values()]


def _global_step(session: Any, names: GraphNames, pin: PinnedCheckpoint, restored: set[str]) -> int | None:
    if names.global_step is None or graphs.node_name(names.global_step) not in restored:
        return None
    variable = graphs.node_name(names.global_step)
    found = int(session.run(graph_variables.read_tensors(session.graph, [variable])[variable]))
    if found != pin.step:
        raise CoverageError(
            f"{pin.prefix}: {names.global_step}", str(pin.step), str(found), "pin the step to which the weights belong."
        )
    return found


def _one_more_step(
    session: Any, names: GraphNames, batch: tensor_file.Tensors | None, unsaved: list[str], global_step: int | None
) -> str:
    """Take one more training step in memory; its changes end with the session."""
    if names.train_op is None:
        return "not tried: no train op"
    if batch is None:
        return "not tried: no batches"
    missing = sorted(set(unsaved) & graphs.Graph(session.graph.as_graph_def()).variables([names.train_op]))
    if missing:
        return f"not tried: {', '.join(missing[:3])} not in the checkpoint"
    if names.loss is None and global_step is None:
        return "not tried: neither loss nor global step to check"
    fetches = {"loss": names.loss} if names.loss else {}
    loss = session.run({"step": session.graph.get_operation_by_name(names.train_op)} | fetches, batch).get("loss", 0.0)
    problem = "" if abs(float(loss)) < float("inf") else f"a loss of {loss}"
    if global_step is not None:
        variable = graphs.node_name(str(names.global_step))
        after = int(session.run(graph_variables.read_tensors(session.graph, [variable])[variable]))
        problem = problem or ("" if after == global_step + 1 else f"global step {after} after {global_step}")
    if problem:
        remedy = "the checkpoint cannot be trained further; check what the train op reads."
        raise CoverageError("one more training step", "a finite loss and the next global step", problem, remedy)
    return "passed"
