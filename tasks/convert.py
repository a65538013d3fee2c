"""convert: write a verified checkpoint as another form that a run makes on request, and prove it in a fresh process.

Follows restore-verify, beside freeze and export. Layout: `model/` with the checkpoint's files and its `.meta`, or with
`model.keras`; `parity.json`. Where the form cannot be made, `parity.json` holds one row that says why.
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
MODEL = "model"
ARCHIVE = "model.keras"


@step(version=VERSION, verifies=True)
def convert(
    checkpoint: Artifact,
    verified: Artifact,
    run: Artifact,
    to: Target,
    files: ModelFiles | None,
    tolerance: Tolerance,
    out: Path,
) -> None:
    """Write the form `to`; `files` is where the original is, which Keras alone can write again."""
    require_verified(verified, checkpoint, run)
    pin = pinned(checkpoint)
    folder = out / MODEL
    folder.mkdir()
    if to is Target.KERAS:
        not_made = _not_keras(run, files)
        if not not_made and files is not None:
            isolate.call(keras.write, detect(files.path, files.step).path, folder / ARCHIVE)
            report = isolate.call(prove_archive, folder / ARCHIVE, run.path, pin.step, tolerance)
    else:
        version = "V1" if to is Target.SAVER_V1 else "V2"
        not_made = isolate.call(saver.write, checkpoint.path, checkpoint.path / pin.prefix, run.path, version, folder)
        if not not_made:
            report = isolate.call(prove, to, folder, pin, run.path, tolerance)
    if not_made:
        report = ParityReport(rows=(ParityRow.not_made(to.value, not_made),))
    (out / PARITY).write_text(report.model_dump_json(indent=1))
    if not not_made and not report.passed:
        raise ParityError.of(report)


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
    if not files.path.exists():
        raise EnvironmentFailure(str(files.path), "the Keras model that was adopted", "nothing", "put it back.")
    return ""
