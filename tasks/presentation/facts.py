"""Everything the report page shows, as one record: the page itself reads no file and asks nobody."""

from __future__ import annotations

from typing import Any

from tasks.records.adoption import Adopted
from tasks.records.base import Record
from tasks.records.checkpoint import PinnedCheckpoint, RestoreReport
from tasks.records.parity import ParityRow
from tasks.records.rehearsal import Rehearsal
from tasks.records.run import Promotion, StepOutcome
from tasks.records.serving import ServerVerdict, SmokeReport
from tasks.records.signature import Asset, Signature


class FileFact(Record):
    """One file of the inventory: the artifact's step, the path in that artifact, bytes, sha256 in hex."""

    step: str
    path: str
    size: int
    sha256: str


class ReportFacts(Record):
    """What one run found. Whatever it did not come to is None or empty, and the page says so.

    `created_at` is printed as it is given. `outcome` is the caller's sentence, shown under the page's own verdict.
    `refusal` is the text of the error that ended the run; `against_model` is False where that error says nothing
    about the model (exit codes other than 3), so that a full disk is never called a refusal.
    `adopted` says how a brought model was read; its baseline is the original, and not a live session's.
    `training` holds the lines of `metrics.jsonl`. `sample_inputs` is signature key -> input -> one JSON value, as
    `samples.sample` makes it. `rest_url` and `grpc_address` are where the examples expect a server.
    """

    run_id: str
    name: str
    created_at: str
    outcome: str = ""
    tensorflow: str
    steps: tuple[StepOutcome, ...] = ()
    parity: tuple[ParityRow, ...] = ()
    notes: tuple[str, ...] = ()
    smokes: tuple[SmokeReport, ...] = ()
    servers: tuple[ServerVerdict, ...] = ()
    rehearsal: Rehearsal | None = None
    promotion: Promotion | None = None
    pinned: PinnedCheckpoint | None = None
    restore: RestoreReport | None = None
    adopted: Adopted | None = None
    training: tuple[dict[str, Any], ...] = ()
    files: tuple[FileFact, ...] = ()
    signatures: tuple[Signature, ...] = ()
    assets: tuple[Asset, ...] = ()
    table_init: str | None = None
    hyperparameters: dict[str, Any] = {}
    refusal: str | None = None
    against_model: bool = True
    rest_url: str = "http://127.0.0.1:8501"
    grpc_address: str = "127.0.0.1:8500"
    sample_inputs: dict[str, dict[str, Any]] = {}
