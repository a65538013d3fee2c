"""restore-verify: prove a pinned checkpoint in a fresh process, from a moved copy, with the original out of reach.

Follows checkpoint; freeze and export need it. Layout: `restore.json` (RestoreReport), `parity.json` (ParityReport).
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from tasks import isolate
from tasks.artifacts.manifest import hash_file, link_file
from tasks.artifacts.store import Artifact
from tasks.checkpoint import pinned
from tasks.errors import CoverageError, EnvironmentFailure, ParityError, UsageError
from tasks.forms import evaluation as evaluations
from tasks.forms import graph as graphs
from tasks.forms import proof, saver, tensors
from tasks.forms.probe_worth import probe_worth
from tasks.isolate.hide import hide
from tasks.records.parity import Tolerance
from tasks.records.pinned import Pinned, RestoreReport
from tasks.records.settings import LabelledData
from tasks.records.signature import GraphNames
from tasks.step import Facts, step

VERSION = 1
REPORT, PARITY = "restore.json", "parity.json"
_WORTH_SECONDS = 20.0  # a large model's probe is judged by its largest variables
_NONE = LabelledData()


def _facts(labelled: LabelledData, **_: object) -> Facts:
    try:
        return Facts({"labelled": hash_file(labelled.file) if labelled.file else None})
    except OSError as error:
        raise EnvironmentFailure.from_os(error, f"--evaluate {labelled.file}") from None


@step(version=VERSION, verifies=True, facts=_facts)
def restore_verify(
    checkpoint: Artifact, run: Artifact, tolerance: Tolerance, labelled: LabelledData = _NONE, *, out: Path
) -> None:
    """Restore, compare with the live session, take one more training step and throw it away; measure on labelled data."""
    with tempfile.TemporaryDirectory(dir=out, prefix="moved-") as moved:
        for entry in checkpoint.manifest.files:
            link_file(checkpoint.path / entry.path, Path(moved) / entry.path)
        originals = [run.path, checkpoint.path]
        report = isolate.call(verify, Path(moved), pinned(checkpoint), run.path, originals, tolerance, labelled)
    (out / REPORT).write_text(report.model_dump_json(indent=1))
    (out / PARITY).write_text(report.parity.model_dump_json(indent=1))
    if not report.parity.passed:
        raise ParityError.of(report.parity)


def verify(
    moved: Path, pin: Pinned, run: Path, originals: list[Path], tolerance: Tolerance, labelled: LabelledData
) -> RestoreReport:
    """In a child: everything that restoring must show."""
    reference = proof.Reference.read(run, pin.step)
    batch_file = run / "batch.tensors"
    batch = tensors.read_tensors(batch_file) if batch_file.exists() else None
    signatures = reference.names.signatures
    rows = evaluations.labelled(labelled.file, signatures, labelled.label) if labelled.file else None
    hidden = hide(originals)
    names, prefix = reference.names, moved / pin.prefix
    meta = saver.meta_graph(prefix.with_name(prefix.name + saver.META))
    coverage = saver.coverage(meta, prefix, graphs.targets(names))
    restored = {status.name for status in coverage.variables if status.status == "matched"}
    variables = [variable for variable in reference.baseline.variables if variable.name in restored]
    with saver.restored(moved, prefix, names, reference.session) as opened:
        constants = list(graphs.constants(meta.graph_def, _outputs(names), names.assets))
        parity = proof.judge(opened, moved, reference, variables, constants, tolerance)
        worth = evaluation = None
        if parity.passed:
            worth = probe_worth(opened, signatures, reference.probe, reference.outputs, seconds=_WORTH_SECONDS)
        if parity.passed and rows is not None:
            inputs, labels, key = rows
            name = labelled.file.name if labelled.file else ""
            evaluation = evaluations.evaluate(opened, key, inputs, labels, labelled.batch, file=name)
        global_step = _global_step(opened.session, names, pin, restored)
        unsaved = [status.name for status in coverage.variables if status.status == "missing"]
        one_more = _one_more_step(opened.session, names, batch, unsaved, global_step) if parity.passed else "not tried"
    encoded = (
        meta.collection_def["hyperparameters"].bytes_list.value if "hyperparameters" in meta.collection_def else []
    )
    return RestoreReport(
        step=pin.step,
        coverage=coverage,
        parity=parity,
        hidden=hidden,
        hyperparameters={key: value for item in encoded for key, value in _settings(item).items()},
        global_step=global_step,
        train_op=names.train_op,
        one_more_step=one_more,
        worth=worth,
        evaluation=evaluation,
    )


def require_verified(verified: Artifact, checkpoint: Artifact, run: Artifact) -> None:
    """Raise UsageError unless `verified` is the proof of exactly this checkpoint and this run."""
    about = verified.manifest.inputs
    these = {"checkpoint": checkpoint.digest, "run": run.digest}
    if verified.step != "restore_verify" or about != these:
        raise UsageError("verified", f"a restore-verify of {these}", f"{verified.step} of {about}", "verify this one.")


def _settings(encoded: bytes) -> dict[str, Any]:
    """One entry of the hyper-parameters' collection; another program's may hold anything."""
    try:
        found = json.loads(encoded)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _outputs(names: GraphNames) -> list[str]:
    return [spec.tensor for signature in names.signatures for spec in signature.outputs.values()]


def _global_step(session: Any, names: GraphNames, pin: Pinned, restored: set[str]) -> int | None:
    if names.global_step is None or graphs.node_name(names.global_step) not in restored:
        return None
    variable = graphs.node_name(names.global_step)
    found = int(session.run(graphs.readers(session.graph, [variable])[variable]))
    if found != pin.step:
        raise CoverageError(
            f"{pin.prefix}: {names.global_step}", str(pin.step), str(found), "pin the step that the weights are of."
        )
    return found


def _one_more_step(
    session: Any, names: GraphNames, batch: tensors.Tensors | None, unsaved: list[str], global_step: int | None
) -> str:
    """Take one more training step in memory; what it changes is gone with the session."""
    if names.train_op is None:
        return "not tried: no train op"
    if batch is None:
        return "not tried: no batches"
    missing = sorted(set(unsaved) & graphs.variables_needed(session.graph.as_graph_def(), [names.train_op]))
    if missing:
        return f"not tried: {', '.join(missing[:3])} not in the checkpoint"
    if names.loss is None and global_step is None:
        return "not tried: neither loss nor global step to look at"
    fetches = {"loss": names.loss} if names.loss else {}
    loss = session.run({"step": session.graph.get_operation_by_name(names.train_op)} | fetches, batch).get("loss", 0.0)
    problem = "" if abs(float(loss)) < float("inf") else f"a loss of {loss}"
    if global_step is not None:
        variable = graphs.node_name(str(names.global_step))
        after = int(session.run(graphs.readers(session.graph, [variable])[variable]))
        problem = problem or ("" if after == global_step + 1 else f"global step {after} after {global_step}")
    if problem:
        remedy = "the checkpoint cannot be trained on; look at what the train op reads."
        raise CoverageError("one more training step", "a finite loss and the next global step", problem, remedy)
    return "passed"
