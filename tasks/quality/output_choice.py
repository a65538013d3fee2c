"""Choice of the scored output of a signature, and conversion of its answers into classes or numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.errors import UsageError
from tasks.quality.probe_sensitivity import SCORES
from tasks.tensors.tensor_file import Array, Tensors

NO_CLASS = "(none)"  # what a row without a finite score answers
_CLASSES = ("class", "classes", "class_id", "class_ids", "label", "labels", "prediction", "predictions", "argmax")


@dataclass(frozen=True)
class ScoredOutput:
    """What is compared: `answers` with `labels`, as `numbers` or as the names of classes."""

    output: str
    numbers: bool
    labels: list[Any]
    answers: list[Any]
    notes: tuple[str, ...] = ()


def choose(outputs: Mapping[str, Array], labels: Array, wanted: str | None, where: str) -> ScoredOutput:
    """Return the scored output: the one of that name, otherwise the likeliest one.

    Labels with fractions are compared with numbers. Others are compared with an output that names a class in each row, then
    with the best of several scores, then, if 0 and 1 are the only labels, with a probability, then as numbers.

    Raises:
        UsageError: there is no such output, or none or several that can be compared with such labels.
    """
    if wanted is not None and wanted not in outputs:
        raise UsageError(where, f"the output {wanted!r}", _described(outputs), "name one of the outputs.")
    flat = {name: _column(array) for name, array in outputs.items()}
    considered = {name: flat[name] for name in ([wanted] if wanted else flat)}
    fractions = labels.dtype.kind == "f" and bool((labels != np.trunc(labels)).any())
    if not fractions:
        for judge in (_named_classes, _best_scores, _probability):
            verdict = judge(considered, flat, labels, where)
            if verdict is not None:
                return verdict
    if labels.dtype.kind in "iuf":
        floats = [name for name, array in considered.items() if array.ndim == 1 and array.dtype.kind in "fVi"]
        if floats:
            name = _only(floats, _CLASSES, considered, where)
            return ScoredOutput(name, True, labels.tolist(), considered[name].astype(np.float64).tolist())
    kind = "strings" if labels.dtype.kind == "U" else "fractions" if fractions else "integers"
    remedy = "name an output of one class, one number or several scores a row; integer labels suit scores."
    raise UsageError(where, f"an output that labels which are {kind} can be compared with", _described(outputs), remedy)


def _named_classes(considered: Tensors, flat: Tensors, labels: Array, where: str) -> ScoredOutput | None:
    """Return an output that names a class in each row, or the classes that belong to its scores (TF Serving's classify)."""
    text = labels.dtype.kind == "U"
    kinds = "SUO" if text else "iubSUO"
    found: Tensors = {}
    for name, array in considered.items():
        if array.dtype.kind in "SUO" and array.ndim == 2 and "scores" in flat and flat["scores"].shape == array.shape:
            found[name] = np.take_along_axis(array, np.argmax(flat["scores"], axis=1)[:, np.newaxis], axis=1)[:, 0]
        elif array.dtype.kind in kinds and array.ndim == 1:
            found[name] = array
    scored = any(array.ndim == 2 and array.dtype.kind in "fV" for array in considered.values())
    if scored:  # an integer beside scores may count anything: only its name says that it is a class
        found = {name: array for name, array in found.items() if array.dtype.kind in "SUO" or name.lower() in _CLASSES}
    if not found:
        return None
    name = _only(list(found), _CLASSES, found, where)
    answers = found[name]
    if answers.dtype.kind not in "SUO":
        return ScoredOutput(name, False, [int(label) for label in labels], [int(answer) for answer in answers])
    names = [item.decode(errors="replace") if isinstance(item, bytes) else str(item) for item in answers.tolist()]
    return ScoredOutput(name, False, [str(label) if text else str(int(label)) for label in labels], names)


def _best_scores(considered: Tensors, flat: Tensors, labels: Array, where: str) -> ScoredOutput | None:
    """Return the class with the highest of several scores."""
    found = [name for name, array in considered.items() if array.dtype.kind in "fV" and array.ndim == 2]
    if labels.dtype.kind == "U" or not found:
        return None
    name = _only(found, SCORES, considered, where)
    scores = considered[name].astype(np.float64)
    best: list[Any] = np.argmax(scores, axis=1).tolist()
    lost = np.asarray(np.isnan(scores).any(axis=1))
    notes = (f"{int(lost.sum())} rows have scores that are NaN: they count as wrong",) if lost.any() else ()
    answers = [NO_CLASS if row_lost else str(answer) for answer, row_lost in zip(best, lost.tolist(), strict=True)]
    if not lost.any():
        return ScoredOutput(name, False, [int(label) for label in labels], best)
    return ScoredOutput(name, False, [str(int(label)) for label in labels], answers, notes)


def _probability(considered: Tensors, flat: Tensors, labels: Array, where: str) -> ScoredOutput | None:
    """Return one probability per row, for labels that are 0 or 1."""
    if labels.dtype.kind == "U" or not set(labels.tolist()) <= {0, 1}:
        return None
    found = [
        name
        for name, array in considered.items()
        if array.dtype.kind in "fV" and array.ndim == 1 and ((array >= 0) & (array <= 1)).all()
    ]
    if not found:
        return None
    name = _only(found, SCORES, considered, where)
    answers = [int(answer >= 0.5) for answer in considered[name].tolist()]
    return ScoredOutput(
        name, False, [int(label) for label in labels], answers, ("a probability of 0.5 or more is class 1",)
    )


def _only(names: list[str], preferred: tuple[str, ...], outputs: Tensors, where: str) -> str:
    """Return the only one of `names`, or the only one with a usual name, in the order of `preferred`."""
    for usual in preferred:
        if named := [name for name in names if name.lower() == usual]:
            return named[0]
    if len(names) > 1:
        shown = _described({name: outputs[name] for name in names})
        raise UsageError(where, "one output to judge", shown, "name the output that answers the labels.")
    return names[0]


def _column(array: Array) -> Array:
    """Return one value per row as a vector."""
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def _described(outputs: Mapping[str, Array]) -> str:
    return ", ".join(f"{name} {array.dtype.name}{list(array.shape)}" for name, array in outputs.items()) or "none"
