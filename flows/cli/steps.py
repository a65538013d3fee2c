"""The single steps as commands, and `tfship convert`: the pipeline up to one step, and the path of what that made."""

from __future__ import annotations

import inspect
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from flows.cli import run as pipeline
from flows.cli import termination
from flows.cli.options import serving
from tasks.artifact_views import PARITY, Compared
from tasks.errors import EnvironmentFailure, UsageError
from tasks.forms import frozen_graph
from tasks.forms.keras import model as keras
from tasks.records.forms import Target
from tasks.records.run import RunSummary

_STEPS = {
    "train": "Train a model, or go on training a checkpoint (--from), and record its baseline.",
    "adopt": "Read a brought model, open it, and record its baseline.",
    "checkpoint": "Pin one checkpoint as files that can be moved and need nothing else.",
    "restore-verify": "Prove a checkpoint in a fresh process.",
    "freeze": "Write the frozen graph, and prove it.",
    "export": "Write the SavedModel, and prove it by both loaders.",
    "smoke-test": "Serve the SavedModel, and compare what the server answers.",
}
_LATER = {"no_promote", "force", "reason", "serving_root", "name", "also"}
_SERVING = set(serving.OPTIONS)
_MEASURING = {"evaluate", "label"}  # restore-verify measures the quality
_TRAINING: dict[str, Any] = {
    "start": Annotated[Path | None, typer.Option("--from", help="The checkpoint to start from.")],
    "start_step": Annotated[int | None, typer.Option("--from-step", help="The step of that checkpoint.")],
    "batches": Annotated[Path | None, typer.Option(help="What a brought graph's train op is fed: npz, rows by name.")],
    "batch_size": Annotated[int | None, typer.Option(help="Rows of that file a step.")],
    "train_op": Annotated[str | None, typer.Option(help="The brought graph's train op.")],
    "loss": Annotated[str | None, typer.Option(help="The brought graph's loss.")],
    "restore": Annotated[
        list[str] | None, typer.Option(help="Variables to take from that checkpoint; repeatable, * for any.")
    ],
}
_MADE = {Target.SAVED_MODEL: ("export", "saved_model"), Target.FROZEN: ("freeze", "")}
_FILES = {
    Target.FROZEN: (".pb", frozen_graph.GRAPH),
    Target.KERAS: (".keras", keras.ARCHIVE),
}  # what is a form by itself
_SUFFIXES = (".pb", ".pbtxt", ".meta", ".index", ".ckpt", ".keras", ".h5", ".hdf5")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for name, text in _STEPS.items():
        app.command(name, help=text)(_command(name.replace("-", "_")))
    app.command("convert")(with_options(convert, leave_out=_LATER | _SERVING | {"source"}))


def _command(step: str) -> Callable[..., int]:
    def command(**options: Any) -> int:
        if options.get("start") and not options["source"]:  # no code: the checkpoint's own graph goes on
            options["source"] = str(options["start"])
        return pipeline.perform(options, until="rehearse" if options.get("rehearse") else step)

    leave_out = _LATER - {"serving_root", "name"} if step == "smoke_test" else _LATER | _SERVING
    leave_out |= _MEASURING if step in ("train", "adopt", "checkpoint") else set()
    return with_options(command, leave_out=leave_out, more=_TRAINING if step == "train" else {})


def with_options(
    command: Callable[..., int], *, leave_out: set[str], more: dict[str, Any] | None = None
) -> Callable[..., int]:
    """`command` with the options of `tfship run` behind its own, but for those that it has no use for."""
    hints = get_type_hints(pipeline.run, include_extras=True)
    own = get_type_hints(command, include_extras=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        parameter.replace(kind=keyword, annotation=own[name])
        for name, parameter in inspect.signature(command).parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    for name, parameter in inspect.signature(pipeline.run).parameters.items():
        if name not in leave_out:
            parameters.append(parameter.replace(kind=keyword, annotation=hints[name]))
    for name, annotation in (more or {}).items():
        parameters.append(inspect.Parameter(name, keyword, default=None, annotation=annotation))

    def shown(**options: Any) -> int:
        return command(**options)

    shown.__doc__ = command.__doc__
    shown.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    shown.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return shown


def convert(
    source: Annotated[
        str, typer.Argument(metavar="IN", help="Anything TensorFlow saved, module:Model, or an example.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder or file to write; nothing may be there.")],
    to: Annotated[Target, typer.Option(help="The form to write.")],
    **options: Any,
) -> int:
    """Write a model in another form, proven equal to the original."""
    if out.exists() or out.is_symlink():
        raise UsageError(f"OUT {out}", "a path where nothing is", "something", "give another, or move it away.")
    _require_named_as(to, out)
    step, folder = _MADE.get(to, ("convert", to.value))
    options |= {"source": source, "also": None if to in _MADE else [to]}
    settings = pipeline.settings_of(options, until=step)
    summary = pipeline.ran(settings, options)
    if pipeline.assisted(summary):
        print(summary.model_dump_json(indent=1) if options["as_json"] else "\n".join(summary.notes))
        return 0
    artifact = next(Path(one["artifact"]) for one in summary.steps if one["name"] == step)
    compared = Compared(artifact).parity()
    for row in compared.rows if compared else ():
        if row.is_not_made:
            raise UsageError(f"--to {to.value}", "a form that this model has", row.note, "choose another form.")
    place(artifact / folder, out, to)
    if options["as_json"]:
        termination.show(summary.model_dump_json(indent=1))
    else:
        _show(summary, settings, to, out)
    return 0


def _show(summary: RunSummary, settings: Any, to: Target, out: Path) -> None:
    pipeline.print_summary(summary, settings)
    print(f"written {out} ({to.value})")
    print(f"next    tfship inspect {shlex.quote(str(out))}")


def _require_named_as(to: Target, out: Path) -> None:
    """Raise UsageError where OUT is called as a file is that this form is not."""
    suffix, _ = _FILES.get(to, ("", ""))
    if out.suffix in _SUFFIXES and out.suffix != suffix:
        expected = "a folder's name" + (f", or one that ends with {suffix}" if suffix else "")
        raise UsageError(f"OUT {out}, --to {to.value}", expected, f"one that ends with {out.suffix}", "give another.")


def place(made: Path, out: Path, to: Target) -> None:
    """Copy what was made to `out`, whole or not at all: the one file that is the form, where `out` is named as one."""
    suffix, single = _FILES.get(to, ("", ""))
    alone = bool(suffix) and out.suffix == suffix
    if alone and (made / "assets").exists():
        remedy = f"give a folder's name; {single} will be in it."
        raise UsageError(f"OUT {out}", "a folder: this graph reads files beside it", "a file's name", remedy)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as staging:
            whole = Path(staging) / "whole"
            if alone:
                shutil.copyfile(made / single, whole)
            else:
                shutil.copytree(made, whole, ignore=shutil.ignore_patterns("manifest.json", PARITY))
                for path in [whole, *whole.rglob("*")]:
                    path.chmod(0o755 if path.is_dir() else 0o644)
            os.rename(whole, out)
    except OSError as error:
        raise EnvironmentFailure.from_os(error, f"OUT {out}") from None
