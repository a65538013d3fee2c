"""convert: write a verified checkpoint in the forms that are made on request, and prove each in a fresh process.

Follows restore-verify, in parallel with freeze and export. Layout: a folder for each form, named after it, with a Saver
checkpoint and its `.meta`, an object-based checkpoint, or `model.keras`; `parity.json`, which has one row with the
reason for a form that cannot be made.
"""

from __future__ import annotations

from pathlib import Path

from tasks import isolate
from tasks.artifact_views import Converted, Pinned, require_verified
from tasks.artifacts.store import Artifact
from tasks.baseline import noise
from tasks.baseline import reference as proof
from tasks.baseline.training_run import TrainingRun
from tasks.errors import EnvironmentFailure, ParityError
from tasks.forms import checkpoint_files, saver
from tasks.forms.detect import detect
from tasks.forms.keras import model
from tasks.graphs import graph as graphs
from tasks.parity import compare
from tasks.parity import predictor as predictors
from tasks.records.adoption import ModelFiles
from tasks.records.checkpoint import PinnedCheckpoint
from tasks.records.forms import Target
from tasks.records.parity import NotMade, ParityReport, ParityRow, Tolerance
from tasks.step import Facts, step
from tasks.training import rebuild
from tasks.training.rebuild import Origin
from tasks.user_code import source as sources
from tasks.user_code.source import ModelSource

VERSION = 2


def _facts(targets: tuple[Target, ...], code: ModelSource | None, **_: object) -> Facts:
    if code is None or not any(target.of_objects for target in targets):
        return Facts({})
    values, complete = sources.digests(code)
    return Facts({"source": values}, digestible=complete)


@step(version=VERSION, verifies=True, facts=_facts)
def convert(
    checkpoint: Artifact,
    verified: Artifact,
    run: Artifact,
    targets: tuple[Target, ...],
    files: ModelFiles | None,
    code: ModelSource | None,
    tolerance: Tolerance,
    out: Path,
) -> None:
    """Write the forms `targets`: those of live objects from what `code` builds, or from the Keras file in `files`."""
    require_verified(verified, checkpoint, run)
    origin = _origin(run, files, code) if any(target.of_objects for target in targets) else None
    pin = Pinned(checkpoint.path).record()
    reports = [_one(checkpoint, pin, run, to, origin, tolerance, Converted(out)) for to in targets]
    rows = tuple(row for report in reports for row in report.rows)
    report = ParityReport(
        baseline=reports[0].baseline,
        rows=rows,
        notes=tuple(note for report in reports for note in report.notes),
        noise=next((report.noise for report in reports if report.noise), ()),
    )
    Converted(out).write_parity(report)
    if report.failures:
        raise ParityError.of(report)


def _one(
    checkpoint: Artifact,
    pin: PinnedCheckpoint,
    run: Artifact,
    to: Target,
    origin: Origin | None,
    tolerance: Tolerance,
    out: Converted,
) -> ParityReport:
    if to.of_objects:
        if origin is None:
            return _not_made(to, _no_object(run, to))
        return _of_object(checkpoint, pin, run, to, origin, tolerance, out)
    folder = out.form(to)
    folder.mkdir()
    names = TrainingRun(run.path).names()
    version = "V1" if to is Target.SAVER_V1 else "V2"
    if reason := isolate.call(saver.write, checkpoint.path, checkpoint.path / pin.prefix, names, version, folder):
        folder.rmdir()
        return _not_made(to, reason)

    def compared(limits: Tolerance) -> ParityReport:
        return isolate.call(prove, to, folder, pin, run.path, limits)

    return noise.decided(compared, tolerance, checkpoint.path, pin, run.path)


