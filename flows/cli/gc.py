"""`tfship gc`: removes the containers and the unfinished folders that killed runs left behind."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import typer

from flows.cli import termination
from flows.cli.options import Options, command
from tasks.artifacts.leftovers import Leftover, leftovers, remove
from tasks.artifacts.store import Store
from tasks.errors import PipelineError, UsageError
from tasks.presentation.terminal import say
from tasks.records.base import Record

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


class Collected(Record):
    """The leftovers that were removed, or would be in a dry run.

    `in_use` holds paths that a live process holds, `not_looked_at` the reason why containers were not looked for.
    """

    dry_run: bool
    store: Path
    containers: tuple[str, ...]
    removed: tuple[Leftover, ...]
    in_use: tuple[Path, ...]
    freed_bytes: int
    not_looked_at: str | None


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "gc", gc)


def gc(options: Options) -> int:
    """Remove containers, unfinished folders and set-aside folders of killed runs; artifacts are never removed."""
    older_than, dry_run = options["older_than"], options["dry_run"]
    seconds = _seconds(older_than)
    root = options.settings().store
    if options["store"] is not None and not (root / ".staging").is_dir():
        found = "a folder without artifacts" if root.is_dir() else "no such folder"
        raise UsageError(f"--store {root}", "the store of your runs", found, "give the path of the store with --store.")
    containers, not_looked_at = _containers(dry_run=dry_run)
    removed: list[Leftover] = []
    in_use: list[Path] = []
    for leftover in leftovers(root.absolute(), seconds, time.time()):
        if dry_run or remove(Store(root), leftover):
            removed.append(leftover)
        else:
            in_use.append(leftover.path)
    collected = Collected(
        dry_run=dry_run,
        store=root.absolute(),
        containers=containers,
        removed=tuple(removed),
        in_use=tuple(in_use),
        freed_bytes=sum(leftover.size for leftover in removed),
        not_looked_at=not_looked_at,
    )
    if options["as_json"]:
        termination.show(collected.model_dump_json(indent=1))
    else:
        _show(collected, older_than)
    return 0


def _containers(*, dry_run: bool) -> tuple[tuple[str, ...], str | None]:
    """Return the ids of containers of dead owners, removed unless `dry_run`, or the reason why no engine answered."""
    from tasks.serving.runtimes.docker import address, owner
    from tasks.serving.runtimes.docker.engine import connect, failures

    try:
        remote = address.resolve().remote
        client: Any = connect()
        try:
            with failures("containers of killed runs"):
                if dry_run:
                    return tuple(str(one.id) for one in owner.abandoned(client, remote=remote)), None
                return owner.reap(client, remote=remote), None
        finally:
            client.close()
    except PipelineError as failure:
        return (), f"{failure.where}: {failure.found}"


def _show(collected: Collected, older_than: str) -> None:
    from rich.filesize import decimal

    verb = "would remove" if collected.dry_run else "removed"
    for container in collected.containers:
        say(f"{verb} container {container[:12]}, whose owner is dead")
    for leftover in collected.removed:
        days = leftover.age / _UNITS["d"]
        say(f"{verb} {leftover.path} ({leftover.kind}, {decimal(leftover.size)}, {days:.1f} days old)")
    for path in collected.in_use:
        say(f"kept {path}: a live process builds there")
    if collected.not_looked_at:
        say(f"did not look for containers: {collected.not_looked_at}")
    count = len(collected.containers) + len(collected.removed)
    freed = f"{'would free' if collected.dry_run else 'freed'} {decimal(collected.freed_bytes)}"
    say(f"{freed} in {collected.store}" if count else f"no leftovers older than {older_than}")
    if collected.dry_run and count:
        say(f"next    tfship gc --older-than {older_than} --store {collected.store}")


def _seconds(text: str) -> float:
    written = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if written is None:
        raise UsageError("--older-than", "a number and s, m, h, d or w", repr(text), "for example --older-than 7d.")
    return float(written[1]) * _UNITS[written[2]]
