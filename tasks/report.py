"""report: one page and one JSON document about a run, however it ended.

The last step; it always runs, for a refused model too. Layout, outside the store: `<reports>/<run_id>/report.html`,
`run.json` (RunSummary), and `server.log`, `server-1.log` of servers whose test gave no verdict, which the store does
not keep.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tasks.artifact_views import Compared, Exported, Frozen, Pinned, Rehearsed, Restored, Smoked, server_log
from tasks.artifacts.store import Artifact
from tasks.baseline.training_run import TrainingRun
from tasks.errors import EnvironmentFailure, ExitCode, ParityError, PipelineError, Refusal
from tasks.forms import checkpoint_files
from tasks.presentation.facts import FileFact, ReportFacts
from tasks.presentation.samples import sample
from tasks.records.checkpoint import RestoreReport
from tasks.records.forms import CandidateForm
from tasks.records.parity import Limits, ParityReport, ParityRow, Tolerance
from tasks.records.rehearsal import Rehearsal
from tasks.records.run import ParitySummary, QualitySummary, RunSummary, SmokeSummary, StepState
from tasks.records.serving import RuntimeIdentity, ServerVerdict, SmokeReport
from tasks.records.signature import GraphNames
from tasks.step import Run, action
from tasks.tensors import tensor_file
from tasks.verify import reproduction as reproductions

_CHAIN = ("restore_verify", "freeze", "export", "convert", "smoke_test")


def require_writable(folder: Path, what: str) -> None:
    """Raise EnvironmentFailure if nothing can be written there: to be asked before a run, whose page follows promotion."""
    try:
        if not folder.exists():
            folder.mkdir(parents=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise EnvironmentFailure.from_os(error, f"{what} {folder}") from error


@action
def report(run: Run, name: str, folder: Path, error: BaseException | None) -> tuple[Path, StepState]:
    """Write the page and return its path. `error` is the error that ended the run, if one did.

    Raises:
        EnvironmentFailure: `folder` cannot be written.
    """
    from tasks.presentation.page import render

    page = folder.absolute() / run.run_id / "report.html"
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(render(_facts(run, name, error)), encoding="utf-8")
        for number, log in enumerate(_logs(run, error)):
            (page.parent / server_log(number)).write_text(log, encoding="utf-8")
    except OSError as failure:
        raise EnvironmentFailure.from_os(failure, f"report {page}") from failure
    return page, StepState.BUILT


def summary(run: Run, name: str, page: Path | None, script: Path | None = None) -> RunSummary:
    """Return the document that `tfship run --json` prints."""
    smokes, restored = _smokes(run.artifacts), _restored(run.artifacts)
    return RunSummary(
        run_id=run.run_id,
        name=name,
        steps=tuple(run.outcomes),
        parity=tuple(ParitySummary.of(row) for row in parity_rows(run.artifacts)),
        smoke=SmokeSummary.of(min(smokes, key=lambda smoke: smoke.passed)) if smokes else None,
        servers=servers(run),
        rehearsal=_rehearsal(run.artifacts),
        reproduction=str(script) if script else None,
        promotion=run.promotion,
        report=str(page) if page else None,
        adopted=TrainingRun(run.artifacts["adopt"].path).adopted() if "adopt" in run.artifacts else None,
        quality=QualitySummary(evaluation=restored.evaluation, probe=restored.worth) if restored else None,
        notes=(*_notes(run.artifacts), *_servers_notes(run.artifacts), *_assisted(run)),
    )


def reproduction(run: Run, error: BaseException | None, folder: Path, tolerance: Tolerance) -> Path | None:
    """Write a folder that repeats a form's first difference without this project, and return its script.

    None where the run was not refused for an answer or a value. See `verify/reproduction.py`.

    Raises:
        EnvironmentFailure: it cannot be written.
    """
    first = run.artifacts.get("train") or run.artifacts.get("adopt")
    if not isinstance(error, ParityError) or first is None or "checkpoint" not in run.artifacts:
        return None
    if "restore_verify" in run.artifacts:
        tolerance = Restored(run.artifacts["restore_verify"].path).limits(tolerance)
    if error.report.noise:
        tolerance = Limits.measured_of(tolerance, error.report.noise)
    trained, pin = TrainingRun(first.path), Pinned(run.artifacts["checkpoint"].path).record()
    pinned, names, baseline = run.artifacts["checkpoint"].path, trained.names(), trained.baseline(pin.step)
    keys = {one.key: one.key for one in baseline.variables} | {one.name: one.key for one in baseline.variables}
    probe = tensor_file.read_tensors(trained.probe_file)
    for row in error.report.failures:
        source = reproductions.source_of_run(
            trained.graph_file, trained.prefix(pin.step), names, row.signature, trained.assets, error.report.baseline
        )
        source = dataclasses.replace(source, keys=keys)
        candidate = _candidate(run.artifacts, row, source, pinned / pin.prefix)
        rows = tensor_file.select(probe, row.signature)
        try:
            script = candidate and reproductions.write(folder, source, candidate, row, rows, tolerance)
        except OSError as failure:
            raise EnvironmentFailure.from_os(failure, f"the reproduction in {folder}") from failure
        if script:
            return script
    return None


def _candidate(
    made: Mapping[str, Artifact], row: ParityRow, source: reproductions.Side, prefix: Path
) -> reproductions.Side | None:
    """Return the form that a row is about, as it lies in the store."""
    form = CandidateForm(row.form) if row.form in tuple(CandidateForm) else None
    side = partial(dataclasses.replace, source, name=row.candidate)
    if form is CandidateForm.CHECKPOINT:
        return side(path=prefix, graph=checkpoint_files.meta_file(prefix))
    if form is CandidateForm.FROZEN_GRAPH and "freeze" in made:
        return side(kind="frozen", path=Frozen(made["freeze"].path).graph, graph=None)
    if form is not None and "export" in made:
        kind = "served" if form.startswith("served") else "saved_model"
        return side(kind=kind, path=Exported(made["export"].path).model, graph=None)
    return None


def _assisted(run: Run) -> tuple[str, ...]:
    note = f"{run.cluster} assisted the chief, which keeps the model"
    return tuple(note for outcome in run.outcomes if outcome.state is StepState.ASSISTED)


def keep(found: RunSummary) -> None:
    """Write `run.json` next to the page.

    Raises:
        EnvironmentFailure: the folder cannot be written.
    """
    assert found.report
    place = Path(found.report).with_name("run.json")
    scratch = place.with_name("run.json.new")
    try:
        scratch.write_text(found.model_dump_json(indent=1))
        os.replace(scratch, place)
    except OSError as failure:
        raise EnvironmentFailure.from_os(failure, f"report {place}") from failure


def parity_rows(artifacts: Mapping[str, Artifact]) -> list[ParityRow]:
    """Return every comparison of the run's steps in the order of the pipeline, those of refused steps too."""
    return [row for report in _reports(artifacts) for row in report.rows]


