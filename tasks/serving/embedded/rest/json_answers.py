"""REST answers: convert output tensors, classifications and regressions to JSON.

Rules and texts: `MakeJsonFromTensors`, `MakeJsonFromClassificationResult` and `MakeJsonFromRegressionResult` in
tensorflow_serving/util/json_tensor.cc.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tasks.serving.embedded import tensors
from tasks.serving.embedded.errors import invalid
from tasks.serving.embedded.rest.json_writer import Piece, decimals, encode, render, text
from tasks.serving.embedded.tensors import Array
from tasks.serving.protos import ClassificationResult, RegressionResult


def predict_answer(outputs: Mapping[str, Array], *, by_row: bool) -> bytes:
    """Return the JSON of a predict response: `predictions` by row, or `outputs` by column; a single output has no name.

    Raises:
        ServingError: outputs of different row counts, or of a type that JSON cannot carry.
    """
    if not outputs:
        raise invalid("Cannot convert empty tensor map to JSON")
    if by_row:
        return _rows(outputs)
    pieces = {alias: _nested(outputs[alias], alias) for alias in sorted(outputs)}
    return encode({"outputs": pieces if len(pieces) > 1 else next(iter(pieces.values()))})


def _rows(outputs: Mapping[str, Array]) -> bytes:
    rows = -1
    for alias in sorted(outputs):
        shape = outputs[alias].shape
        if not shape:
            raise invalid(f"Tensor name: {alias} has no shape information ")
        if rows not in (-1, shape[0]):
            raise invalid(f"Tensor name: {alias} has inconsistent batch size: {shape[0]} expecting: {rows}")
        rows = shape[0]
    columns = {alias: _nested(outputs[alias], alias) for alias in sorted(outputs)}
    if len(columns) == 1:
        (column,) = columns.values()
        joined = ", ".join(render(row, single_line_arrays=True, depth=2) for row in column)
        body = f"[{joined}\n    ]" if joined else "[]"
    else:
        names = list(columns)
        objects = [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        joined = ",".join("\n        " + render(row, single_line_arrays=True, depth=2) for row in objects)
        body = f"[{joined}\n    ]" if joined else "[]"
    return encode({"predictions": body})


def _nested(tensor: Array, alias: str) -> Any:
    """Return JSON values in lists nested as the tensor is; a scalar is one value."""
    pieces = _values(tensor, as_bytes=alias.endswith("_bytes"))
    if not tensor.shape:
        return pieces[0]
    for size, outer in zip(reversed(tensor.shape[1:]), range(tensor.ndim - 1, 0, -1), strict=True):
        blocks = math.prod(tensor.shape[:outer])
        pieces = [pieces[block * size : (block + 1) * size] for block in range(blocks)]
    return pieces


def _values(tensor: Array, *, as_bytes: bool) -> list[Piece]:
    flat = tensor.reshape(-1)
    if not flat.size:
        return []
    if tensor.dtype == object and as_bytes:
        return [{"b64": text(base64.b64encode(value).decode())} for value in flat]
    if tensor.dtype == object:
        return [text(value.decode("utf-8", "surrogateescape")) for value in flat]
    if tensor.dtype in (np.float32, np.float64):
        return [*decimals(flat)]
    if tensor.dtype == bool:
        return ["true" if value else "false" for value in flat.tolist()]
    if tensor.dtype.kind in "iu" and tensor.dtype != np.uint16:
        return [str(value) for value in flat.tolist()]
    name = tensors.data_type_name(tensors.data_type_of(tensor.dtype))
    raise invalid(f"Failed to write JSON value for tensor type: {name}")


def classify_answer(result: ClassificationResult) -> bytes:
    """Return `{"results": [[["label", score], …], …]}`."""
    if not result.classifications:
        raise invalid("Cannot convert empty ClassificationResults to JSON")
    rows: list[Piece] = []
    for classifications in result.classifications:
        scores = decimals(np.array([found.score for found in classifications.classes], np.float32))
        labels = [text(found.label) for found in classifications.classes]
        rows.append([[label, score] for label, score in zip(labels, scores, strict=True)])
    joined = ", ".join(render(row, single_line_arrays=True, depth=2) for row in rows)
    return encode({"results": f"[{joined}\n    ]"})


def regress_answer(result: RegressionResult) -> bytes:
    """Return `{"results": [value, …]}`."""
    if not result.regressions:
        raise invalid("Cannot convert empty RegressionResults to JSON")
    values: list[Piece] = [*decimals(np.array([found.value for found in result.regressions], np.float32))]
    return encode({"results": values}, single_line_arrays=True)
