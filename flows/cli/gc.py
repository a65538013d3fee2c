"""`tfship gc`: shows what killed runs left and what retention lets go, and deletes it on request."""

from __future__ import annotations

import re
import shlex
import time
from collections import Counter
from pathlib import Path
from typing import Any

import typer

from flows.cli import termination
from flows.cli.options import Options, command
from flows.config import PipelineConfig
from flows.retention import Found, Kept, Removed, delete, found
from tasks.errors import PipelineError, UsageError
from tasks.presentation.terminal import say
from tasks.records.base import Record
from tasks.releases.retention import Retention

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


class Collected(Record):
    """What was deleted, or would be: `deleted` tells which; and what stays.

    `models` has the versions of each model, where versions or runs are limited, `artifacts` what stays in the store where runs are limited, `in_use` the paths
    that a live process holds, `not_looked_at` the reason why containers were not looked for.
    """

    deleted: bool
    store: Path
    serving_root: Path
    containers: tuple[str, ...]
    removed: tuple[Removed, ...]
    models: dict[str, Retention]
    artifacts: tuple[Kept, ...]
    in_use: tuple[Path, ...]
    freed_bytes: int
    not_looked_at: str | None


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "gc", gc)


def gc(options: Options) -> int:
    """Show what killed runs left and which versions and artifacts retention lets go, and how much that frees; --yes deletes it."""
    older_than, yes = options["older_than"], bool(options["yes"])
    seconds = _seconds(older_than)
    settings = options.settings()
    _require_given(options, settings)
    what: Found = (delete if yes else found)(settings, seconds, time.time())
    containers, not_looked_at = _containers(delete=yes)
    collected = Collected(
        deleted=yes,
        store=settings.store.absolute(),
        serving_root=settings.serving_root.absolute(),
        containers=containers,
        freed_bytes=sum(one.bytes for one in what.removed),
        not_looked_at=not_looked_at,
        **dict(what),
    )
    if options["as_json"]:
        termination.show(collected.model_dump_json(indent=1))
    else:
        _show(collected, older_than, limited=settings.retention.versions is not None)
        if not yes and (containers or collected.removed):
            say(f"next    {_command(options, settings)}")
    return 0


def _require_given(options: Options, settings: PipelineConfig) -> None:
    """Raise UsageError where an option names another folder than was meant."""
    root = settings.store
    if options["store"] is not None and not (root / ".staging").is_dir():
        there = "a folder without artifacts" if root.is_dir() else "no such folder"
        raise UsageError(f"--store {root}", "the store of your runs", there, "give the path of the store with --store.")
    root = settings.serving_root
    if options["serving_root"] is not None and not root.is_dir():
        remedy = "give the path of the serving root with --serving-root."
        raise UsageError(f"--serving-root {root}", "the folder of your models", "no such folder", remedy)


def _containers(*, delete: bool) -> tuple[tuple[str, ...], str | None]:
    """Return the ids of containers of dead owners, removed on `delete`, or the reason why no engine answered."""
    from tasks.serving.runtimes.docker import address, owner
    from tasks.serving.runtimes.docker.engine import connect, failures

    try:
        remote = address.resolve().remote
        client: Any = connect()
        try:
            with failures("containers of killed runs"):
                if delete:
                    return owner.reap(client, remote=remote), None
                return tuple(str(one.id) for one in owner.abandoned(client, remote=remote)), None
        finally:
            client.close()
    except PipelineError as failure:
        return (), f"{failure.where}: {failure.found}"


def _show(collected: Collected, older_than: str, *, limited: bool) -> None:
    from rich.filesize import decimal

    verb = "deleted" if collected.deleted else "would delete"
    for container in collected.containers:
        say(f"{verb} container {container[:12]}, whose owner is dead")
    for one in collected.removed:
        say(f"{verb} {one.path} ({one.kind}, {decimal(one.bytes)}): {one.reason}")
    for path in collected.in_use:
        say(f"kept    {path}: a live process uses it")
    for name, model in collected.models.items():
        if not limited:
            say(f"kept    all versions of {name}")
        elif model.blocked:
            say(f"kept    all of {name}: {model.blocked}")
        else:
            for version, reasons in model.kept.items():
                say(f"kept    version {version} of {name}: {', '.join(reasons)}")
    kinds = Counter(kind for one in collected.artifacts for kind in {*map(_kind, one.reasons)})
    if collected.artifacts:
        shares = ", ".join(f"{count} {what}" for what, count in sorted(kinds.items()))
        say(f"kept    {len(collected.artifacts)} artifacts: {shares}")
    if collected.not_looked_at:
        say(f"did not look for containers: {collected.not_looked_at}")
    if collected.containers or collected.removed:
        say(f"{'freed' if collected.deleted else 'would free'} {decimal(collected.freed_bytes)}")
    else:
        say(f"nothing to delete: no leftovers older than {older_than}, and nothing beyond what is kept")


def _kind(reason: str) -> str:
    """Return what kind of reason keeps an artifact."""
    kinds = {"version": "of versions", "run": "of runs"}
    return kinds.get(reason.partition(" ")[0], "too young")


def _command(options: Options, settings: PipelineConfig) -> str:
    """Return the command line that deletes what was shown."""
    words = ["tfship", "gc", "--older-than", options["older_than"]]
    words += ["--config", str(options["config"])] if options["config"] is not None else []
    words += ["--store", str(settings.store.absolute())]
    if settings.serving_root.is_dir():
        words += ["--serving-root", str(settings.serving_root.absolute())]
    for name in ("keep_versions", "keep_runs"):
        if options[name] is not None:
            words += [f"--{name.replace('_', '-')}", str(options[name])]
    for server in options["servers"] or ():
        words += ["--server", server]
    return shlex.join([*words, "--yes"])


def _seconds(text: str) -> float:
    written = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if written is None:
        raise UsageError("--older-than", "a number and s, m, h, d or w", repr(text), "for example --older-than 7d.")
    return float(written[1]) * _UNITS[written[2]]
