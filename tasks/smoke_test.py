"""smoke-test: serve the exported SavedModel in a real server, and compare its answers with the baseline.

Follows export and freeze; promote needs its blessing. Layout: `smoke.json` (SmokeReport), `parity.json`, and the server's log of
each round, `server.log`, `server-1.log`.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import ParamSpec

from tasks import isolate
from tasks.artifact_views import Exported, Frozen, Pinned, Smoked, model_at
from tasks.artifacts.hashes import hash_file
from tasks.artifacts.manifest import damaged
from tasks.artifacts.store import Artifact
from tasks.baseline import noise
from tasks.baseline.reference import Reference
from tasks.baseline.training_run import TrainingRun
from tasks.errors import (
    ChildFailed,
    DamagedError,
    ParityError,
    PipelineError,
    Refusal,
    SmokeRefused,
    UnsafeGraph,
    UnsupportedGraph,
    UsageError,
)
from tasks.forms import warmup_requests
from tasks.forms.warmup_requests import WarmupFound
from tasks.records.checkpoint import PinnedCheckpoint
from tasks.records.parity import Limits, ParityReport, Tolerance
from tasks.records.serving import Cause, Endpoint, Round, SmokeReport
from tasks.records.settings import FILE_FLAGS, Serving
from tasks.serving.checks import examine as server_checks
from tasks.serving.checks import gates, latency, lifecycle, preflight, production_config
from tasks.serving.checks.examine import Findings
from tasks.serving.checks.production_config import Entry
from tasks.serving.checks.setups import Setup, as_fetched, setups
from tasks.serving.clients.grpc import GrpcPredictor
from tasks.serving.runtimes import choose
from tasks.serving.runtimes.binary import BinaryRuntime
from tasks.serving.runtimes.protocol import ServingRuntime
from tasks.step import Facts, current, progress, step

P = ParamSpec("P")
VERSION = 8
_SERVED_AS, _SERVED_VERSION = "model", 1
_CAUSES: dict[type[PipelineError], Cause] = {  # of refusals before a server is started
    ParityError: Cause.VALUE_DIFFERS,
    UnsafeGraph: Cause.UNSAFE,
    UnsupportedGraph: Cause.UNKNOWN_OP,
    DamagedError: Cause.DAMAGED,
}


def _facts(serving: Serving, **_: object) -> Facts:
    if current().planner is not None:  # a plan pulls no image
        serving = serving.model_copy(update={"pull": "never"})
    try:
        runtime = choose.choose(serving, "key", progress=_pulled)
        identity = runtime.identity
    except PipelineError as error:
        if serving.image:  # there may be several, on one engine
            error.server = error.server or serving.image
        raise
    libraries = {str(target): _content(source) for source, target in serving.mounts.items()}
    named = {flag.partition("=")[0]: flag.partition("=")[2] for flag in serving.flags}
    own = {name: str(file) for name in FILE_FLAGS if (file := getattr(serving, name))}
    files = {name: Path(file) for name, file in (named | own).items() if file and Path(file).is_file()}
    for name in own.keys() - files.keys():
        raise UsageError(f"serving.{name}", "a file", own[name], "give the path of production's file.")
    return Facts(
        {
            "runtime": identity.model_dump(mode="json"),
            "program": hash_file(runtime.path) if isinstance(runtime, BinaryRuntime) else None,
            "flag files": {name: hash_file(file) for name, file in files.items()},
            "mounts": libraries,
        }
    )


def _content(place: Path) -> dict[str, str]:
    """Return the hashes of the mounted files, by their paths."""
    files = sorted(path for path in ([place] if place.is_file() else place.rglob("*")) if path.is_file())
    return {path.relative_to(place).as_posix(): hash_file(path) for path in files}


@step(version=VERSION, verifies=True, facts=_facts)
def smoke_test(
    exported: Artifact,
    checkpoint: Artifact,
    run: Artifact,
    frozen: Artifact,
    serving: Serving,
    tolerance: Tolerance,
    out: Path,
) -> None:
    """Check the files, load the model, send requests, compare; refuse the model for the first cause found.

    The frozen graph is not served: `freeze` has proven it, and its digest says that it is as it was then.

    Raises:
        ParityError, SmokeRefused, UnsafeGraph, UnsupportedGraph: the verdict against the model.
        DamagedError: a file has changed since it was committed.
        EnvironmentFailure, ChildFailed: the server could not be started, or failed for no fault of the model.
    """
    with _attributed(choose.choose(as_fetched(serving), current().run_id)):
        _test(exported, checkpoint, run, frozen, serving, tolerance, out)


def _test(
    exported: Artifact,
    checkpoint: Artifact,
    run: Artifact,
    frozen: Artifact,
    serving: Serving,
    tolerance: Tolerance,
    out: Path,
) -> None:
    # The values are loaded twice at least, for no load tells what the other does: by TensorFlow Serving's loader in a child
    # (`check_files`), whose variables can be read and compared byte for byte, and by the server, whose answers are what
    # clients get. A server that batches is started a second time without, so that a difference can be attributed.
    pin, limits = Pinned(checkpoint.path).record(), tolerance
    training_step = pin.step
    model, smoked = Exported(exported.path).model, Smoked(out)
    on_disk = _checked(out, exported, model, check_files, model, run.path, training_step)
    _require_proven(frozen)
    smoked.write_parity(on_disk)
    warmup = isolate.call(read_warmup, model, run.path)
    if warmup.problem:
        remedy = "write the warmup requests again (--refresh export)."
        where, cause = str(warmup_requests.FILE), Cause.WARMUP_REFUSED
        raise SmokeRefused(where, "records that a server runs", warmup.problem, remedy, cause=cause)
    entry = _entry(serving)
    # Judged last: where answers differ, they say more than the graph that gives them.
    structure = isolate.call(preflight.structure_on_disk, model, run.path, training_step)
    parity, rounds = on_disk, list[Round]()
    with tempfile.TemporaryDirectory(dir=out, prefix="served-") as base, ExitStack() as held:
        Path(base).chmod(0o755)
        held.enter_context(current().store.hashes.brought(model_at(exported, Path(base) / str(_SERVED_VERSION))))
        planned = list(setups(serving))
        for number, setup in enumerate(planned):
            runtime = choose.choose(setup.serving, current().run_id, model_config=entry.text if entry else None)
            try:
                with _attributed(runtime):
                    found, one = _round(runtime, setup, Path(base), run.path, pin, checkpoint.path, limits, warmup)
            finally:
                smoked.log(number).write_text(runtime.logs())
            rounds.append(one)
            if found.parity.noise:  # measured, and not again in the next round
                limits = Limits.measured_of(tolerance, found.parity.noise)
            last = structure.rows if len(rounds) == len(planned) else ()
            parity = parity.model_copy(
                update={
                    "rows": (*parity.rows, *setup.named(found.parity.rows), *last),
                    "notes": (*parity.notes, *found.parity.notes),
                    "noise": parity.noise or found.parity.noise,
                }
            )
            left = _not_sent(found, run.path)
            sound = parity.passed and all(check.passed for check in one.checks) and not left
            report = SmokeReport(
                identity=runtime.identity,
                version=_SERVED_VERSION,
                rounds=tuple(rounds),
                parity=parity,
                notes=(*(entry.notes if entry else ()), *_by_predict(run.path), *turned_away(rounds)),
                passed=sound and len(rounds) == len(planned),
            )
            smoked.write(report)
            if not sound:
                raise _refusal(report, runtime, left)


@contextmanager
def _attributed(runtime: ServingRuntime) -> Iterator[None]:
    """Add the cause, the server and its log to an error that ends the block: without a verdict, the step keeps no folder."""
    try:
        yield
    except PipelineError as error:
        if cause := next((cause for kind, cause in _CAUSES.items() if isinstance(error, kind)), None):
            error.cause = error.cause or cause
        error.server = error.server or runtime.identity.called
        if log := runtime.logs():
            error.log = error.log or log
        raise


def _checked(
    out: Path, artifact: Artifact, place: Path, check: Callable[P, ParityReport], *args: P.args, **kwargs: P.kwargs
) -> ParityReport:
    """Check an artifact in a child; a verdict counts only if the artifact is as it was committed."""
    try:
        report = isolate.call(check, *args, **kwargs)
    except Refusal:
        _require_undamaged(artifact)
        raise
    except DamagedError as error:
        if not Path(error.where).is_relative_to(place):
            raise
        _require_undamaged(artifact)
        cause = Cause.LOAD_ERROR
        raise SmokeRefused(error.where, error.expected, error.found, error.remedy, cause=cause) from None
    if not report.passed and report.failures:
        Smoked(out).write_parity(report)
        _require_undamaged(artifact)
        raise ParityError.of(report)
    return report


def check_files(model: Path, run: Path, training_step: int) -> ParityReport:
    """In a child: check signatures, then values and assets, then that the graph does nothing but compute."""
    if difference := preflight.signatures_on_disk(model, run):
        cause = Cause.SIGNATURE_DIFFERS
        remedy = "export again (--refresh export), and find out who changed the signatures."
        raise SmokeRefused(str(model), "the signatures of the live model", difference, remedy, cause=cause)
    on_disk = preflight.values_on_disk(model, run, training_step)
    if not on_disk.failures:
        preflight.require_self_contained(model)
    return on_disk


def _require_proven(frozen: Artifact) -> None:
    report = Frozen(frozen.path).parity()
    if report is None or report.failures:
        raise (
            ParityError.of(report) if report else UsageError("frozen", "a graph that was proven", "none", "freeze it.")
        )


def _require_undamaged(artifact: Artifact) -> None:
    """Raise DamagedError if the quick check has missed damage, which must not become a verdict against the model."""
    if current().store.find(artifact.step, artifact.key, full=True) is None:
        raise damaged(artifact.path, ["a file has changed since it was committed"])


def _pulled(done: int, total: int) -> None:
    progress({"unit": "MiB", "step": done >> 20, "of": max(total >> 20, 1)})


def _entry(serving: Serving) -> Entry | None:
    file = serving.model_config_file
    return isolate.call(production_config.entry_of, file, serving.model_name or "", _SERVED_AS) if file else None


def read_warmup(model: Path, run: Path) -> WarmupFound:
    """In a child: read the warmup requests of the SavedModel."""
    return warmup_requests.check(model, {one.key: one for one in TrainingRun(run).names().signatures})


def _round(
    runtime: ServingRuntime,
    setup: Setup,
    base: Path,
    run: Path,
    pin: PinnedCheckpoint,
    checkpoint: Path,
    tolerance: Tolerance,
    warmup: WarmupFound,
) -> tuple[Findings, Round]:
    serving = setup.serving
    memory: list[int] = []
    served = lifecycle.serving(runtime, _SERVED_AS, base, _SERVED_VERSION, serving.load_timeout, memory)
    with served as (endpoint, load_seconds):
        with lifecycle.examining(runtime):
            clients = latency.clients_for(serving.flags, runtime.cpus)

            def examined(limits: Tolerance) -> Findings:
                return isolate.call(examine, endpoint, run, pin.step, serving, limits, setup.largest, clients)

            found = noise.decided(examined, tolerance, checkpoint, pin, run)
        log = runtime.logs()
    one = Round(
        setup=setup.name or "as configured",
        load_seconds=round(load_seconds, 3),
        peak_memory=max(memory, default=None),
        checks=found.checks,
        latency=found.latency,
        warmup=warmup_word(log, warmup.records),
    )
    return found, one.model_copy(update={"checks": (*one.checks, *gates.of_round(one, serving.gates))})


def examine(
    endpoint: Endpoint,
    run: Path,
    training_step: int,
    serving: Serving,
    tolerance: Tolerance,
    largest: int | None,
    clients: int,
) -> Findings:
    """In a child: send every request and compare the answers."""
    reference = Reference.read(run, training_step)
    return server_checks.examine(endpoint, _SERVED_AS, _SERVED_VERSION, reference, serving, tolerance, largest, clients)


def _by_predict(run: Path) -> Iterator[str]:
    """Yield a note for each signature that no server answers by its own method."""
    for one in TrainingRun(run).names().signatures:
        if one.unanswerable:
            yield f"{one.key} is called by Predict, for no server answers it as {one.method.value}: {one.unanswerable}"


def turned_away(rounds: Sequence[Round]) -> Iterator[str]:
    """Yield a note for each measurement in which the server turned requests away for being full."""
    for one in rounds:
        for measured in one.latency:
            if measured.turned_away:
                yield (
                    f"{measured.protocol}, {one.setup}: the server was full and turned {measured.turned_away} attempts away "
                    f"while {measured.requests} requests were answered, {measured.concurrency} at once; they were sent again. "
                    "In production, raise --grpc_max_threads or the queues' max_enqueued_batches, or let clients retry."
                )


def _not_sent(found: Findings, run: Path) -> str:
    """Name what was not sent: every signature is called over gRPC, and bad requests are sent over gRPC and over REST."""
    over_grpc = [row for row in found.parity.rows if row.candidate == GrpcPredictor.form]
    # An output without elements was answered, too: of the same dtype and shape. `*` is a signature that was not.
    called = {row.signature for row in over_grpc if row.passed or (row.passed is None and row.output != "*")}
    left = [f"signature {one.key}" for one in TrainingRun(run).names().signatures if one.key not in called]
    refused = {check.protocol for check in found.checks if check.cause is Cause.NOT_REFUSED}
    left += [f"bad requests over {protocol}" for protocol in ("gRPC", "REST") if protocol not in refused]
    return ", ".join(left)


def _refusal(report: SmokeReport, runtime: ServingRuntime, left: str) -> PipelineError:
    """Return the refusal for the first cause: versions and signatures, then answers, then the rest."""
    bad = [check for check in report.rounds[-1].checks if not check.passed]
    first = [check for check in bad if check.cause in (Cause.VERSION_DIFFERS, Cause.SIGNATURE_DIFFERS)]
    if not report.parity.passed and not first and report.parity.failures:
        return lifecycle.differs(runtime, ParityError.of(report.parity))
    for check in first or bad:
        what = f"{report.identity.called}, {check.case} over {check.protocol}"
        return lifecycle.refused(runtime, check.cause, what, check.expected, check.answered)
    return ChildFailed(
        "the smoke test",
        "every request sent",
        f"not sent: {left}",
        "run again; if it happens again, report it as a bug.",
    )


def warmup_word(log: str, records: int) -> str:
    """Return what the server's log says of warmup requests, `not proven` where it says nothing.

    (Of the real server: tensorflow_serving/servables/tensorflow/saved_model_warmup_util.cc.)
    """
    found = re.search(r"Number of warmup records read: (\d+)", log)
    if found and int(found[1]) == records:
        return f"{records} requests run"
    if not records:
        return "no warmup requests"
    return f"not proven: the server read {found[1]} of {records}" if found else "not proven"
