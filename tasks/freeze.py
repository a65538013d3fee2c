"""freeze: fold a verified checkpoint's variables into one GraphDef, and prove it in a fresh process.

Follows restore-verify, beside export. Layout: see `tasks/forms/frozen_graph.py`, and `parity.json`. Where a frozen graph
cannot be made, `parity.json` holds one row that says why, and nothing else is here.
"""

from __future__ import annotations

from pathlib import Path

from tasks import isolate
from tasks.artifacts.store import Artifact
from tasks.baseline import reference
from tasks.checkpoint import pinned
from tasks.errors import ParityError
from tasks.forms import frozen_graph
from tasks.records.adoption import Form
from tasks.records.parity import ParityReport, ParityRow, Tolerance
from tasks.restore_verify import PARITY, require_verified
from tasks.step import step

VERSION = 2
FORM = "frozen_graph"


@step(version=VERSION, verifies=True)
def freeze(checkpoint: Artifact, verified: Artifact, run: Artifact, tolerance: Tolerance, out: Path) -> None:
    """Write `frozen_graph.pb` from graph and prefix; `verified` is the proof that both are good."""
    require_verified(verified, checkpoint, run)
    pin = pinned(checkpoint)
    names = reference.names_of(run.path)
    not_made = isolate.call(frozen_graph.write, checkpoint.path, checkpoint.path / pin.prefix, names, out)
    if not_made:
        report = ParityReport(rows=(ParityRow.not_made(FORM, not_made),))
    else:
        report = isolate.call(reference.prove, FORM, out, run.path, pin.step, tolerance)
        if (brought := reference.adopted(run.path)) and brought.form is Form.GRAPH_DEF and not names.needed:
            note = "frozen_graph: already frozen: written again, with the same constants"
            report = report.model_copy(update={"notes": (note,)})
    (out / PARITY).write_text(report.model_dump_json(indent=1))
    if not_made == "" and not report.passed:
        raise ParityError.of(report)
