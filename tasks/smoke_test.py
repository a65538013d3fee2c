"""smoke-test: serve the exported SavedModel in a real server and compare what it answers with the baseline.

Follows export; promote needs its blessing. Layout: `smoke.json` (SmokeReport), `parity.json`, and the server's log of
each round, `server.log`, `server-1.log`.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec

from tasks import isolate
from tasks.artifact_views import Exported, Frozen, Pinned, Smoked, link_model
from tasks.artifacts.manifest import damaged, hash_file
from tasks.artifacts.store import Artifact
from tasks.baseline import reference as proof
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
from tasks.records.forms import CandidateForm
from tasks.records.parity import ParityReport, Tolerance
from tasks.records.serving import Cause, Check, Endpoint, Round, SmokeReport
from tasks.records.settings import FILE_FLAGS, Gates, Serving
from tasks.serving.checks import examine as server_checks
from tasks.serving.checks import lifecycle, preflight, production_config
from tasks.serving.checks.examine import Findings
from tasks.serving.checks.production_config import Entry
from tasks.serving.checks.setups import Setup, as_fetched, setups
from tasks.serving.clients.grpc import GrpcPredictor
from tasks.serving.runtimes import choose
from tasks.serving.runtimes.binary import BinaryRuntime
from tasks.serving.runtimes.protocol import ServingRuntime
from tasks.step import Facts, current, progress, step

P = ParamSpec("P")
VERSION = 4
_SERVED_AS, _SERVED_VERSION = "model", 1
_CAUSES: dict[type[PipelineError], Cause] = {  # of what no server was needed for
    ParityError: Cause.VALUE_DIFFERS,
    UnsafeGraph: Cause.UNSAFE,
    UnsupportedGraph: Cause.UNKNOWN_OP,
    DamagedError: Cause.DAMAGED,
}


def _facts(serving: Serving, **_: object) -> Facts:
    if current().planner is not None:  # a plan fetches nothing
        serving = serving.model_copy(update={"pull": "never"})
    try:
        runtime = choose.choose(serving, "key", progress=_pulled)
        identity = runtime.identity
    except PipelineError as error:
        if serving.image:  # one among several, perhaps, and the engine is of them all
            error.facts.setdefault("server", serving.image)
        raise
    libraries = {str(target): _content(source) for source, target in serving.mounts.items()}
    named = {flag.partition("=")[0]: flag.partition("=")[2] for flag in serving.flags}
    given = {name: str(file) for name in FILE_FLAGS if (file := getattr(serving, name))}
    files = {name: Path(file) for name, file in (named | given).items() if file and Path(file).is_file()}
    for name in given.keys() - files.keys():
        raise UsageError(f"serving.{name}", "a file", given[name], "give the path of production's file.")
    return Facts(
        {
            "runtime": identity.model_dump(mode="json"),
            "program": hash_file(runtime.path) if isinstance(runtime, BinaryRuntime) else None,
            "flag files": {name: hash_file(file) for name, file in files.items()},
            "mounts": libraries,
        }
    )


def _content(place: Path) -> dict[str, str]:
    """The files that are mounted, a library of custom ops perhaps, by their hashes."""
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
    """Look at what was made, load, ask, compare; refuse the model by the first cause found.

    The frozen graph is not served, and nothing after this looks at it: it is proven here as it lies in the store.
    """
    with _told(choose.choose(as_fetched(serving), current().run_id)):
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
    training_step = Pinned(checkpoint.path).record().step
    model, smoked = Exported(exported.path).model, Smoked(out)
    on_disk = _look(out, exported, model, look_at_files, model, run.path, training_step)
    if Frozen(frozen.path).graph.exists():
        _look(
            out,
            frozen,
            frozen.path,
            proof.prove,
            CandidateForm.FROZEN_GRAPH,
            frozen.path,
            run.path,
            training_step,
            tolerance,
        )
    smoked.write_parity(on_disk)
    brought = isolate.call(look_at_warmup, model, run.path)
    if brought.problem:
        remedy = "write the warmup requests anew (--refresh export)."
        facts = {"cause": Cause.WARMUP_REFUSED.value}
        raise SmokeRefused(str(warmup_requests.FILE), "records that a server runs", brought.problem, remedy, facts)
    entry = _entry(serving)
    parity, rounds = on_disk, list[Round]()
    with tempfile.TemporaryDirectory(dir=out, prefix="served-") as base:
        Path(base).chmod(0o755)
        link_model(exported, Path(base) / str(_SERVED_VERSION))
        planned = list(setups(serving))
        for number, setup in enumerate(planned):
            runtime = choose.choose(setup.serving, current().run_id, model_config=entry.text if entry else None)
            try:
                with _told(runtime):
                    found, one = _ask(runtime, setup, Path(base), run.path, training_step, tolerance, brought)
            finally:
                smoked.log(number).write_text(runtime.logs())
            rounds.append(one)
            parity = parity.model_copy(update={"rows": (*parity.rows, *setup.named(found.parity.rows))})
            sound = parity.passed and all(check.passed for check in one.checks) and _everything(found, run.path)
            report = SmokeReport(
                identity=runtime.identity,
                version=_SERVED_VERSION,
                rounds=tuple(rounds),
                parity=parity,
                notes=entry.notes if entry else (),
                passed=sound and len(rounds) == len(planned),
            )
            smoked.write(report)
            if not sound:
                raise _refusal(report, runtime)


@contextmanager
def _told(runtime: ServingRuntime) -> Iterator[None]:
    """What ends the block says of itself by which cause, in which server, and with what log: a failure that is no
    verdict takes the step's folder with it."""
    try:
        yield
    except PipelineError as error:
        if cause := next((cause for kind, cause in _CAUSES.items() if isinstance(error, kind)), None):
            error.facts.setdefault("cause", cause.value)
        error.facts.setdefault("server", runtime.identity.called)
        if log := runtime.logs():
            error.facts.setdefault("log", log)
        raise


