"""promote: publish a blessed SavedModel as the next version under the serving root, and confirm that it serves.

The last step that changes anything. It always runs, and is idempotent: a digest that is served already is `unchanged`.
The previous version stays beside the new one.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from pathlib import Path

from tasks import isolate
from tasks.artifact_views import Exported, Pinned, Smoked, model_files
from tasks.artifacts.hashes import Fields
from tasks.artifacts.manifest import FileEntry, digest_of
from tasks.artifacts.store import Artifact
from tasks.baseline import noise
from tasks.baseline.reference import Reference
from tasks.baseline.training_run import TrainingRun
from tasks.errors import (
    DamagedError,
    EvidenceError,
    HeldError,
    ParityError,
    PipelineError,
    PolicyRefused,
    Refusal,
    SmokeRefused,
    UsageError,
)
from tasks.records.parity import Limits, ParityReport, Tolerance
from tasks.records.release import Event, Rule
from tasks.records.run import Promotion, StepState
from tasks.records.serving import Endpoint, SmokeReport
from tasks.records.settings import LabelledData, Release, Serving
from tasks.releases import evidence as evidences
from tasks.releases import evidence_check, labels, policy, rules, signing
from tasks.releases.publish import Releases
from tasks.serving.checks import lifecycle
from tasks.serving.checks.requests import compare_answers, known_requests
from tasks.serving.checks.setups import setups
from tasks.serving.clients import model_service
from tasks.serving.clients.grpc import GrpcPredictor
from tasks.serving.clients.rest import RestPredictor
from tasks.serving.runtimes import choose
from tasks.step import action, current

_NO_ROWS = LabelledData()


@action
def promote(
    exported: Artifact,
    blessed: Artifact,
    checkpoint: Artifact,
    run: Artifact,
    release: Release,
    serving: Serving,
    tolerance: Tolerance,
    labelled: LabelledData = _NO_ROWS,
) -> tuple[Promotion, StepState]:
    """Publish `exported`, for which `blessed` is the smoke test; `labelled` are the rows of a rule on quality.

    Raises:
        PolicyRefused: it breaks rules of `release.policy` that are not waived.
        DamagedError: the model's files have changed since the smoke test.
        SmokeRefused: the smoke test is of another model, or did not pass; or a server did not load the new version, which is
            then withdrawn.
        ParityError: a server answered the probe differently; the new version is withdrawn.
        ChildFailed: a server did not load it in time, which is then withdrawn, or ended.
        UsageError: `models.config` is not a configuration, a label is to move and no server is named to see it, or a key
            cannot be used.
        EnvironmentFailure: a server does not answer, or something else outside the model is wrong.
        EvidenceError: what was published is not what its evidence says, or not signed by `release.public_key`; it is withdrawn.
        HeldError: this model was rolled back; the run's `promotion` says so too.
    """
    signing.require_for(release)
    report = require_blessing(exported, blessed, checkpoint, run, release)
    if report.parity.noise:
        tolerance = Limits.measured_of(tolerance, report.parity.noise)
    files = model_files(exported)
    digest, model = digest_of(files), rules.model_digest(files)
    impure = TrainingRun(run.path).names().impure
    if not release.promote:
        return Promotion(name=release.name, outcome="skipped", digest=digest), StepState.SKIPPED
    configuration = labels.of(release, serving.load_timeout)
    with Releases(release.serving_root, release.name).open() as releases:
        releases.require_settled()
        served, unconfirmed = releases.served(), releases.unconfirmed()
        killed = unconfirmed.get(served) if served is not None else None
        if killed is not None and killed.digest != digest:
            killed = None  # another model's: it stays below this one
        if served is not None and served not in unconfirmed and releases.digest(served) == digest:
            placement = labels.Placement.of(configuration, releases, release.label, served, None)
            if placement.moves and release.public_key is not None:
                evidence_check.check(releases, served, release.public_key, current().store.hashes)
            confirmed_by = ""
            if release.servers:
                confirmed_by = _confirm(placement, releases, release, checkpoint, run, serving, tolerance)
            elif placement.moves:
                placement.lead()
            if placement.moves or (placement.labels or {}) != rules.last_labels(releases.journal()):
                releases.append(event=Event.LABELLED, version=served, digest=digest, labels=placement.labels)
                placement.let_go()
            found = Promotion(
                name=release.name,
                version=served,
                path=str(releases.root / str(served)),
                previous=served,
                outcome="labelled" if placement.moves else "unchanged",
                digest=digest,
                confirmed_by=confirmed_by,
                labels=placement.labels,
            )
            return found, StepState.BUILT if placement.moves else StepState.UNCHANGED
        try:
            require_not_held(releases, digest, model, release)
        except HeldError:
            current().promotion = Promotion(name=release.name, previous=served, outcome="held", digest=digest)
            raise
        if served is not None and served not in rules.published(releases.journal()):
            releases.require_saved_model(served)
        _read_again([exported, blessed, checkpoint, run])
        if killed is not None:
            served = killed.previous
        waived = _require_allowed(exported, report, files, releases, configuration, release, labelled, served)
        if killed is not None:
            version = killed.version
        else:
            labels.Placement.of(configuration, releases, release.label, releases.upcoming(), served).require_possible()
            for server in release.servers:
                isolate.call(model_service.states, server.grpc, release.name)
            if release.label and served is not None:
                configuration.require_listed(release.name, served)
            version = _publish(releases, exported, blessed, checkpoint, run, report, release)
        placement = labels.Placement.of(configuration, releases, release.label, version, served)
        try:
            if release.public_key is not None:
                evidence_check.check(releases, version, release.public_key, current().store.hashes)
            confirmed_by = _confirm(placement, releases, release, checkpoint, run, serving, tolerance)
        except BaseException as error:  # an interruption too: a version that is not confirmed must not stay served
            _take_back(configuration, releases, version, digest, error, was_served=killed is not None)
            raise
        releases.append(
            event=Event.PROMOTED,
            version=version,
            digest=digest,
            model=model,
            previous=served,
            run_id=current().run_id,
            blessing=blessed.digest,
            evidence=evidences.digest(releases.evidence(version)),
            verdict=report.verdict,
            server=report.identity.exactly,
            impure=impure,
            reason=release.reason,
            labels=placement.labels,
            waived=waived,
        )
        placement.let_go()
        promotion = Promotion(
            name=release.name,
            version=version,
            path=str(releases.root / str(version)),
            previous=served,
            outcome="promoted",
            digest=digest,
            confirmed_by=confirmed_by,
            labels=placement.labels,
            waived=waived,
        )
        return promotion, StepState.BUILT


def _require_allowed(
    exported: Artifact,
    smoke: SmokeReport,
    files: tuple[FileEntry, ...],
    releases: Releases,
    configuration: labels.Configuration,
    release: Release,
    labelled: LabelledData,
    served: int | None,
) -> dict[Rule, str]:
    """Return what the waived rules of the policy found.

    The new version is compared with that of label `stable`, or else with `served`, the highest before it.

    Raises:
        PolicyRefused: another rule is broken.
        UsageError: a rule on quality is on, and there are no labelled rows.
    """
    rule = release.policy.metric
    if rule is not None and labelled.file is None:
        remedy = "give them: --evaluate FILE, or `evaluate.file` in the settings."
        raise UsageError(f"promote {release.name}, rule metric", "labelled rows", "none", remedy)
    entry, there = configuration.entry(release.name), rules.versions(releases.names())
    stable = entry.labels.get(labels.STABLE) if entry else None
    if stable is not None and stable in there and stable not in releases.unconfirmed():
        served = stable
    facts = isolate.call(policy.read, Exported(exported.path).model, labelled, rule)
    keys = tuple(name for name in ("signing_key", "public_key") if getattr(release, name) is not None)
    new = policy.Candidate(digest=digest_of(files), files=files, smoke=smoke, facts=facts, keys=keys)
    before = None
    if served is not None and (rule is not None or release.policy.signatures):
        try:
            before = isolate.call(policy.read, releases.folder(served), labelled, rule)
        except DamagedError as error:
            error.remedy = f"roll back from version {served} first, or switch the rules off that compare with it: `release.policy`."
            raise
    found = {one.rule: one for one in policy.violations(release.policy, new, before, releases.journal())}
    broken = [one for one in found.values() if one.rule not in release.waive]
    if broken:
        names = ", ".join(one.rule for one in broken)
        remedy = f"promote another model, or waive what is meant: --waive {broken[0].rule} --reason TEXT."
        if broken[0].rule is Rule.APPROVAL:
            remedy = f"approve it (tfship approve {exported.digest[:12]} --reason TEXT), then promote it."
        raise PolicyRefused(
            f"promote {release.name}, rule{'s' * (len(broken) > 1)} {names}",
            "; ".join(one.expected for one in broken),
            "; ".join(one.found for one in broken),
            remedy,
            rules=tuple(one.rule for one in broken),
        )
    return {one.rule: one.found for one in found.values()}


def _take_back(
    configuration: labels.Configuration,
    releases: Releases,
    version: int,
    digest: str,
    error: BaseException,
    *,
    was_served: bool,
) -> None:
    """Withdraw a version that could not be confirmed, unless it is still needed.

    It stays, unconfirmed, where it was served before (`was_served`) and nothing is known against it, where a label still leads to
    it, and where a server could not be brought back. A label of a killed promotion that was refused now is led back.
    """
    if was_served and not isinstance(error, Refusal | EvidenceError):
        return
    entry = configuration.entry(releases.name)
    if entry is not None and version in entry.labels.values():
        with contextlib.suppress(PipelineError):
            configuration.lead(releases.name, rules.last_labels(releases.journal()))
        entry = configuration.entry(releases.name)
    if configuration.torn or (entry is not None and version in entry.labels.values()):
        return
    releases.withdraw(version, digest, (str(error) or type(error).__name__).splitlines()[0])


def _publish(
    releases: Releases,
    exported: Artifact,
    blessed: Artifact,
    checkpoint: Artifact,
    run: Artifact,
    report: SmokeReport,
    release: Release,
) -> int:
    """Publish the next version with its evidence and return its number.

    Raises DamagedError if a file has changed since it was read.
    """
    files, server, made = model_files(exported), report.identity.exactly, current().artifacts.values()
    rehearsed = [one for one in made if one.step == "rehearse" and exported.digest in one.manifest.inputs.values()]
    proven = evidences.Proven(
        name=release.name,
        files=files,
        artifacts=evidences.chain((run, checkpoint, exported, blessed, *rehearsed), made),
        run=run,
        blessing=blessed,
        verdict=report.verdict,
        server=server,
        run_id=current().run_id,
        key=release.signing_key,
    )
    try:
        return releases.publish(
            Exported(exported.path).model,
            files,
            current().store.hashes,
            proven.write,
            run_id=current().run_id,
            blessing=blessed.digest,
            verdict=report.verdict,
            server=server,
            reason=release.reason,
        )
    except DamagedError:
        current().store.find(exported.step, exported.key, full=True)  # sets it aside, and the next run exports again
        raise


def _read_again(artifacts: Iterable[Artifact]) -> None:
    """Read every file of these artifacts and of all others of this run once more, before anything is served.

    This is the one full hash of a run: until now files were read for what they hold, and known by their times.

    Raises:
        DamagedError: a file has changed since it was committed; its artifact has been set aside.
    """
    store, read = current().store, set[Fields]()
    for artifact in {one.path: one for one in (*artifacts, *current().artifacts.values())}.values():
        try:
            store.verify(artifact.path, full=True, read=read)
        except DamagedError:
            store.find(artifact.step, artifact.key, full=True)  # sets it aside
            raise


def require_blessing(
    exported: Artifact, blessed: Artifact, checkpoint: Artifact, run: Artifact, release: Release
) -> SmokeReport:
    """Return the smoke report in `blessed`.

    Raises:
        SmokeRefused: it is not a pass of exactly this export.
    """
    report = Smoked(blessed.path).report()
    about = blessed.manifest.inputs
    these = {"exported": exported.digest, "checkpoint": checkpoint.digest, "run": run.digest}
    where = f"promote {release.name}"
    if blessed.step != "smoke_test" or {name: about.get(name) for name in these} != these:
        raise SmokeRefused(where, f"a blessing of {these}", f"{blessed.step} of {about}", "smoke-test this model.")
    if report is None or not report.passed or blessed.refusal() is not None:
        found = report.verdict if report else "a refusal before a server was started"
        raise SmokeRefused(where, "a passed smoke test", found, "fix the model, then run again.")
    return report


def require_not_held(releases: Releases, digest: str, model: str, release: Release) -> None:
    """Raise HeldError if this model was rolled back, in whatever files, and its promotion is not forced."""
    holder = rules.held(digest, model, releases.journal())
    if holder is not None and not release.force:
        raise HeldError(
            f"promote {release.name}",
            "a model that was not rolled back",
            f"{digest[:12]}, rolled back on {holder.time} to version {holder.version}: {holder.reason or 'no reason'}",
            "promote a better model, or this one with --force --reason TEXT.",
        )


def _confirm(
    placement: labels.Placement,
    releases: Releases,
    release: Release,
    checkpoint: Artifact,
    run: Artifact,
    serving: Serving,
    tolerance: Tolerance,
) -> str:
    """Confirm the new version, which must become AVAILABLE and answer the probe correctly, and return the words for it.

    In the servers that run over the serving root, if any are named, else in one that is started over it.
    """
    *_, production = setups(serving)
    version, pin = placement.version, Pinned(checkpoint.path).record()

    def ask(endpoint: Endpoint, pinned: bool) -> None:
        def compared(limits: Tolerance) -> ParityReport:
            return isolate.call(
                answers,
                endpoint,
                release.name,
                version,
                run.path,
                pin.step,
                production.serving,
                limits,
                production.largest,
                pinned=pinned,
            )

        report = noise.decided(compared, tolerance, checkpoint.path, pin, run.path)
        if not report.passed:
            raise ParityError.of(report)

    def ask_all() -> None:
        for server in release.servers:
            ask(Endpoint(grpc=server.grpc, rest=server.rest), True)

    if not release.servers:
        runtime = choose.choose(production.serving, current().run_id, step="promote")
        served = lifecycle.serving(runtime, release.name, releases.root, version, serving.load_timeout)
        with served as (endpoint, seconds):
            ask(endpoint, False)
        if placement.listed:
            placement.lead()
        return f"{runtime.identity.runtime} server, AVAILABLE after {seconds:.2f} s"
    began = time.monotonic()
    if placement.listed:
        placement.lead(ask_all)
    else:
        for server in release.servers:
            isolate.call(model_service.wait, server.grpc, release.name, [version], [], serving.load_timeout)
        ask_all()
    named = ", ".join(server.grpc for server in release.servers)
    return f"running server {named}, confirmed after {time.monotonic() - began:.2f} s"


def answers(
    endpoint: Endpoint,
    name: str,
    version: int,
    run: Path,
    step: int,
    serving: Serving,
    tolerance: Tolerance,
    largest: int | None,
    *,
    pinned: bool,
) -> ParityReport:
    """In a child: send the probe, compare the answers, and check which version gave them.

    Over gRPC; in a server in operation, where the version is asked for by its number (`pinned`), also over REST, if that
    is known.
    """
    reference = Reference.read(run, step)
    signatures = {signature.key: signature for signature in reference.names.signatures}
    asked = version if pinned else None
    grpc = GrpcPredictor(endpoint, name, signatures, serving.request_timeout, version=asked)
    predictors: list[GrpcPredictor | RestPredictor] = [grpc]
    if pinned and endpoint.rest:
        predictors.append(RestPredictor(endpoint, name, signatures, serving.request_timeout, version=asked))
    try:
        rows = [
            row
            for predictor in predictors
            for one in known_requests(predictor, reference, largest)
            for row in compare_answers(one, tolerance)
        ]
        report = ParityReport(baseline=reference.baseline.form, rows=tuple(rows))
    finally:
        for predictor in predictors:
            predictor.close()
    if report.passed and grpc.versions != {version}:
        remedy = "another server may be listening on the port; run again."
        answered = ", ".join(f"version {number}" for number in sorted(grpc.versions))
        raise SmokeRefused(f"server over {name}", f"version {version}", answered, remedy)
    return report
