"""`tfship init`: writes a configuration file from what inspect finds and proposes."""

from __future__ import annotations

import math
import os
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from flows.cli.options import Options, command
from tasks.errors import DamagedError, EnvironmentFailure, UsageError
from tasks.presentation.terminal import one_line, say
from tasks.records.adoption import ModelOptions
from tasks.records.inspection import Inspection


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "init", init)


def init(
    path: Annotated[Path, typer.Argument(help="Anything that TensorFlow saved.")],
    options: Options,
) -> int:
    """Write a commented configuration for a model; guesses are commented out."""
    from tasks import isolate
    from tasks.inspection import inspect

    out, step = options["out"], options["step"]
    if out.exists():
        raise UsageError(
            f"--out {out}", "a path that does not exist", "a file", "give another path, or move the file away."
        )
    settings = options.settings(source=str(path))
    with isolate.limits(settings.child_limits):
        found = isolate.call(inspect.inspect, path, ModelOptions(), step, read=False, values=False)
    if found.whole is False:
        expected, remedy = "a complete model", "restore it from a backup, or take another checkpoint of it."
        raise DamagedError(str(path), expected, found.damage[0], remedy)
    scratch = out.with_name(f".{out.name}.new")
    try:
        scratch.write_text(_text(path, found, settings.model_name, step))
        os.replace(scratch, out)
    except OSError as error:
        raise EnvironmentFailure.from_os(error, f"--out {out}") from None
    say(f"written {out}")
    say(f"next    tfship run --config {out}")
    return 0


def _text(path: Path, found: Inspection, name: str, step: int | None) -> str:
    form = found.form.value if found.form else "unknown form"
    by = f", written by TensorFlow {found.written_by}" if found.written_by else ""
    lines = [
        one_line(f"# {form}{by}."),
        *(f"# {one_line(note)}" for note in (found.chosen, *found.notes, found.needs) if note),
        "# Every setting: README, Settings. Every tensor, op and signature: tfship inspect.",
        _entry("source", str(path.absolute())),
        _entry("name", name),
    ]
    if step is not None:
        lines.append(_entry("selection", {"which": step}))
    lines += ["", *_model_options(found), ""]
    lines += [
        "# The probe: a file of inputs (npz, npy, json, csv, TFRecord); else warmup requests, else random rows.",
        "probe: {rows: 50, seed: 0}  # file: probe.npz",
        "# Rows with labels, to measure quality on.",
        "# evaluate: {file: labelled.npz, label: label}",
        "# Served floats may differ by 8 times the model's own noise, which is measured; declare other limits here:",
        "# tolerance: {outputs: {output: [1.0e-5, 1.0e-5]}}  # absolute + relative * |expected|",
        "serving: {runtime: auto}",
        "release: {promote: true}",
    ]
    return "\n".join(lines) + "\n"


def _model_options(found: Inspection) -> list[str]:
    """Return the lines on signatures: declared ones as a comment, guesses commented out, the likeliest first."""
    proposal = found.proposal
    if proposal is None and found.options:  # several MetaGraphs: the choice is a guess
        tags = shlex.split(found.options[0])[1].split(",")
        return [
            "# The MetaGraph to take, by its tags; a guess: check it, then remove the `# `.",
            f"# {_entry('given', {'tags': tags})}",
        ]
    if proposal is None:
        return [
            "# Its signatures are known once the Python code or the graph that it needs is given.",
            "# given: {model: module:Model}",
        ]
    if proposal.declared:
        lines = ["# Signatures that the model declares; all of them are shipped. To ship one: given: {signature: KEY}"]
        for one in proposal.declared:
            lines.append(one_line(f"#   {one.key}: {', '.join(one.inputs)} -> {', '.join(one.outputs)}"))
        return lines
    lines = [
        "# The model declares no signature. This is a guess: check it, then remove the `# ` of the right lines.",
        "# given:",
        "#   inputs:",
    ]
    lines += [
        _guess(f"- {_scalar(one.tensor)}", f"{one.dtype} {_shape(one.shape)}: {one.why}") for one in proposal.inputs
    ]
    lines += ["#   outputs:"]
    lines += [
        _guess(f"- {_scalar(one.tensor)}", f"{one.dtype} {_shape(one.shape)}: {one.why}") for one in proposal.outputs
    ]
    if proposal.pins:
        lines += ["#   pins:"]
        lines += [_guess(_entry(one.tensor.removesuffix(":0"), one.value), one.why) for one in proposal.pins]
    return lines


def _shape(shape: tuple[int | None, ...] | None) -> str:
    return "any" if shape is None else "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"


def _guess(entry: str, why: str) -> str:
    return f"#     {entry}  # {one_line(why)}"


def _entry(name: str, value: Any) -> str:
    return f"{_scalar(name)}: {_scalar(value)}"


def _scalar(value: Any) -> str:
    """Return a value as YAML of one line, whatever is in it."""
    text = ""
    for style in (None, '"'):
        text = yaml.safe_dump(value, default_flow_style=True, width=math.inf, default_style=style)
        text = text.removesuffix("...\n").strip()
        if text == one_line(text):
            break
    return text