def _of_object(
    checkpoint: Artifact,
    pin: PinnedCheckpoint,
    run: Artifact,
    to: Target,
    origin: Origin,
    tolerance: Tolerance,
    out: Converted,
) -> ParityReport:
    """Write a form from the live object: from the Keras file, if there is one, else from code and the checkpoint."""
    folder = out.form(to)
    folder.mkdir()
    reason: NotMade | None = None
    if to is Target.OBJECT_CHECKPOINT:
        write = rebuild.write_checkpoint
        reason = isolate.call(write, origin, checkpoint.path, pin.prefix, run.path, pin.step, folder)
    elif origin.archive is not None:
        isolate.call(model.write, origin.archive, out.archive)
    else:
        archive = out.archive
        reason = isolate.call(rebuild.write_archive, origin, checkpoint.path, pin.prefix, run.path, archive)
    if reason:
        folder.rmdir()
        return _not_made(to, reason)

    def compared(limits: Tolerance) -> ParityReport:
        if to is Target.KERAS:
            return isolate.call(prove_archive, out.archive, run.path, pin.step, limits)
        return isolate.call(rebuild.prove_checkpoint, to.value, origin, folder, run.path, pin.step, limits)

    return noise.decided(compared, tolerance, checkpoint.path, pin, run.path)


def _not_made(to: Target, reason: NotMade) -> ParityReport:
    return ParityReport(rows=(ParityRow.not_made(to.value, reason),))


def _no_object(run: Artifact, to: Target) -> NotMade:
    adopted = TrainingRun(run.path).adopted()
    what = adopted.form.value if adopted else "a checkpoint that was trained further in its own graph"
    writes = "Keras writes its own models" if to is Target.KERAS else "only live objects have one"
    return NotMade(f"{writes}, and this is {what}, without code of objects")


def prove(to: Target, folder: Path, pin: PinnedCheckpoint, run: Path, tolerance: Tolerance) -> ParityReport:
    """In a child: restore a written checkpoint, and compare it with the baseline."""
    reference = proof.Reference.read(run, pin.step)
    prefix = folder / pin.prefix
    meta = saver.meta_graph(checkpoint_files.meta_file(prefix))
    outputs = [spec.tensor for signature in reference.names.signatures for spec in signature.outputs.values()]
    with saver.restored(folder, prefix, reference.names, reference.session) as opened:
        opened.form = to.value
        constants = list(graphs.Graph(meta.graph_def).constants(outputs, reference.names.assets))
        report = proof.judge(opened, folder, reference, reference.needed, constants, tolerance)
    rows = proof.structure_rows(to.value, meta.graph_def, reference.names.signatures, reference, constants)
    return report.model_copy(update={"rows": (*report.rows, *rows)})


def prove_archive(archive: Path, run: Path, step: int, tolerance: Tolerance) -> ParityReport:
    """In a child: load a written Keras archive, and compare it with the baseline."""
    reference = proof.Reference.read(run, step)
    here = predictors.environment(reference.session)
    with model.loaded(archive, reference.session) as opened:
        opened.form = Target.KERAS.value
        values = [variable.value for variable in reference.needed]
        rows = compare.values(opened.form, values, opened.values())
        test = compare.test_for(reference.baseline.environment, here)
        signatures = reference.names.signatures
        rows += compare.outputs(opened, signatures, reference.probe, reference.outputs, test, tolerance)
        rows += proof.structure_not_compared(
            opened.form, reference, "Keras builds the model again from its configuration"
        )
    return ParityReport(baseline=reference.baseline.form, rows=tuple(rows))


def _origin(run: Artifact, files: ModelFiles | None, code: ModelSource | None) -> Origin | None:
    """Return the origin of the training run's live object, None if there was none: a graph, and no code of objects."""
    params, adopted = run.manifest.params, TrainingRun(run.path).adopted()
    if adopted is None:
        if params.get("source") is None:
            return None
        return Origin(code=code, hyperparameters=params["training"]["hyperparameters"])
    if params.get("code") is not None:
        return Origin(code=code)
    if not adopted.form.of_keras or files is None:
        return None
    if not files.path.exists():
        raise EnvironmentFailure(str(files.path), "the Keras model that was adopted", "nothing", "put it back.")
    return Origin(archive=detect(files.path, files.step).path)
