"""freeze: fold a verified checkpoint's variables into one GraphDef, and prove it in a fresh process.

Follows restore-verify, in parallel with export. Layout: see `tasks/forms/frozen_graph.py`, and `parity.json`. If a frozen
graph cannot be made, `parity.json` has one row with the reason, and there are no other files.
"""

from __future__ import annotations

from pathlib import Path

from tasks import isolate
from tasks.artifact_views import Frozen, Pinned, require_verified
from tasks.artifacts.store import Artifact
from tasks.baseline import noise, reference
from tasks.baseline.training_run import TrainingRun
from tasks.errors import ParityError
from tasks.forms import frozen_graph
from tasks.records.forms import CandidateForm, Form
from tasks.records.parity import ParityReport, ParityRow, Tolerance
from tasks.step import current, step

VERSION = 4


@step(version=VERSION, verifies=True)
def freeze(checkpoint: Artifact, verified: Artifact, run: Artifact, tolerance: Tolerance, out: Path) -> None:
    """Write the frozen graph from the checkpoint's graph and values, which `verified` has proven."""
    require_verified(verified, checkpoint, run)
    pin = Pinned(checkpoint.path).record()
    trained = TrainingRun(run.path)
    names = trained.names()
    not_made = isolate.call(
        frozen_graph.write, checkpoint.path, checkpoint.path / pin.prefix, names, out, current().store.hashes
    )
    if not_made:
        report = ParityReport(rows=(ParityRow.not_made(CandidateForm.FROZEN_GRAPH, not_made),))
    else:

        def prove(limits: Tolerance) -> ParityReport:
            return isolate.call(reference.prove, CandidateForm.FROZEN_GRAPH, out, run.path, pin.step, limits)

        report = noise.decided(prove, tolerance, checkpoint.path, pin, run.path)
        if (adopted := trained.adopted()) and adopted.form is Form.GRAPH_DEF and not names.needed:
            note = "frozen_graph: already frozen: written again, with the same constants"
            report = report.model_copy(update={"notes": (*report.notes, note)})
    Frozen(out).write_parity(report)
    if not_made is None and not report.passed:
        raise ParityError.of(report)
