"""rehearse: change from the served version to the new one under steady traffic, in a server of its own.

Follows smoke_test, on request; promote comes after it. Layout: `rehearsal.json` (Rehearsal), `server.log`.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

from tasks import isolate
from tasks.artifact_views import Pinned, Rehearsed, model_at
from tasks.artifacts import manifest as manifests
from tasks.artifacts.store import Artifact
from tasks.baseline.reference import Reference
from tasks.errors import DamagedError, EnvironmentFailure, SmokeRefused
from tasks.records.rehearsal import Rehearsal, Switch
from tasks.records.serving import Cause, Endpoint
from tasks.records.settings import Serving
from tasks.releases import rules
from tasks.releases.publish import Releases
from tasks.serving.checks import gates, lifecycle, traffic
from tasks.serving.runtimes import choose
from tasks.serving.runtimes.docker import address
from tasks.serving.runtimes.protocol import ServingRuntime
from tasks.step import Facts, current, step

VERSION = 2
_OF_A_LOAD = {Cause.LOAD_ERROR, Cause.UNKNOWN_OP, Cause.WARMUP_REFUSED}


def _facts(serving: Serving, served: Path, **_: object) -> Facts:
    place = _served(served)
    return Facts(
        {
            "runtime": choose.choose(serving, "key", step="rehearse").identity.model_dump(mode="json"),
            "current": None if place is None else [place.name, _digest(place)],
            "flag files": choose.flag_files(serving),
        }
    )


def _served(served: Path) -> Path | None:
    """Return the folder of the served version, by its own name: 0007 is version 7."""
    releases = Releases(served.parent, served.name)
    version = releases.served()
    return None if version is None else releases.folder(version)


def _digest(version: Path) -> str | None:
    try:
        return manifests.digest_of(manifests.entries(version))
    except (DamagedError, OSError):  # the server will report what is wrong with it
        return None


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
    """Load the version in `served` (the model's folder under the serving root), send it steady traffic, and publish the
    new version beside it; refuse the new version if a client would notice the change.

    Where no version is served, the report says so. A requested rehearsal that is impossible for another reason ends the
    run.

    Raises:
        SmokeRefused: a request failed, the new version did not take over, or a limit was exceeded.
        EnvironmentFailure: the served version does not load here, or answers none of the requests.
    """
    place = _served(served)
    runtime = choose.choose(serving, current().run_id, step="rehearse")
    if place is None:
        note = f"no version of {served.name} is served: nothing to change from"
        Rehearsed(out).write(Rehearsal(identity=runtime.identity, note=note))
        return
    if runtime.identity.runtime == "docker" and address.resolve().remote:
        raise _impossible(runtime, served.name, "an engine on another host, which serves a copy of one version")
    (version,) = rules.versions([place.name])
    memory: list[int] = []
    with tempfile.TemporaryDirectory(dir=out, prefix="served-") as folder, ExitStack() as held:
        base = Path(folder)
        base.chmod(0o755)
        pairs = Releases(served.parent, served.name).files(version, base)
        held.enter_context(current().store.hashes.brought([*pairs, *model_at(exported, base / "staged")]))
        step = Pinned(checkpoint.path).record().step
        try:
            with (
                lifecycle.serving(runtime, served.name, base, version, serving.load_timeout, memory) as (endpoint, _),
                lifecycle.examining(runtime),
            ):
                switch = isolate.call(
                    change, endpoint, served.name, base / str(version), run.path, step, serving, window
                )
        except SmokeRefused as error:
            if error.cause not in _OF_A_LOAD:
                raise
            found = f"version {version}, which does not load in this server: {error.found}"
            raise _impossible(runtime, served.name, found) from error
        finally:
            Rehearsed(out).log.write_text(runtime.logs())
    if switch is None:
        found = f"version {version}, which answers neither its own warmup requests nor the probe of the new model"
        raise _impossible(runtime, served.name, found)
    peak = max(memory, default=None)
    checks = tuple(gates.of_switch(switch, peak, serving.gates))
    rehearsal = Rehearsal(
        identity=runtime.identity,
        switch=switch,
        peak_memory=peak,
        checks=checks,
        passed=all(check.passed for check in checks),
    )
    Rehearsed(out).write(rehearsal)
    what = f"{runtime.identity.called}, from version {version} to the next"
    if switch.ended:
        raise lifecycle.not_loaded(runtime, what, switch.ended)
    for check in checks:
        if not check.passed:
            raise lifecycle.refused(runtime, check.cause, f"{what}: {check.case}", check.expected, check.answered)


def _impossible(runtime: ServingRuntime, name: str, found: str) -> EnvironmentFailure:
    """Return the error for a requested rehearsal that is impossible."""
    remedy = "fix the served version, or run without --rehearse (`rehearsal.wanted`)."
    expected, server = "a served version to change from", runtime.identity.called
    return EnvironmentFailure(f"rehearsing {name}", expected, found, remedy, server=server, log=runtime.logs())


def change(
    endpoint: Endpoint, name: str, version: Path, run: Path, training_step: int, serving: Serving, window: float
) -> Switch | None:
    """In a child: send traffic and change the version."""
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
