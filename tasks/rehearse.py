"""rehearse: change from the served version to the new one under steady traffic, beside production, not in it.

Follows smoke_test, on request; promote comes after it. Layout: `rehearsal.json` (Rehearsal), `server.log`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from tasks import isolate
from tasks.artifacts.manifest import link_file
from tasks.artifacts.store import Artifact
from tasks.checkpoint import pinned
from tasks.errors import SmokeRefused
from tasks.forms.proof import Reference
from tasks.records.rehearsal import Rehearsal, Switch
from tasks.records.serving import Cause, Check, Endpoint, RuntimeIdentity
from tasks.records.settings import Gates, Serving
from tasks.releases.publish import Releases
from tasks.serving import docker_address, runtimes, smoke, traffic
from tasks.smoke_test import link_model
from tasks.step import Facts, current, step

VERSION = 1
REPORT, LOG = "rehearsal.json", "server.log"
_OF_A_LOAD = {Cause.LOAD_ERROR, Cause.UNKNOWN_OP, Cause.WARMUP_REFUSED}
_NO_REQUEST = "the current version answers neither its own warmup requests nor the new model's probe"


def _facts(serving: Serving, served: Path, **_: object) -> Facts:
    releases = Releases(served.parent, served.name)
    version = releases.served()
    return Facts(
        {
            "runtime": runtimes.choose(serving, "key").identity.model_dump(mode="json"),
            "current": None if version is None else [version, releases.digest(version)],
            "flag files": runtimes.flag_files(serving),
        }
    )


@step(version=VERSION, verifies=True, facts=_facts)
def rehearse(
    exported: Artifact,
    blessed: Artifact,
    checkpoint: Artifact,
    run: Artifact,
    serving: Serving,
    served: Path,
    window: float,
    out: Path,
) -> None:
    """Load the version that `served` (the model's folder under the serving root) serves, send it steady traffic,
    publish the new one beside it, and refuse where a client would feel it.

    Raises:
        SmokeRefused: a request failed, the new version did not take over, or a gate was passed.
    """
    version = Releases(served.parent, served.name).served()
    runtime = runtimes.choose(serving, current().run_id)
    if (note := _nothing(runtime.identity, version, served.name)) or version is None:
        (out / REPORT).write_text(Rehearsal(identity=runtime.identity, note=note).model_dump_json(indent=1))
        return
    with tempfile.TemporaryDirectory(dir=out, prefix="served-") as folder:
        base = Path(folder)
        base.chmod(0o755)
        for path in sorted((served / str(version)).rglob("*")):
            if path.is_file():
                link_file(path, base / str(version) / path.relative_to(served / str(version)))
        link_model(exported, base / "staged")
        switch, memory, note = None, list[int](), _NO_REQUEST
        try:
            with (
                smoke.serving(runtime, served.name, base, version, serving.load_timeout) as (endpoint, _),
                smoke.watched(runtime) as memory,
            ):
                step = pinned(checkpoint).step
                switch = isolate.call(
                    change, endpoint, served.name, base / str(version), run.path, step, serving, window
                )
                smoke.require_alive(runtime)
        except SmokeRefused as error:
            if error.facts["cause"] not in _OF_A_LOAD:
                raise
            note = f"the current version {version} does not load in this server: {error.found}"
        finally:
            (out / LOG).write_text(runtime.logs())
    peak = max(memory, default=None)
    checks = tuple(_checks(switch, peak, serving.gates)) if switch else ()
    passed = all(check.passed for check in checks) if switch else None
    found = Rehearsal(
        identity=runtime.identity,
        switch=switch,
        peak_memory=peak,
        checks=checks,
        note="" if switch else note,
        passed=passed,
    )
    (out / REPORT).write_text(found.model_dump_json(indent=1))
    for check in checks:
        if not check.passed:
            what = f"{runtime.identity.called}, from version {version} to the next: {check.case}"
            raise smoke.refused(runtime, check.cause, what, check.expected, check.answered)


def _nothing(server: RuntimeIdentity, version: int | None, name: str) -> str:
    """Why nothing can be rehearsed, if nothing can."""
    if version is None:
        return f"no version of {name} is served: there is nothing to change from"
    if server.runtime == "docker" and docker_address.resolve().remote:
        return "the engine is on another host and serves a copy, beside which no version can be put"
    return ""


def change(
    endpoint: Endpoint, name: str, version: Path, run: Path, training_step: int, serving: Serving, window: float
) -> Switch | None:
    """In a child: the traffic and the change."""
    return traffic.switched(
        endpoint,
        name,
        version,
        version.with_name("staged"),
        Reference.read(run, training_step),
        window=window,
        load_timeout=serving.load_timeout,
        request_timeout=serving.request_timeout,
    )


def _checks(switch: Switch, peak: int | None, gates: Gates) -> Iterator[Check]:
    def check(case: str, expected: str, answered: str, passed: bool, cause: Cause) -> Check:
        return Check(protocol="both", case=case, expected=expected, answered=answered, passed=passed, cause=cause)

    seconds = switch.switch_seconds
    took_over = "never" if seconds is None else f"after {seconds:g} s"
    yield check("the new version took over", "yes", took_over, seconds is not None, Cause.NEVER_AVAILABLE)
    for phase in switch.phases:
        failed = f"{phase.failed} of {phase.requests}" + "".join(f"; {why}" for why in switch.failures[:1])
        expected = "none of at least one"
        yield check(
            f"failed requests {phase.name}",
            expected,
            failed,
            phase.requests > 0 and not phase.failed,
            Cause.ANSWER_DIFFERS,
        )
        if gates.max_p99_ms is not None:
            p99 = "not measured" if phase.p99 is None else f"{phase.p99:g} ms"
            within = phase.p99 is not None and phase.p99 <= gates.max_p99_ms
            yield check(f"p99 {phase.name}", f"at most {gates.max_p99_ms:g} ms", p99, within, Cause.TOO_SLOW)
    if gates.max_rss_bytes is not None:
        within = peak is not None and peak <= gates.max_rss_bytes
        answered = "not measured" if peak is None else f"{peak} bytes"
        yield check(
            "resident memory with both loaded",
            f"at most {gates.max_rss_bytes} bytes",
            answered,
            within,
            Cause.TOO_LARGE,
        )
