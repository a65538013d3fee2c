"""`tfship releases`, `status`, `label`, `pin` and `rollback`: the versions of a model, and which of them are served."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli import termination
from flows.cli.options import Options, command
from flows.config import PipelineConfig
from tasks.errors import ExitCode, UsageError
from tasks.presentation.terminal import cell, console, say
from tasks.records.release import Event, JournalLine
from tasks.releases.labels import Configuration
from tasks.releases.publish import Releases, promoted_to, require_promoted
from tasks.releases.rules import pinned, versions
from tasks.releases.signing import EVIDENCE_SIGNATURE

_REASON_WIDTH = 16


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "label", label)
    command(app, "pin", pin)
    command(app, "rollback", rollback)
    command(app, "status", status)
    command(app, "releases", releases)


def label(
    name: Annotated[str, typer.Argument(help="The model.")],
    label: Annotated[str, typer.Argument(help="The version label, such as stable.")],
    options: Options,
    version: Annotated[int | None, typer.Argument(help="The version that it is to lead to.")] = None,
) -> int:
    """Let a version label lead to another version: it is loaded first, and what the label led to is unloaded last."""
    from tasks.label import label as move

    settings = settings_of(options, name, release={"label": label})
    if (version is None) != bool(options["remove"]):
        found = "both" if options["remove"] else "neither"
        raise UsageError(
            f"label {name} {label}", "a version, or --remove", found, f"tfship label {name} {label} VERSION."
        )
    line = move(settings.promotion, version, settings.serving.load_timeout)
    if options["as_json"]:
        import json

        document = {"name": name, "changed": line is not None, "label": label, "version": version}
        termination.show(json.dumps(document, indent=1))
        return 0
    what = f"no longer leads {name} anywhere" if version is None else f"leads to version {version} of {name}"
    say(f"{label} {what}{'' if line is not None else ', as before'}")
    if not settings.release.servers:
        file = Configuration(settings.serving_root).file
        say(f"note    no running server was told (--server HOST:PORT): those that poll {file} follow by themselves")
    say(f"next    tfship status {where(name, settings)}")
    return 0


def pin(
    name: Annotated[str, typer.Argument(help="The model.")],
    version: Annotated[int, typer.Argument(help="The version, served or retired.")],
    options: Options,
) -> int:
    """Keep a version from being deleted by `tfship gc`, or let it go again (--remove)."""
    from tasks.pin import pin as keep

    settings = settings_of(options, name)
    remove = bool(options["remove"])
    line = keep(settings.promotion, version, remove=remove)
    if options["as_json"]:
        import json

        document = {"name": name, "changed": line is not None, "version": version, "pinned": not remove}
        termination.show(json.dumps(document, indent=1))
        return 0
    what = "no longer pinned" if remove else "pinned: tfship gc does not delete it"
    say(f"version {version} of {name} is {what}{'' if line is not None else ', as before'}")
    say(f"next    tfship releases {where(name, settings)}")
    return 0


def rollback(
    name: Annotated[str, typer.Argument(help="The model.")],
    options: Options,
) -> int:
    """Serve an earlier version of a model again, once it is shown to be whole and to load; hold the later ones."""
    from tasks.rollback import rollback as serve_again

    settings = settings_of(options, name)
    line = serve_again(settings.promotion, options["to"], settings.servings[0], f"rollback-{os.getpid()}")
    if options["as_json"]:
        termination.show(line.model_dump_json(indent=1))
    else:
        taken = ", ".join(str(version) for version in line.retired)
        say(f"{name} serves version {line.version} again; {taken} held, nothing deleted")
        say(f"next    tfship releases {where(name, settings)}")
    return 0


def status(
    name: Annotated[str, typer.Argument(help="The model.")],
    options: Options,
) -> int:
    """Show what is on disk, in the configuration, in the journal and in running servers, and whether they agree."""
    from rich.table import Table

    from tasks.releases.status import status as found_of

    settings = settings_of(options, name)
    found = found_of(settings.promotion, full=bool(options["full"]))
    code = ExitCode.GATE_REFUSED if found.disagreements else ExitCode.DONE
    if options["as_json"]:
        termination.show(found.model_dump_json(indent=1))
        return code
    servers = [server.grpc for server in settings.release.servers]
    table = Table(box=None, pad_edge=False)
    for column in ("version", "promoted", "digest", "labels", "configured", *servers):
        table.add_column(column, overflow="fold", no_wrap=column in ("promoted", "digest"))
    for one in found.versions:
        row = (str(one.version), one.promoted or "no", one.digest[:12], ", ".join(one.labels))
        table.add_row(*map(cell, (*row, "loaded" if one.loaded else "", *(one.live[server] for server in servers))))
    console().print(table)
    for disagreement in found.disagreements:
        say(f"differs {disagreement}")
    if not found.disagreements:
        say(f"agreed{'' if servers else ', as far as it can be told without a running server: --server HOST:PORT'}")
    say(f"next    tfship releases {where(name, settings)}")
    return code


def releases(
    options: Options,
    name: Annotated[str | None, typer.Argument(help="The model; without one, all of them are listed.")] = None,
) -> int:
    """Show a model's history: promotions with their proof, and rollbacks with their reason; or list all models."""
    from rich.table import Table

    settings = options.settings()
    root = settings.serving_root
    if name is None:
        return _list(options, root)
    require_promoted(root, name)
    found = Releases(root, name)
    lines = found.journal()
    served = found.served()
    if options["as_json"]:
        import json

        document = {"name": name, "served": served, "journal": [line.model_dump(mode="json") for line in lines]}
        termination.show(json.dumps(document, indent=1))
        return 0
    table = Table(box=None, pad_edge=False)
    for column in ("time", "event", "version", "digest", "verdict", "evidence", "labels", "by", "reason"):
        fixed = column in ("time", "event", "version", "digest")
        table.add_column(
            column, overflow="fold", no_wrap=fixed, min_width=_REASON_WIDTH if column == "reason" else None
        )
    for line in lines:
        if line.event.is_intent:
            continue  # its outcome is the next line
        event = line.event.value + (" to" if line.retired else "")
        verdict = ", ".join((line.verdict, *(f"declared impure: {kind}" for kind in line.impure)))
        led = _labels(line.labels or {})
        reason = "; ".join(
            filter(None, (line.reason, *(f"waived {rule}: {what}" for rule, what in line.waived.items())))
        )
        proof = _evidence(found, line)
        row = (line.time, event, str(line.version or ""), line.digest[:12], verdict, proof, led, line.by, reason)
        table.add_row(*map(cell, row))
    console().print(table)
    unconfirmed = ", not confirmed: promote the same model again" if served in found.unconfirmed() else ""
    say(f"\nserved  version {served}{unconfirmed}" if served is not None else "\nserved  nothing")
    if pins := pinned(lines):
        say(f"pinned  {', '.join(map(str, sorted(pins)))}")
    say(f"next    {_next(found, root)}")
    return 0


