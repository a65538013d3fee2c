"""smoke-test: serve the exported SavedModel in a real server and compare what it answers with the baseline.

Follows export; promote needs its blessing. Layout: `smoke.json` (SmokeReport), `parity.json`, `server.log`.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from tasks import isolate
from tasks.artifacts.manifest import hash_file, link_file
from tasks.artifacts.store import Artifact
from tasks.checkpoint import pinned
from tasks.errors import ChildFailed, ParityError
from tasks.export import MODEL
from tasks.forms import proof
from tasks.forms.proof import Reference
from tasks.records.parity import ParityReport, Tolerance
from tasks.records.serving import Endpoint, SmokeReport
from tasks.records.settings import Serving
from tasks.restore_verify import PARITY
from tasks.serving import runtimes, smoke
from tasks.serving.client import GrpcPredictor
from tasks.serving.runtime import ServingRuntime
from tasks.step import Facts, current, step

VERSION = 1
REPORT, LOG = "smoke.json", "server.log"
_SERVED_AS, _SERVED_VERSION = "model", 1


def _facts(serving: Serving, **_: object) -> Facts:
    identity = runtimes.choose(serving, "key").identity
    files = [flag.partition("=")[2] for flag in serving.flags]
    return Facts(
        {
            "runtime": identity.model_dump(mode="json"),
            "flag files": {name: hash_file(Path(name)) for name in files if name and Path(name).is_file()},
        }
    )


@step(version=VERSION, verifies=True, facts=_facts)
def smoke_test(
    exported: Artifact, checkpoint: Artifact, run: Artifact, serving: Serving, tolerance: Tolerance, out: Path
) -> None:
    """Load, ask, compare; refuse the model by the first cause found."""
    training_step = pinned(checkpoint).step
    on_disk = isolate.call(proof.values_on_disk, exported.path / MODEL, run.path, training_step)
    (out / PARITY).write_text(on_disk.model_dump_json(indent=1))
    if not on_disk.passed and on_disk.failures:
        raise ParityError.of(on_disk)
    runtime = runtimes.choose(serving, current().run_id)
    with tempfile.TemporaryDirectory(dir=out, prefix="served-") as base:
        Path(base).chmod(0o755)
        link_model(exported, Path(base) / str(_SERVED_VERSION))
        try:
            report = _ask(runtime, Path(base), run.path, training_step, serving, tolerance, on_disk)
        finally:
            (out / LOG).write_text(runtime.logs())
    (out / REPORT).write_text(report.model_dump_json(indent=1))
    (out / PARITY).write_text(report.parity.model_dump_json(indent=1))
    _judge(report, runtime)


def _ask(
    runtime: ServingRuntime,
    base: Path,
    run: Path,
    training_step: int,
    serving: Serving,
    tolerance: Tolerance,
    on_disk: ParityReport,
) -> SmokeReport:
    with smoke.serving(runtime, _SERVED_AS, base, _SERVED_VERSION, serving.load_timeout) as (endpoint, load_seconds):
        memory = runtime.memory()
        try:
            found = isolate.call(examine, endpoint, run, training_step, serving, tolerance)
        except Exception:
            smoke.require_alive(runtime)
            raise
        smoke.require_alive(runtime)
        memory = max(filter(None, (memory, runtime.memory())), default=None)
        log = runtime.logs()
    if found.signature_difference:
        what = f"{runtime.identity.runtime} server, metadata"
        raise smoke.refused(
            runtime, "signature differs", what, "the signatures of the live model", found.signature_difference
        )
    if found.version != _SERVED_VERSION:
        what = f"{runtime.identity.runtime} server, model_spec"
        raise ChildFailed(what, str(_SERVED_VERSION), str(found.version), "another server listens there; run again.")
    parity = ParityReport(baseline=on_disk.baseline, rows=(*on_disk.rows, *found.parity.rows))
    looked_at = {row.signature for row in found.parity.rows if row.passed and row.candidate == GrpcPredictor.form}
    everything = looked_at == {signature.key for signature in proof.names_of(run).signatures}
    return SmokeReport(
        identity=runtime.identity,
        version=_SERVED_VERSION,
        load_seconds=round(load_seconds, 3),
        peak_memory=memory,
        parity=parity,
        signatures_match=not found.signature_difference,
        refusals=found.refusals,
        latency=found.latency,
        warmup=warmup_word(log),
        passed=parity.passed and everything and bool(found.refusals) and all(check.passed for check in found.refusals),
    )


def examine(
    endpoint: Endpoint, run: Path, training_step: int, serving: Serving, tolerance: Tolerance
) -> smoke.Findings:
    """In a child: everything that is asked of the server."""
    return smoke.examine(endpoint, _SERVED_AS, Reference.read(run, training_step), serving, tolerance)


def _judge(report: SmokeReport, runtime: ServingRuntime) -> None:
    if not report.parity.passed:
        raise ParityError.of(report.parity)
    for check in report.refusals:
        if not check.passed:
            what = f"{report.identity.runtime} server, {check.case} over {check.protocol}"
            raise smoke.refused(runtime, "answered what it must refuse", what, check.expected, check.answered)
    if not report.passed:
        raise ChildFailed(
            "the smoke test", "every question asked", "some were not", "run again; report it if it stays."
        )


def warmup_word(log: str) -> str:
    """What the server itself said of warmup requests; without a word of its, `not proven`.

    (The real server: tensorflow_serving/servables/tensorflow/saved_model_warmup_util.cc.)
    """
    real = re.search(r"Number of warmup records read: (\d+)", log)
    ours = re.search(r"Warmup: (\d+) requests? run", log)
    found = real or ours
    return f"{found[1]} requests run" if found else "not proven"


def link_model(exported: Artifact, target: Path) -> None:
    """The exported SavedModel under another name, linked: the copy that is served, away from the store's own."""
    for entry in exported.manifest.files:
        if entry.path.startswith(f"{MODEL}/"):
            link_file(exported.path / entry.path, target / entry.path.removeprefix(f"{MODEL}/"))
