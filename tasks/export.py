"""export: write a verified checkpoint as a SavedModel for serving, and prove it by both loaders in fresh processes.

Follows restore-verify, beside freeze; the smoke test and promote take what it makes. Layout: `saved_model/` (see
`tasks/forms/saved_model.py`), `parity.json`.
"""

from __future__ import annotations

from pathlib import Path

from tasks import isolate
from tasks.artifacts.store import Artifact
from tasks.baseline import reference
from tasks.checkpoint import pinned
from tasks.errors import ParityError
from tasks.forms import saved_model
from tasks.records.adoption import Form
from tasks.records.parity import ParityReport, Tolerance
from tasks.restore_verify import PARITY, require_verified
from tasks.step import step

VERSION = 3
MODEL = "saved_model"
FORMS = ("saved_model (v1 loader)", "saved_model (v2 loader)")


@step(version=VERSION, verifies=True)
def export(checkpoint: Artifact, verified: Artifact, run: Artifact, tolerance: Tolerance, out: Path) -> None:
    """Write the SavedModel from graph and prefix; `verified` is the proof that both are good."""
    require_verified(verified, checkpoint, run)
    pin = pinned(checkpoint)
    names = reference.names_of(run.path)
    folder = out / MODEL
    folder.mkdir()
    isolate.call(
        saved_model.write, checkpoint.path, checkpoint.path / pin.prefix, names, run.path / "probe.tensors", folder
    )
    reports = [isolate.call(reference.prove, form, folder, run.path, pin.step, tolerance) for form in FORMS]
    rows = [row for one in reports for row in one.rows]
    notes: tuple[str, ...] = ()
    if (brought := reference.adopted(run.path)) and brought.form is Form.SAVED_MODEL:
        notes = ("saved_model: was one already: written again, from its graph and its values",)
    report = ParityReport(baseline=reports[0].baseline, rows=tuple(rows), notes=notes)
    (out / PARITY).write_text(report.model_dump_json(indent=1))
    if not report.passed:
        raise ParityError.of(report)