def _look(
    out: Path, artifact: Artifact, place: Path, look: Callable[P, ParityReport], *args: P.args, **kwargs: P.kwargs
) -> ParityReport:
    """What a look at an artifact finds; a verdict, written down, only where the artifact is what was committed."""
    try:
        report = isolate.call(look, *args, **kwargs)
    except Refusal:
        _require_valid_meta_graph(artifact)
        raise
    except DamagedError as error:
        if not error.where.startswith(str(place)):
            raise
        _require_valid_meta_graph(artifact)
        facts = {"cause": Cause.LOAD_ERROR.value}
        raise SmokeRefused(error.where, error.expected, error.found, error.remedy, facts) from None
    if not report.passed and report.failures:
        Smoked(out).write_parity(report)
        _require_valid_meta_graph(artifact)
        raise ParityError.of(report)
    return report


def look_at_files(model: Path, run: Path, training_step: int) -> ParityReport:
    """In a child: signatures, then values and assets, then whether it does nothing but compute."""
    if difference := preflight.signatures_on_disk(model, run):
        facts = {"cause": Cause.SIGNATURE_DIFFERS.value}
        remedy = "make the model again (--refresh export), and find who changed its signatures."
        raise SmokeRefused(str(model), "the signatures of the live model", difference, remedy, facts)
    on_disk = preflight.values_on_disk(model, run, training_step)
    if not on_disk.failures:
        preflight.require_self_contained(model)
    return on_disk


def _require_valid_meta_graph(exported: Artifact) -> None:
    """Raise DamagedError where the quick check has missed damage: that must not be kept as a verdict on the model."""
    if current().store.find(exported.step, exported.key, full=True) is None:
        raise damaged(exported.path, ["a file has changed since it was committed"])


def _pulled(done: int, total: int) -> None:
    progress({"unit": "MiB", "step": done >> 20, "of": max(total >> 20, 1)})


def _entry(serving: Serving) -> Entry | None:
    file = serving.model_config_file
    return isolate.call(production_config.entry_of, file, serving.model_name or "", _SERVED_AS) if file else None


def look_at_warmup(model: Path, run: Path) -> WarmupFound:
    """In a child: the warmup requests that the SavedModel brings."""
    return warmup_requests.looked_at(model, {one.key: one for one in TrainingRun(run).names().signatures})