def _reports(artifacts: Mapping[str, Artifact]) -> list[ParityReport]:
    reports = []
    for step in _CHAIN:
        for artifact in _of(artifacts, step):
            if report := Compared(artifact.path).parity():
                reports.append(_named(report, artifact) if len(_of(artifacts, step)) > 1 else report)
    return reports


def _of(artifacts: Mapping[str, Artifact], step: str) -> list[Artifact]:
    """Return the artifacts of every call of a step."""
    return [artifact for name, artifact in artifacts.items() if name.partition(" ")[0] == step]


def _named(report: ParityReport, smoked: Artifact) -> ParityReport:
    """Return the report of one server among several, with the server in each candidate's name."""
    server = _identity(smoked).called
    rows = [row.model_copy(update={"candidate": f"{row.candidate}, {server}"}) for row in report.rows]
    return report.model_copy(update={"rows": tuple(rows)})


def _identity(smoked: Artifact) -> RuntimeIdentity:
    return RuntimeIdentity.model_validate(smoked.manifest.params["facts"]["runtime"])


def servers(run: Run) -> tuple[ServerVerdict, ...]:
    """Return the verdict of each server, or why it gave none."""
    found = [
        ServerVerdict(server=error.server or error.where, verdict="failed", reason=str(error).splitlines()[0])
        for step, error in run.failures
        if step == "smoke_test"
    ]
    for artifact in _of(run.artifacts, "smoke_test"):
        identity, refusal = _identity(artifact), artifact.refusal()
        pass_ = "passed (stand-in)" if identity.stand_in else "passed"
        reason = str(refusal).splitlines()[0] if refusal else ""
        found.append(ServerVerdict(server=identity.called, verdict="refused" if refusal else pass_, reason=reason))
    return tuple(sorted(found, key=lambda one: one.server))


