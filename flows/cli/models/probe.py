"""`tfship probe`: prints the rows that a run would draw for a model, to be corrected and given back."""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli import termination
from flows.cli.options import Options, command, require_files
from tasks.errors import ExitCode
from tasks.presentation.terminal import say


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "probe", probe)


def probe(
    path: Annotated[Path, typer.Argument(help="Anything that TensorFlow saved: a folder, a file, or a prefix.")],
    options: Options,
) -> int:
    """Print the inputs that a run would send through a model, as one JSON document that --probe reads.

    {SIGNATURE: {INPUT: VALUES}}, with one item for each row; {SIGNATURE: {"examples": [{FEATURE: VALUES}]}} where they
    are tf.Examples. They come from a SavedModel's warmup requests, or are drawn by what the graph says of its inputs. The
    model is opened and not called.
    """
    from flows.cli.models.json_tensors import jsonable
    from tasks import isolate
    from tasks.adoption import adopt as adoption
    from tasks.forms.detect import detect
    from tasks.tensors import tensor_file

    settings = options.settings(source=str(path))
    require_files(settings)
    found = detect(path, settings.files.step if settings.files else None)
    with tempfile.TemporaryDirectory(prefix="tfship-probe-") as scratch:
        written = Path(scratch) / "inputs.tensors"
        with isolate.limits(settings.child_limits):
            made = isolate.call(
                adoption.write_probe,
                found,
                settings.given,
                settings.probe,
                settings.training.session,
                settings.code,
                written,
            )
        rows = tensor_file.read_tensors(written)
    say(f"note    {made.origin}", file=sys.stderr)
    following = shlex.join(["tfship", "run", str(path), *options.repeated(), "--probe"])
    say(f"next    correct them, then: {following} FILE", file=sys.stderr)
    document: dict[str, Any] = {
        key: {name: jsonable(array) for name, array in tensor_file.select(rows, key).items()} for key in made.signatures
    }
    for key, examples in made.examples.items():
        document[key] = {"examples": [{name: _values(held) for name, held in row.items()} for row in examples]}
    termination.show(json.dumps(document, allow_nan=False))
    return ExitCode.DONE


def _values(feature: list[int | float | bytes]) -> list[Any]:
    from flows.cli.models.json_tensors import text

    return [text(item) if isinstance(item, bytes) else item for item in feature]