def _ask(
    runtime: ServingRuntime,
    setup: Setup,
    base: Path,
    run: Path,
    training_step: int,
    tolerance: Tolerance,
    brought: WarmupFound,
) -> tuple[Findings, Round]:
    serving = setup.serving
    memory: list[int] = []
    served = lifecycle.serving(runtime, _SERVED_AS, base, _SERVED_VERSION, serving.load_timeout, memory)
    with served as (endpoint, load_seconds):
        with lifecycle.examining(runtime):
            found = isolate.call(examine, endpoint, run, training_step, serving, tolerance, setup.largest)
        log = runtime.logs()
    one = Round(
        setup=setup.name or "as configured",
        load_seconds=round(load_seconds, 3),
        peak_memory=max(memory, default=None),
        checks=found.checks,
        latency=found.latency,
        warmup=warmup_word(log, brought.records),
    )
    return found, one.model_copy(update={"checks": (*one.checks, *gates(serving.gates, one))})


def examine(
    endpoint: Endpoint, run: Path, training_step: int, serving: Serving, tolerance: Tolerance, largest: int | None
) -> Findings:
    """In a child: everything that is asked of the server."""
    reference = Reference.read(run, training_step)
    return server_checks.examine(endpoint, _SERVED_AS, _SERVED_VERSION, reference, serving, tolerance, largest)


def gates(limits: Gates, measured: Round) -> Iterator[Check]:
    """What was measured against what it may be at most; a number that is wanted and was not measured is no pass.

    A round that ended early measured nothing, and another check says why.
    """
    if not all(check.passed for check in measured.checks):
        return
    slowest = max((one.p99 for one in measured.latency if one.concurrency == 1), default=None)
    for case, unit, limit, found, cause in (
        ("p99", "ms", limits.max_p99_ms, slowest, Cause.TOO_SLOW),
        ("load", "s", limits.max_load_seconds, measured.load_seconds, Cause.TOO_SLOW),
        ("resident memory", "bytes", limits.max_rss_bytes, measured.peak_memory, Cause.TOO_LARGE),
    ):
        if limit is not None:
            yield Check(
                protocol="server",
                case=case,
                expected=f"at most {limit:g} {unit}",
                answered="not measured" if found is None else f"{found:g} {unit}",
                passed=found is not None and found <= limit,
                cause=cause,
            )


def _everything(found: Findings, run: Path) -> bool:
    """Every signature was asked over gRPC, and what must be refused was sent, over gRPC and over REST."""
    looked_at = {row.signature for row in found.parity.rows if row.passed and row.candidate == GrpcPredictor.form}
    refused = {check.protocol for check in found.checks if check.cause is Cause.NOT_REFUSED} == {"gRPC", "REST"}
    return refused and looked_at == {signature.key for signature in TrainingRun(run).names().signatures}


def _refusal(report: SmokeReport, runtime: ServingRuntime) -> PipelineError:
    """The first cause found: the versions and signatures, then the answers, then the rest."""
    bad = [check for check in report.rounds[-1].checks if not check.passed]
    telling = [check for check in bad if check.cause in (Cause.VERSION_DIFFERS, Cause.SIGNATURE_DIFFERS)]
    if not report.parity.passed and not telling and report.parity.failures:
        return lifecycle.differs(runtime, ParityError.of(report.parity))
    for check in telling or bad:
        what = f"{report.identity.called}, {check.case} over {check.protocol}"
        return lifecycle.refused(runtime, check.cause, what, check.expected, check.answered)
    return ChildFailed("the smoke test", "every question asked", "some were not", "run again; report it if it stays.")


def warmup_word(log: str, records: int) -> str:
    """What the server itself said of warmup requests; without a word of its, `not proven`.

    (The real server: tensorflow_serving/servables/tensorflow/saved_model_warmup_util.cc.)
    """
    found = re.search(r"Number of warmup records read: (\d+)", log)
    if found and int(found[1]) == records:
        return f"{records} requests run"
    if not records:
        return "no warmup requests"
    return f"not proven: the server read {found[1]} of {records}" if found else "not proven"
