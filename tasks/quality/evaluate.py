"""A model's quality on labelled data, per class or as an error of numbers. Runs in a child."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.errors import PipelineError, UsageError
from tasks.parity.predictor import Predictor
from tasks.probe import cast, files, fit
from tasks.probe.fit import LABELS, Held, Nested, Rows
from tasks.quality import output_choice
from tasks.quality.probe_sensitivity import probe_worth
from tasks.records.evaluation import ClassQuality, Evaluation
from tasks.records.signature import OutputRef, Signature
from tasks.tensors.tensor_file import Array, Tensors

__all__ = ["LABELS", "evaluate", "labelled", "probe_worth"]

_DEFAULT = "serving_default"


def labelled(file: Path, signatures: Sequence[Signature], label: str | None = None) -> tuple[Tensors, Array, str]:
    """Read the inputs of one signature by input name, one label per row, and the signature's key.

    The file has any format of a probe, with the labels as one more column, array or feature: `label`, otherwise one of
    `LABELS`. Labels are integers, strings or floats; one-hot rows are read as integers.

    Raises:
        UsageError: there are no labels, no inputs for any signature, or their numbers differ.
    """
    held = files.held(file)
    for signature in sorted(signatures, key=lambda signature: signature.key != _DEFAULT):
        name = _label(held, signature, label)
        if name is not None and fit.serves(held.without(name), signature):
            break
    else:
        if not any(_label(held, signature, label) for signature in signatures):
            wanted = repr(label) if label else ", ".join(map(repr, LABELS))
            remedy = "add a column of labels to the file, or name the one that holds them."
            raise UsageError(file.name, f"labels, as {wanted}", held.described(), remedy)
        signature, name = next((one, found) for one in signatures if (found := _label(held, one, label)))
    inputs = fit.fitted(held.without(name), signature, file.name, cut=False).inputs
    labels = _labels(held, name, f"{file.name}, {name}")
    for given, array in inputs.items():
        if array.ndim and len(array) != len(labels):
            found = f"{len(array)} of {given}, {len(labels)} labels"
            raise UsageError(file.name, "as many rows as labels", found, "give one label for each row.")
    return inputs, labels, signature.key


def _label(held: Held, signature: Signature, label: str | None) -> str | None:
    """Return the name of the labels of a signature. An input is never taken, unless it is requested."""
    names = [label] if label else [name for name in LABELS if name not in signature.inputs]
    found = [full for name in names for full in (str(OutputRef(signature.key, name)), name) if full in held.named]
    if len(found) > 1 and not label:
        remedy = "name the one that holds the labels."
        raise UsageError(f"a {held.kind} file", "one column of labels", ", ".join(map(repr, found)), remedy)
    return found[0] if found else None


def _labels(held: Held, name: str, where: str) -> Array:
    value = held.named[name]
    labels: Array
    if isinstance(value, Rows):
        widths = {len(row) for row in value.rows}
        if widths != {1}:
            found = f"rows of {min(widths, default=0)} to {max(widths, default=0)}"
            raise UsageError(where, "one label a row", found, "give each row one label.")
        flat = [row[0] for row in value.rows]
        labels = _typed([cell.strip() for cell in flat] if value.text else flat, value.text, where)
    elif isinstance(value, Nested):
        flat, shape = cast.flattened(value.value, where)
        labels = _typed(flat, False, where).reshape(shape)
    else:
        labels = value
    if labels.ndim == 2 and labels.shape[1] > 1 and labels.dtype.kind in "biuf" and _one_hot(labels):
        labels = np.argmax(labels, axis=1)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or not len(labels) or labels.dtype.kind not in "biufSUO":
        found = f"{labels.dtype.name}{list(labels.shape)}"
        raise UsageError(where, "one label a row: integers, strings or floats", found, "give each row one label.")
    if labels.dtype.kind in "SUO":
        return np.array([item.decode(errors="replace") if isinstance(item, bytes) else str(item) for item in labels])
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        row = int(np.argmin(np.isfinite(labels)))
        raise UsageError(f"{where}, row {row}", "a label", str(labels[row]), "correct the row; nothing is left out.")
    return labels.astype(np.int64) if labels.dtype.kind == "b" else labels


def _one_hot(labels: Array) -> bool:
    return bool(((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all())


def _typed(flat: list[Any], text: bool, where: str) -> Array:
    """Labels without a dtype: integers where all are, floats where all are numbers, else strings."""
    if text and not all(flat):
        raise UsageError(f"{where}, row {flat.index('')}", "a label", "an empty cell", "correct the row.")
    for dtype in ("int64", "float64"):
        try:
            numbers = cast.parsed(flat, dtype, where, (len(flat),)) if text else flat
            return cast.untyped(numbers, (len(flat),), dtype, where)
        except UsageError:
            continue
    if not text and flat and all(isinstance(item, bool) for item in flat):
        return np.array(flat, dtype=np.int64)
    return cast.untyped(flat, (len(flat),), "string", where)


def evaluate(
    predictor: Predictor,
    signature: str,
    inputs: Tensors,
    labels: Array,
    batch: int,
    *,
    file: str = "",
    output: str | None = None,
) -> Evaluation:
    """Measure how well one output predicts `labels`, sending rows in batches of `batch` or of the size that the signature fixes.

    The output is `output`, otherwise the one that `output_choice.choose` selects, which the record names.

    Raises:
        UsageError: no output can be compared with such labels.
        PipelineError: the model fails on a batch.
    """
    from sklearn import metrics

    answers = _answers(predictor, signature, inputs, len(labels), batch)
    where = f"the evaluation of {signature}"
    verdict = output_choice.choose(answers, labels, output, where)
    facts: dict[str, Any] = {
        "file": file,
        "signature": signature,
        "output": verdict.output,
        "rows": len(labels),
        "notes": verdict.notes,
    }
    if verdict.numbers:
        expected, got = np.asarray(verdict.labels, np.float64), np.asarray(verdict.answers, np.float64)
        if not np.isfinite(got).all():
            count = int((~np.isfinite(got)).sum())
            found = f"{count} of {len(got)} that are NaN or infinite"
            raise PipelineError(f"{where}, {verdict.output}", "finite answers", found, "look at the rows' inputs.")
        return Evaluation(
            **facts,
            mae=float(metrics.mean_absolute_error(expected, got)),
            rmse=float(metrics.root_mean_squared_error(expected, got)),
            r2=float(metrics.r2_score(expected, got)) if len(expected) > 1 else None,
        )
    # The classes of the rows and of the answers; an answer that names none (NaN scores) is wrong, and no class.
    classes = sorted({*verdict.labels, *verdict.answers} - {output_choice.NO_CLASS})
    each = metrics.precision_recall_fscore_support(verdict.labels, verdict.answers, labels=classes, zero_division=0)
    rows = [
        ClassQuality(label=str(name), precision=float(p), recall=float(r), f1=float(f), support=int(s))
        for name, p, r, f, s in zip(classes, *each, strict=True)
    ]
    return Evaluation(
        **facts,
        accuracy=float(metrics.accuracy_score(verdict.labels, verdict.answers)),
        macro_f1=float(np.mean([row.f1 for row in rows])),
        classes=tuple(rows),
    )


def _answers(predictor: Predictor, signature: str, inputs: Tensors, rows: int, batch: int) -> Tensors:
    """Return every output that has rows, for all rows. The last batch is padded with its last row where the size is fixed."""
    fixed = fit.fixed_batch(predictor.signatures[signature])
    size = fixed or batch
    parts: dict[str, list[Array]] = {}
    for start in range(0, rows, size):
        count = min(size, rows - start)
        index = np.minimum(np.arange(start, start + (fixed or count)), rows - 1)
        sent = {name: array[index] if array.ndim else array for name, array in inputs.items()}
        try:
            answers = predictor.predict(signature, sent)
        except (PipelineError, MemoryError, OSError):
            raise
        except Exception as error:
            where = f"the evaluation of {signature}, rows {start} to {start + count - 1}"
            found = f"{type(error).__name__}: {str(error).splitlines()[0][:300] if str(error) else ''}"
            raise PipelineError(where, "an answer", found, "correct these rows, or leave them out.") from None
        for name, array in answers.items():
            if array.ndim and len(array) == len(index):
                parts.setdefault(name, []).append(array[:count])
    batches = -(-rows // size)
    return {name: np.concatenate(arrays) for name, arrays in parts.items() if len(arrays) == batches}
