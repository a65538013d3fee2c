"""Outputs of any form for a file of inputs. Runs in a child; the answers lie in a tensor file."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tasks.adoption import source_model
from tasks.errors import PipelineError, UsageError
from tasks.parity.predictor import Predictor
from tasks.probe import files, fit
from tasks.records.adoption import Found, ModelOptions
from tasks.records.base import Record
from tasks.records.settings import SessionOptions
from tasks.records.signature import Signature
from tasks.tensors import tensor_file
from tasks.tensors.tensor_file import Array, Tensors
from tasks.user_code.source import ModelSource


class Predicted(Record):
    """The form that answered, and the keys of the signatures for which the file held inputs."""

    form: str
    signatures: tuple[str, ...]
    notes: tuple[str, ...] = ()


def predict(
    found: Found, given: ModelOptions, code: ModelSource | None, options: SessionOptions, file: Path, out: Path
) -> Predicted:
    """Write the outputs for the inputs in `file` to `out`, keyed `signature/output`.

    The signatures are those that the file has inputs for. A batch size that a signature insists on is kept: rows are
    sent in batches of that size, the last one filled up with its last row, whose answers are dropped.

    Raises:
        UsageError: the file holds inputs for no signature, or values that they or the model do not take.
        As `source_model.opened`.
    """
    with (
        tempfile.TemporaryDirectory(dir=out.parent, prefix="scratch-") as scratch,
        source_model.opened(found, given, code, options, Path(scratch)) as brought,
    ):
        signatures = [brought.live.signatures[one.key] for one in brought.requested]
        answers: Tensors = {}
        chosen = _inputs(file, signatures)
        for signature, inputs in chosen:
            try:
                got = _in_batches(brought.live, signature, inputs, str(found.path))
            except UsageError as error:
                raise _of_inputs(error) from None
            answers |= tensor_file.keyed(signature.key, got)
        tensor_file.write_tensors(out, answers)
        keys = tuple(signature.key for signature, _ in chosen)
        return Predicted(form=found.form.value, signatures=keys, notes=brought.notes)


def ask(live: Predictor, signature: str, inputs: Mapping[str, Array], where: str) -> Tensors:
    """Return the outputs of one batch. Raises UsageError if the model does not accept it."""
    try:
        return live.predict(signature, inputs)
    except (PipelineError, MemoryError, OSError):
        raise
    except Exception as error:  # TensorFlow raises what its kernels say of the inputs
        found = f"{type(error).__name__}: {str(error).splitlines()[0][:300] if str(error) else ''}"
        remedy = "give inputs that it takes: --probe FILE."
        raise UsageError(f"{where}, signature {signature}", "an answer", found, remedy) from None


def _inputs(file: Path, signatures: list[Signature]) -> list[tuple[Signature, Tensors]]:
    try:
        held = files.held(file)
        served = [one for one in signatures if one.inputs and fit.serves(held, one)]
        # None at all: the first one's error says what is missing.
        return [(one, fit.fitted(held, one, file.name, cut=False).inputs) for one in served or signatures[:1]]
    except UsageError as error:
        raise _of_inputs(error) from None


def _of_inputs(error: UsageError) -> UsageError:
    """Return the same error with the name that the option has in this command."""
    remedy = error.remedy.replace("--probe", "--inputs")
    return error.changed(expected=error.expected.replace("the probe", "these inputs"), remedy=remedy)


def _in_batches(live: Predictor, signature: Signature, inputs: Tensors, where: str) -> Tensors:
    size = fit.fixed_batch(signature)
    rows = {len(array) for array in inputs.values() if array.ndim}
    if size is None or rows == {size}:
        return ask(live, signature.key, inputs, where)
    if len(rows) != 1:
        found = ", ".join(f"{len(array)} of {name}" for name, array in inputs.items() if array.ndim)
        raise UsageError(where, "as many rows for every input", found, "complete the file given with --inputs.")
    (count,) = rows
    parts: dict[str, list[Array]] = {}
    for start in range(0, count, size):
        index = np.minimum(np.arange(start, start + size), count - 1)
        answers = ask(live, signature.key, {name: array[index] for name, array in inputs.items()}, where)
        for name, array in answers.items():
            if array.ndim == 0 or len(array) != size:
                found = f"{name}, which has no row for each of them"
                remedy = f"give {size} rows at a time with --inputs."
                raise UsageError(where, f"outputs of batches of {size} that can be joined", found, remedy)
            parts.setdefault(name, []).append(array[: count - start])
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}
