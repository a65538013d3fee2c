"""rollback: serve an earlier version of a model again, once it is shown to be whole and to load.

On request; it changes only the serving root. The digests of the later versions are held, and nothing is deleted.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tasks import isolate
from tasks.artifacts.hashes import NONE
from tasks.errors import UsageError
from tasks.records.release import JournalLine
from tasks.records.settings import Release, Serving
from tasks.releases import evidence_check, labels, rules, signing
from tasks.releases.publish import Releases
from tasks.serving.checks import lifecycle
from tasks.serving.checks.setups import as_fetched
from tasks.serving.clients import model_service
from tasks.serving.runtimes import choose


def rollback(release: Release, to: int | None, serving: Serving, run_id: str) -> JournalLine:
    """Serve version `to` again, or the one before the served one, and return the journal's line.

    The served one is that of label `stable`, or else the highest. The earlier one is read in full, and loaded in a server of
    its own, with its warmup requests, before anything changes. Labels of the versions after it move to it.

    Raises:
        UsageError: there is no such earlier version, no server is named where labels are to move, or the key is none.
        DamagedError: its files are not those that were promoted.
        EvidenceError: it is not what its evidence says, or not signed by `release.public_key`.
        SmokeRefused, ChildFailed: it does not load, or a running server does not load it.
        EnvironmentFailure: something outside the model is wrong.
    """
    signing.require_usable(None, release.public_key)
    configuration = labels.of(release, serving.load_timeout)
    with Releases(release.serving_root, release.name).open() as releases:
        entry = configuration.entry(release.name)
        led = entry.labels if entry else {}
        begun = releases.interrupted_rollback()
        target = begun.version if begun is not None else releases.earlier(to, led.get(labels.STABLE))
        releases.require_whole(target)
        if release.public_key is not None:
            evidence_check.check(releases, target, release.public_key)
        if begun is None and not led and (entry is None or entry.versions is None):
            _load(releases, target, serving, run_id)
            line = releases.finish_rollback(releases.begin_rollback(target, release.reason))
            for server in release.servers:
                gone = sorted(line.retired)
                isolate.call(model_service.wait, server.grpc, release.name, [target], gone, serving.load_timeout)
            return line
        current = begun.previous if begun is not None else led.get(labels.STABLE)
        numbers = {*rules.versions(releases.names()), *led.values()}
        later = {one for one in numbers if target < one and (current is None or one <= current)}
        moved = {label: target if version in later else version for label, version in led.items()}
        configuration.require_possible(release.name, moved)
        if not release.servers:
            # A server that reads the file would look for what is retired until it has read it again.
            remedy = "name the servers that read this file: --server HOST:PORT."
            expected = f"a running server, to see that it loads version {target} before the later ones go"
            raise UsageError(f"rollback {release.name}", expected, "none", remedy)
        _load(releases, target, serving, run_id)
        intent = begun or releases.begin_rollback(target, release.reason, current, moved)
        try:
            configuration.lead(release.name, moved, {target})
        except BaseException:
            releases.abandon(intent)
            raise
        configuration.let_go(release.name, later)
        return releases.finish_rollback(intent)


def _load(releases: Releases, version: int, serving: Serving, run_id: str) -> None:
    """Load a version in a server that has no other, and stop it. Raises as `lifecycle.serving`."""
    runtime = choose.choose(as_fetched(serving), run_id, step="rollback")
    with tempfile.TemporaryDirectory(dir=releases.own / "staging") as folder:
        base = Path(folder)
        base.chmod(0o755)
        with (
            NONE.brought(releases.files(version, base)),
            lifecycle.serving(runtime, releases.name, base, version, serving.load_timeout),
        ):
            pass
