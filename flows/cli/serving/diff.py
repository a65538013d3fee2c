"""`tfship diff`: shows what changed between two releases of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli import termination
from flows.cli.options import Options, command, require_files
from flows.cli.serving.versions import settings_of, where
from tasks.presentation.terminal import cell, console, say
from tasks.records.signature import OutputRef
from tasks.releases.publish import Releases

if TYPE_CHECKING:
    from tasks.verify.release_diff import FileChanges, ReleaseDiff

_LARGEST = 20


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "diff", diff)


def diff(
    name: Annotated[str, typer.Argument(help="The model.")],
    before: Annotated[int, typer.Argument(help="A version of it.")],
    after: Annotated[int, typer.Argument(help="Another version.")],
    options: Options,
) -> int:
    """Show what changed between two releases: ops, signatures, tensors by norm, outputs on one probe. Nothing is judged."""
    from tasks import isolate
    from tasks.verify import release_diff

    settings = settings_of(options, name)
    require_files(settings)
    releases = Releases(settings.serving_root, name)
    old, new = releases.folder(before), releases.folder(after)
    with isolate.limits(settings.child_limits):
        found = release_diff.diff(old, new, settings.probe)
    if options["as_json"]:
        termination.show(found.model_dump_json(indent=1))
        return 0
    _show_files(found.files)
    _show_outputs(found)
    if found.equal:
        say("\nsame    nothing differs")
    say(f"next    tfship releases {where(name, settings)}")
    return 0


def _show_files(files: FileChanges) -> None:
    from rich.table import Table

    for words in files.signatures:
        say(f"differs signature {words}")
    for op, (then, now) in files.ops.items():
        say(f"differs op {op}: {then} nodes, now {now}")
    total = len(files.tensors) + files.same_tensors
    say(f"tensors {files.same_tensors} of {total} are the same byte for byte")
    if not files.tensors:
        return
    table = Table(box=None, pad_edge=False)
    for column in ("tensor", "norm before", "norm after", "of the difference", "part"):
        table.add_column(column, justify="left" if column == "tensor" else "right", overflow="fold")
    ordered = sorted(files.tensors, key=lambda one: -_part(one.distance, one.norm_before))
    for one in ordered[:_LARGEST]:
        if one.distance is None or one.norm_before is None:
            table.add_row(cell(one.name), cell(one.before), cell(one.after), "", "")
        else:
            part = f"{_part(one.distance, one.norm_before):.2%}"
            table.add_row(
                cell(one.name), f"{one.norm_before:.4g}", f"{one.norm_after:.4g}", f"{one.distance:.3g}", part
            )
    console().print(table)
    if len(ordered) > _LARGEST:
        say(f"and {len(ordered) - _LARGEST} more, which changed less: --json has all")


def _show_outputs(found: ReleaseDiff) -> None:
    if found.note:
        say(f"note    {found.note}")
        return
    say(f"probe   {found.probe}")
    for row in found.outputs:
        output = OutputRef(row.signature, row.output)
        if row.passed is None or not row.compared:
            say(f"output  {output}: not compared{': ' if row.note else ''}{row.note}")
        else:
            say(f"output  {output}: {row.mismatched} of {row.compared} values differ, by at most {row.max_abs:.4g}")


def _part(distance: float | None, norm: float | None) -> float:
    """Return the difference as a part of what was there; infinite where there is no such number."""
    return distance / norm if distance is not None and norm else float("inf")