def _evidence(found: Releases, line: JournalLine) -> str:
    """Return whether there is evidence of what a line promoted, and a signature; `tfship verify-release` checks them."""
    if line.event is not Event.PROMOTED or not line.evidence:
        return ""
    return "signed" if (found.evidence(line.version) / EVIDENCE_SIGNATURE).is_file() else "unsigned"


def _list(options: Options, root: Path) -> int:
    """List the models of a serving root."""
    from rich.table import Table

    configuration = Configuration(root)
    rows = []
    for name in promoted_to(root):
        model, entry = Releases(root, name), configuration.entry(name)
        last = next((line.time for line in reversed(model.journal()) if not line.event.is_intent), "")
        rows.append((name, model.served(), entry.labels if entry else {}, versions(model.names()), last))
    if options["as_json"]:
        import json

        fields = ("name", "served", "labels", "versions", "changed")
        termination.show(json.dumps([dict(zip(fields, row, strict=True)) for row in rows], indent=1))
        return 0
    table = Table(box=None, pad_edge=False)
    for column in ("model", "served", "labels", "versions", "last change"):
        table.add_column(column)
    for name, served, led, there, last in rows:
        numbers = ", ".join(map(str, there))
        table.add_row(*map(cell, (name, str(served or "nothing"), _labels(led), numbers, last)))
    if rows:
        console().print(table)
    else:
        say(f"no model was promoted to {root}")
    say(f"next    tfship {'status ' + rows[0][0] if rows else 'run'} --serving-root {shlex.quote(str(root))}")
    return 0


def _labels(led: Mapping[str, int]) -> str:
    return ", ".join(f"{label} {version}" for label, version in sorted(led.items()))


def where(name: str, settings: PipelineConfig) -> str:
    """Return the words of a command line for this model."""
    return shlex.join([name, "--serving-root", str(settings.serving_root)])


def _next(found: Releases, root: Path) -> str:
    """Return the next command: a rollback where there is an earlier version, else serve, or run where there is no version."""
    present = versions(found.names())
    where = f"{found.name} --serving-root {shlex.quote(str(root))}"
    if len(present) > 1:
        return f"tfship rollback {where} --reason WHY"
    return f"tfship serve {where}" if present else "tfship run"


def settings_of(options: Options, name: str, **more: Any) -> PipelineConfig:
    """Return the settings for a model that was promoted. Raises UsageError."""
    require_promoted(options.settings().serving_root, name)
    return options.settings(name=name, **more)
