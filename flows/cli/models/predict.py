"""`tfship predict`: prints the outputs of a saved model for a file of inputs."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli import termination
from flows.cli.options import Options, command, require_files
from tasks.errors import EnvironmentFailure, ExitCode, UsageError
from tasks.presentation.terminal import say
from tasks.records.signature import OutputRef

if TYPE_CHECKING:
    from tasks.tensors.tensor_file import Tensors


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "predict", predict)


def predict(
    path: Annotated[Path, typer.Argument(help="Anything TensorFlow saved: a folder, a file, or a prefix.")],
    options: Options,
) -> int:
    """Print a model's outputs as one JSON document in the column format of TF Serving's REST API, or write an npz.

    {"signature_name": KEY, "outputs": {NAME: VALUES}}; where the file has inputs for several signatures,
    {"predictions": [such a document for each]}. Outputs are always named, even a single one. A string is text; it is
    {"b64": …} where its output's name ends with _bytes, as in TF Serving, or where it is not UTF-8. NaN and infinities
    are spelled as TF Serving spells them (tensorflow_serving/util/json_tensor.cc), NaN, Infinity and -Infinity, but in
    quotes, because JSON has no such numbers.

    An npz holds arrays by output name, `signature/output` where there are several signatures. dtypes that numpy does
    not have, such as bfloat16, are written as float32.
    """
    from flows.cli.models.json_tensors import jsonable
    from tasks import isolate
    from tasks.forms.detect import detect
    from tasks.tensors import tensor_file
    from tasks.verify import predict as prediction

    settings, file, out = options.settings(source=str(path)), options["file"], options["out"]
    require_files(settings)
    found = detect(path, settings.files.step if settings.files else None)
    if not file.is_file():
        raise UsageError("--inputs", "a file of inputs", f"no such file: {file}", "give the path of an existing file.")
    with tempfile.TemporaryDirectory(prefix="tfship-predict-") as scratch:
        answered = Path(scratch) / "outputs.tensors"
        with isolate.limits(settings.child_limits):
            predicted = isolate.call(
                prediction.predict, found, settings.given, settings.code, settings.training.session, file, answered
            )
        answers = tensor_file.read_tensors(answered)
    for note in (found.chosen, *predicted.notes):
        if note:
            say(f"note    {note}", file=sys.stderr)
    if out is not None:
        _write(out, answers, alone=len(predicted.signatures) == 1)
        return ExitCode.DONE
    documents = [
        {
            "signature_name": key,
            "outputs": {
                name: jsonable(array, in_base64=name.endswith("_bytes"))
                for name, array in tensor_file.select(answers, key).items()
            },
        }
        for key in predicted.signatures
    ]
    document = documents[0] if len(documents) == 1 else {"predictions": documents}
    termination.show(json.dumps(document, allow_nan=False))
    return ExitCode.DONE


def _write(out: Path, answers: Tensors, *, alone: bool) -> None:
    """Write an npz atomically."""
    import numpy as np

    from tasks.tensors import tensor_file

    held: Tensors = {}
    for name, array in answers.items():
        key = OutputRef.parse(name).output if alone else name
        if tensor_file.dtype_name(array) == "string":
            flat = array.ravel().tolist()
            if any(item.endswith(b"\0") for item in flat):
                remedy = "leave --out out: JSON can hold it."
                raise UsageError(f"--out {out}, {key}", "strings that an npz can hold", "one ending in \\0", remedy)
            held[key] = np.array(flat, dtype="S").reshape(array.shape)
        else:
            held[key] = array.astype(np.float32) if array.dtype.kind == "V" else array
    new = out.with_name(f"{out.name}.new")
    try:
        with new.open("wb") as stream:
            np.savez(stream, **held)  # type: ignore[arg-type]
        os.replace(new, out)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise EnvironmentFailure.from_os(error, f"--out {out}") from None
