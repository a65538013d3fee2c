"""Tables on stdout for an Inspection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from tasks.presentation import terminal
from tasks.presentation.terminal import cell, say
from tasks.records.adoption import Candidate, OpsFound, Proposal
from tasks.records.inspection import Inspection, TensorRow

_LISTED = 60
_COMPLETE = {True: "yes, every tensor was read", False: "NO", None: "not checked"}


def show(found: Inspection, *, with_values: bool, with_ops: bool) -> None:
    """Print an inspection, except the last line with the next command."""
    console = terminal.console()
    for name, value in _heading(found):
        say(f"{name:<12}{value}")
    if found.keras:
        _table(
            console,
            f"{found.keras.model_class} (Keras {found.keras.version or 'of unknown version'})",
            ("layer", "class"),
            found.keras.layers,
        )
        if found.keras.lambdas:
            say(f"lambdas     {', '.join(found.keras.lambdas)}: Python code in the file, refused when it is loaded")
    if found.variables:
        _variables(console, found.variables, with_values)
    if found.proposal:
        _signatures(console, found.proposal)
    if found.collections:
        rows = [(name, str(len(held)), ", ".join(held)[:100]) for name, held in found.collections.items()]
        _table(console, "collections", ("name", "entries", ""), rows)
    if found.hyperparameters:
        _table(console, "hyper-parameters", ("name", "value"), [(k, str(v)) for k, v in found.hyperparameters.items()])
    if found.ops:
        _ops(console, found, found.ops, with_ops)
    say()


def _heading(found: Inspection) -> Iterable[tuple[str, str]]:
    yield "path", found.path
    yield "form", found.form.value if found.form else "unknown"
    if found.chosen:
        yield "checkpoint", found.chosen
    if len(found.available) > 1:
        yield "available", ", ".join(found.available)
    producer = f"GraphDef producer {found.producer}" if found.producer else ""
    if found.written_by or producer:
        yield (
            "written by",
            ", ".join(part for part in (f"TensorFlow {found.written_by}" * bool(found.written_by), producer) if part),
        )
    yield "complete", _COMPLETE[found.whole]
    for damage in found.damage[:_LISTED]:
        yield "damaged", damage
    if found.needs:
        yield "needs", found.needs
    for note in found.notes:
        yield "note", note


def _variables(console: Console, rows: tuple[TensorRow, ...], with_values: bool) -> None:
    total = sum(row.bytes or 0 for row in rows)
    roles = Counter(row.role for row in rows)
    split = ", ".join(f"{count} {role}" for role, count in roles.most_common())
    columns = ["name", "dtype", "shape", "bytes", "for"] + (["min", "mean", "max", "not finite"] if with_values else [])
    shown = []
    for row in rows:
        cells = [
            row.name,
            row.dtype,
            _shape(row.shape),
            "not here" if row.bytes is None else f"{row.bytes:,}",
            row.role,
        ]
        if with_values:
            cells += ["" if value is None else f"{value:.6g}" for value in (row.min, row.mean, row.max, row.nonfinite)]
        shown.append(tuple(cells))
    _table(
        console,
        f"{len(rows)} variables, {total:,} bytes: {split}",
        columns,
        shown,
        limit=None if with_values else _LISTED,
    )


def _signatures(console: Console, proposal: Proposal) -> None:
    for signature in proposal.declared:
        rows = [
            (side, alias, spec.tensor, spec.dtype, _shape(spec.shape))
            for side, specs in (("input", signature.inputs), ("output", signature.outputs))
            for alias, spec in specs.items()
        ]
        _table(
            console,
            f"signature {signature.key} ({signature.method.value})",
            ("", "name", "tensor", "dtype", "shape"),
            rows,
        )
    for key, held in proposal.collected.items():
        say(f"collection  {key} names {', '.join(held)}")
    if proposal.declared:
        return
    guesses = [
        *(_guess("input", one) for one in proposal.inputs),
        *(_guess("pin", one) for one in proposal.pins),
        *(_guess("output", one) for one in proposal.outputs),
    ]
    if guesses:
        columns = ("", "tensor", "dtype", "shape", "why")
        _table(console, "no signatures; these are guesses, the likeliest first", columns, guesses)


def _guess(side: str, one: Candidate) -> tuple[str, ...]:
    value = "" if one.value is None else f"={str(one.value).lower() if isinstance(one.value, bool) else one.value}"
    return side, one.tensor + value, one.dtype, _shape(one.shape), one.why


def _ops(console: Console, found: Inspection, ops: OpsFound, with_ops: bool) -> None:
    if with_ops:
        _table(
            console,
            f"{sum(ops.counts.values())} nodes",
            ("op", "count"),
            [(op, str(n)) for op, n in ops.counts.items()],
            limit=None,
        )
    reached = f"what {', '.join(found.reached_from[:3])} reach" if found.reached_from else "the whole graph"
    unknown = [f"{op} ({library})" if library else op for op, library in ops.unknown.items()]
    rows = [
        (name, ", ".join(held[:20]) + (f", and {len(held) - 20} more" if len(held) > 20 else ""))
        for name, held in (
            ("unknown ops", unknown),
            ("no CPU kernel", list(ops.no_kernel)),
            ("a Saver's own, for checkpoints", list(ops.of_saver)),
            ("access files, network or Python", [name for name in ops.unsafe if name not in ops.of_saver]),
            ("different in training", list(ops.train_mode)),
        )
    ]
    _table(console, f"ops of {reached}", ("", ""), [(name, held or "none") for name, held in rows])
    if ops.devices:
        say(f"devices     {', '.join(ops.devices)}")


def _shape(shape: tuple[int | None, ...] | None) -> str:
    return "?" if shape is None else f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def _table(
    console: Console, title: str, columns: Iterable[str], rows: Iterable[tuple[str, ...]], limit: int | None = _LISTED
) -> None:
    table = Table(title=cell(title), title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(
            column, overflow="fold", justify="right" if column in ("bytes", "count", "entries") else "left"
        )
    rows = list(rows)
    for row in rows[:limit]:
        table.add_row(*map(cell, row))
    say()
    console.print(table)
    if limit is not None and len(rows) > limit:
        say(f"… and {len(rows) - limit} more; --json has all")
