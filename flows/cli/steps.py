"""The commands of single steps, and `tfship convert`: the pipeline up to one step."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli import run as pipeline
from flows.cli import termination
from flows.cli.options import Options, Source, command
from tasks.artifact_views import PARITY, Compared, form_in, written_by
from tasks.errors import EnvironmentFailure, UsageError
from tasks.presentation.terminal import say
from tasks.records.forms import FROZEN_GRAPH_FILE, KERAS_ARCHIVE, Target
from tasks.records.run import RunSummary

_STEPS = {
    "train": "Train a model, or go on training a checkpoint (--from), and record its baseline.",
    "adopt": "Read a source model, and record its baseline.",
    "checkpoint": "Pin one checkpoint as files that can be moved and need nothing else.",
    "restore-verify": "Prove a checkpoint in a fresh process.",
    "freeze": "Write the frozen graph, and prove it.",
    "export": "Write the SavedModel, and prove it by both loaders.",
    "smoke-test": "Serve the SavedModel, and compare the server's answers.",
}
_FILES = {
    Target.FROZEN: (".pb", FROZEN_GRAPH_FILE),
    Target.KERAS: (".keras", KERAS_ARCHIVE),
}  # forms of a single file
_SUFFIXES = (".pb", ".pbtxt", ".meta", ".index", ".ckpt", ".keras", ".h5", ".hdf5")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for name, text in _STEPS.items():
        command(app, name, _step(name.replace("-", "_")), text)
    command(app, "convert", convert)


def _step(step: str) -> Callable[..., int]:
    def run(options: Options, source: Source = None) -> int:
        if options["start"] and not source:  # without code, training continues in the checkpoint's own graph
            source = str(options["start"])
        return pipeline.perform(source, options, until="rehearse" if options["rehearse"] else step)

    return run


def convert(
    source: Annotated[
        str, typer.Argument(metavar="IN", help="Anything TensorFlow saved, module:Model, or an example.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder or file to write; nothing may be there.")],
    options: Options,
) -> int:
    """Write a model in another form, proven equal to the source model."""
    to = options["to"]
    if out.exists() or out.is_symlink():
        raise UsageError(
            f"OUT {out}",
            "a path that does not exist",
            "an existing file or folder",
            "give another path, or move it away.",
        )
    _require_named_as(to, out)
    step = written_by(to)
    settings = options.settings(source=source, until=step, also=[to] if step == "convert" else None)
    summary = pipeline.ran(settings, options)
    if pipeline.assisted(summary):
        say(summary.model_dump_json(indent=1) if options["as_json"] else "\n".join(summary.notes))
        return 0
    artifact = next(Path(one.artifact) for one in summary.steps if one.name == step and one.artifact)
    compared = Compared(artifact).parity()
    for row in compared.rows if compared else ():
        if row.is_not_made:
            raise UsageError(
                f"--to {to.value}", "a form that this model can be written in", row.note, "choose another form."
            )
    place(form_in(artifact, to), out, to)
    if options["as_json"]:
        termination.show(summary.model_dump_json(indent=1))
    else:
        _show(summary, settings, to, out)
    return 0


def _show(summary: RunSummary, settings: Any, to: Target, out: Path) -> None:
    pipeline.print_summary(summary, settings)
    say(f"written {out} ({to.value})")
    say(f"next    tfship inspect {shlex.quote(str(out))}")


def _require_named_as(to: Target, out: Path) -> None:
    """Raise UsageError where OUT has the suffix of another form."""
    suffix, _ = _FILES.get(to, ("", ""))
    if out.suffix in _SUFFIXES and out.suffix != suffix:
        expected = "a folder's name" + (f", or a file's name that ends with {suffix}" if suffix else "")
        raise UsageError(
            f"OUT {out}, --to {to.value}", expected, f"a name that ends with {out.suffix}", "choose another name."
        )


def place(made: Path, out: Path, to: Target) -> None:
    """Copy a form to `out` atomically: only its one file where `out` has the suffix of that file, else its folder."""
    suffix, single = _FILES.get(to, ("", ""))
    alone = bool(suffix) and out.suffix == suffix
    if alone and (made / "assets").exists():
        remedy = f"give a folder's name; {single} will be in it."
        raise UsageError(f"OUT {out}", "a folder: this graph reads asset files", "a file's name", remedy)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as staging:
            complete = Path(staging) / "complete"
            if alone:
                shutil.copyfile(made / single, complete)
            else:
                shutil.copytree(made, complete, ignore=shutil.ignore_patterns("manifest.json", PARITY))
                for path in [complete, *complete.rglob("*")]:
                    path.chmod(0o755 if path.is_dir() else 0o644)
            os.rename(complete, out)
    except OSError as error:
        raise EnvironmentFailure.from_os(error, f"OUT {out}") from None
