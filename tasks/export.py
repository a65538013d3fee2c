"""export: write a verified checkpoint as a SavedModel for serving, and prove it by both loaders in fresh processes.

Follows restore-verify, in parallel with freeze; the smoke test and promote use its artifact. Layout: `saved_model/` (see
`tasks/forms/saved_model.py`), `parity.json`.
"""

from __future__ import annotations

from pathlib import Path

from tasks import isolate
from tasks.artifact_views import Exported, Pinned, require_verified
from tasks.artifacts.store import Artifact
from tasks.baseline import noise, reference
from tasks.baseline.training_run import TrainingRun
from tasks.errors import ParityError
from tasks.forms import saved_model
from tasks.records.forms import CandidateForm, Form
from tasks.records.parity import ParityReport, Tolerance
from tasks.step import current, step

VERSION = 6
_LOADERS = (CandidateForm.SAVED_MODEL_V1, CandidateForm.SAVED_MODEL_V2)


@step(version=VERSION, verifies=True)
def export(checkpoint: Artifact, verified: Artifact, run: Artifact, tolerance: Tolerance, out: Path) -> None:
    """Write the SavedModel from the checkpoint's graph and values, which `verified` has proven."""
    require_verified(verified, checkpoint, run)
    pin = Pinned(checkpoint.path).record()
    trained, exported = TrainingRun(run.path), Exported(out)
    names, folder = trained.names(), exported.model
    folder.mkdir()
    hashes = current().store.hashes
    isolate.call(
        saved_model.write, checkpoint.path, checkpoint.path / pin.prefix, names, trained.probe_file, folder, hashes
    )

    def prove(limits: Tolerance) -> ParityReport:
        reports = [isolate.call(reference.prove, form, folder, run.path, pin.step, limits) for form in _LOADERS]
        return ParityReport(baseline=reports[0].baseline, rows=tuple(row for one in reports for row in one.rows))

    report = noise.decided(prove, tolerance, checkpoint.path, pin, run.path)
    if (adopted := trained.adopted()) and adopted.form is Form.SAVED_MODEL:
        note = "saved_model: already a SavedModel: written again, from its graph and its values"
        report = report.model_copy(update={"notes": (*report.notes, note)})
    exported.write_parity(report)
    if not report.passed:
        raise ParityError.of(report)
