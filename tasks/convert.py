"""convert: write a verified checkpoint as another form that a run makes on request, and prove it in a fresh process.

Follows restore-verify, beside freeze and export. Layout: one folder a form, named after it, with a checkpoint's files and its
`.meta`, or with `model.keras`; `parity.json`. Where a form cannot be made, that holds one row that says why.
"""

from __future__ import annotations

from pathlib import Path

from tasks import isolate
from tasks.artifacts.store import Artifact
from tasks.checkpoint import pinned
from tasks.errors import EnvironmentFailure, ParityError
from tasks.forms import graph as graphs
from tasks.forms import keras, parity, proof, saver
from tasks.forms import predictor as predictors
from tasks.forms.detect import detect
from tasks.records.adoption import Form, ModelFiles
from tasks.records.parity import ParityReport, ParityRow, Tolerance
from tasks.records.pinned import Pinned
from tasks.records.settings import Target
from tasks.restore_verify import PARITY, require_verified
from tasks.step import step

VERSION = 1
ARCHIVE = "model.keras"


@step(version=VERSION, verifies=True)
def convert(
    checkpoint: Artifact,
    verified: Artifact,
    run: Artifact,
    targets: tuple[Target, ...],
    files: ModelFiles | None,
    tolerance: Tolerance,
    out: Path,
) -> None:
    """Write the forms `targets`; `files` is where the original is, which Keras alone can write again."""
    require_verified(verified, checkpoint, run)
    reports = [_one(checkpoint, run, to, files, tolerance, out / to.value) for to in targets]
    rows = tuple(row for report in reports for row in report.rows)
    report = ParityReport(baseline=reports[0].baseline, rows=rows)
    (out / PARITY).write_text(report.model_dump_json(indent=1))
    if report.failures:
        raise ParityError.of(report)


def _one(
    checkpoint: Artifact, run: Artifact, to: Target, files: ModelFiles | None, tolerance: Tolerance, folder: Path
) -> ParityReport:
    pin = pinned(checkpoint)
    if to is Target.KERAS:
        if not_made := _not_keras(run, files):
            return ParityReport(rows=(ParityRow.not_made(to.value, not_made),))
        assert files is not None
        folder.mkdir()
        isolate.call(keras.write, detect(files.path, files.step).path, folder / ARCHIVE)
        return isolate.call(prove_archive, folder / ARCHIVE, run.path, pin.step, tolerance)
    folder.mkdir()
    version = "V1" if to is Target.SAVER_V1 else "V2"
    not_made = isolate.call(saver.write, checkpoint.path, checkpoint.path / pin.prefix, run.path, version, folder)
    if not_made:
        folder.rmdir()
        return ParityReport(rows=(ParityRow.not_made(to.value, not_made),))
    return isolate.call(prove, to, folder, pin, run.path, tolerance)


def prove(to: Target, folder: Path, pin: Pinned, run: Path, tolerance: Tolerance) -> ParityReport:
    """In a child: a written checkpoint restored, and compared with the baseline."""
    reference = proof.Reference.read(run, pin.step)
    prefix = folder / pin.prefix
    meta = saver.meta_graph(prefix.with_name(prefix.name + saver.META))
    outputs = [spec.tensor for signature in reference.names.signatures for spec in signature.outputs.values()]
    with saver.restored(folder, prefix, reference.names, reference.session) as opened:
        opened.form = to.value
        constants = list(graphs.constants(meta.graph_def, outputs, reference.names.assets))
        return proof.judge(opened, folder, reference, reference.needed, constants, tolerance)


def prove_archive(archive: Path, run: Path, step: int, tolerance: Tolerance) -> ParityReport:
    """In a child: a written Keras archive loaded, and compared with the baseline."""
    reference = proof.Reference.read(run, step)
    here = predictors.environment(reference.session)
    with keras.loaded(archive, reference.session) as opened:
        opened.form = Target.KERAS.value
        values = [variable.value for variable in reference.needed]
        rows = parity.values(opened.form, values, opened.values())
        test = parity.test_for(reference.baseline.environment, here)
        asked = reference.names.signatures
        rows += parity.outputs(opened, asked, reference.probe, reference.outputs, test, tolerance)
    return ParityReport(baseline=reference.baseline.form, rows=tuple(rows))


def _not_keras(run: Artifact, files: ModelFiles | None) -> str:
    """Why no archive can be written, or ""."""
    brought = proof.adopted(run.path)
    if brought is None or brought.form not in (Form.KERAS, Form.HDF5) or files is None:
        what = brought.form.value if brought else "a model trained here"
        return f"not made: Keras writes what it has read, and this is {what}"
    if run.manifest.params.get("code") is not None:
        return "not made: Keras writes what it has read, and this file's weights are in a model of Python code"
    if not files.path.exists():
        raise EnvironmentFailure(str(files.path), "the Keras model that was adopted", "nothing", "put it back.")
    return ""