def _logs(run: Run, error: BaseException | None) -> list[str]:
    """Return the logs of servers whose test gave no verdict; those of verdicts are in the store."""
    ended = [failure for _, failure in run.failures]
    ended += [error] if isinstance(error, PipelineError) and not any(error is one for one in ended) else []
    return [one.log for one in ended if not isinstance(one, Refusal) and one.log]


def _servers_notes(artifacts: Mapping[str, Artifact]) -> tuple[str, ...]:
    """Return notes on settings that were not tried, and on warmup requests that a server's log does not mention."""
    found = []
    for smoke in _smokes(artifacts):
        found += [f"{smoke.identity.called}: {note}" for note in smoke.notes]
        for one in smoke.rounds:
            if one.warmup.startswith("not proven"):
                found.append(f"{smoke.identity.called}, {one.setup}: its warmup requests are {one.warmup}")
    return tuple(found)


def _notes(artifacts: Mapping[str, Artifact]) -> tuple[str, ...]:
    """Return what was declared impure, the notes of the comparisons, and the reasons why forms were not made."""
    notes = [note for report in _reports(artifacts) for note in report.notes]
    not_made = [row for row in parity_rows(artifacts) if row.passed is None and row.output == "*"]
    return (*_declared(artifacts), *notes, *dict.fromkeys(f"{row.form}: {row.note}" for row in not_made))


def _declared(artifacts: Mapping[str, Artifact]) -> tuple[str, ...]:
    first = artifacts.get("train") or artifacts.get("adopt")
    trained = TrainingRun(first.path) if first else None
    impure = trained.names().impure if trained and trained.names_file.exists() else ()
    on = " and ".join(impure)
    note = f"declared impure ({on}): other answers to the same inputs are legitimate, and equal ones prove less"
    return (note,) * bool(impure)


def _smokes(artifacts: Mapping[str, Artifact]) -> tuple[SmokeReport, ...]:
    """Return the report of each server, by image."""
    found = [report for artifact in _of(artifacts, "smoke_test") if (report := Smoked(artifact.path).report())]
    return tuple(sorted(found, key=lambda smoke: smoke.identity.image or ""))


def _rehearsal(artifacts: Mapping[str, Artifact]) -> Rehearsal | None:
    return Rehearsed(artifacts["rehearse"].path).report() if "rehearse" in artifacts else None


def _restored(artifacts: Mapping[str, Artifact]) -> RestoreReport | None:
    return Restored(artifacts["restore_verify"].path).report() if "restore_verify" in artifacts else None


def _facts(run: Run, name: str, error: BaseException | None) -> ReportFacts:
    made = run.artifacts
    first = made.get("train") or made.get("adopt")
    trained = TrainingRun(first.path) if first else None
    names = trained.names() if trained and trained.names_file.exists() else None
    pinned = Pinned(made["checkpoint"].path) if "checkpoint" in made else None
    restored = _restored(made)
    return ReportFacts(
        run_id=run.run_id,
        name=name,
        created_at=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        tensorflow=importlib.metadata.version("tensorflow"),
        steps=tuple(run.outcomes),
        parity=tuple(parity_rows(made)),
        notes=_notes(made),
        smokes=_smokes(made),
        servers=servers(run),
        rehearsal=_rehearsal(made),
        promotion=run.promotion,
        pinned=pinned.record() if pinned and pinned.file.exists() else None,
        restore=restored,
        adopted=trained.adopted() if trained else None,
        training=_metrics(trained.metrics_file) if trained else (),
        files=tuple(
            FileFact(step=step, path=entry.path, size=entry.size, sha256=entry.sha256)
            for step, artifact in made.items()
            for entry in artifact.manifest.files
        ),
        signatures=names.signatures if names else (),
        assets=names.assets if names else (),
        table_init=names.table_init if names else None,
        hyperparameters=restored.hyperparameters if restored else {},
        refusal=None if error is None else str(error) if isinstance(error, PipelineError) else type(error).__name__,
        against_model=isinstance(error, PipelineError) and error.exit_code is ExitCode.GATE_REFUSED,
        sample_inputs=_samples(trained, names) if trained and names else {},
    )


def _metrics(path: Path) -> tuple[dict[str, Any], ...]:
    return tuple(json.loads(line) for line in path.read_text().splitlines()) if path.exists() else ()


def _samples(run: TrainingRun, names: GraphNames) -> dict[str, dict[str, Any]]:
    probe = tensor_file.read_tensors(run.probe_file)
    return {
        signature.key: sample(signature, tensor_file.select(probe, signature.key)) for signature in names.signatures
    }
