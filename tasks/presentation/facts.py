"""The facts of a report page, as one record: the page itself reads no file."""

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
    """One file of an artifact: the artifact's step, the path in it, bytes, sha256 in hex."""

    step: str
    path: str
    size: int
    sha256: str


class ReportFacts(Record):
    """The facts of one run. Facts of steps that were not reached are None or empty, and the page says so.

    `created_at` is printed unchanged. `outcome` is a sentence of the caller, shown under the page's own verdict.
    `refusal` is the text of the error that ended the run; `against_model` is False where that error says nothing
    about the model (exit codes other than 3), so that a full disk is never reported as a refusal.
    `adopted` describes how a source model was read; the source model is then the baseline, instead of a live session.
    `training` holds the lines of `metrics.jsonl`. `sample_inputs` is signature key -> input -> one JSON value, as
    `samples.sample` makes it. `rest_url` and `grpc_address` are the server's addresses in the examples.
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
