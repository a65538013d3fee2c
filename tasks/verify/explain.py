"""Why a candidate answers otherwise: both models are opened in one child and compared tensor by tensor."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tasks.adoption import source_graph
from tasks.adoption.source_loader import SourcePredictor
from tasks.parity import compare
from tasks.parity.predictor import Predictor
from tasks.records.parity import ParityRow, Tolerance
from tasks.records.signature import Signature
from tasks.tensors import tensor_file
from tasks.tensors.tensor_file import Tensors
from tasks.verify import divergence, pairing
from tasks.verify.candidate import PROBE, Subject, asked, opened
from tasks.verify.divergence import Explanation, Side
from tasks.verify.pairing import Pair

_FIRST_ROWS = 7


def explain(
    first: Subject, other: Subject, rows: tuple[ParityRow, ...], tolerance: Tolerance, folder: Path
) -> Explanation:
    """In a child: the first tensor inside the graphs that differs. `rows` are the candidate's, `folder` has the probe."""
    told = _explained(first, other, rows, tolerance, folder)
    return told.model_copy(update={"candidate": other.name})


def _explained(
    first: Subject, other: Subject, rows: tuple[ParityRow, ...], tolerance: Tolerance, folder: Path
) -> Explanation:
    for one in (first, other):
        if one.found.form not in source_graph.WITH_GRAPH:
            why = "is built by Python code, whose tensors have no names in common with a graph's"
            return Explanation(sentence=f"it cannot be explained: {one.name} ({one.found.form.value}) {why}")
    failures = [row for row in rows if row.passed is False]
    failed = next((row for row in failures if row.compared), None)
    if failed is None:
        found = "; ".join(f"{row.output}: {row.worst.got}" for row in failures if row.worst)
        return Explanation(sentence=f"there are no two values to compare: {found or 'every output is empty'}")
    probe = tensor_file.read_tensors(folder / PROBE)
    with (
        tempfile.TemporaryDirectory(dir=folder) as scratch,
        tempfile.TemporaryDirectory(dir=folder) as scratch_too,
        opened(first, Path(scratch)) as (mine, _),
        opened(other, Path(scratch_too)) as (theirs, _),
    ):
        mine_asked, theirs_asked = (asked(brought) for brought in (mine, theirs))
        pairs, _, _ = pairing.pair(mine_asked, theirs_asked, other.name)
        pair = next(pair for pair in pairs if pair.baseline.key == failed.signature)
        told = Explanation(sentence="")
        for inputs in _batches(pair.baseline, probe, failed):
            sides = [_side(one.live, pair, inputs, mine=one is mine) for one in (mine, theirs)]
            told = divergence.explain(sides[0], sides[1], tolerance.of(pair.baseline.key, failed.output).smallest)
            if told.first is not None and told.first.row.passed is False:
                break
        return told


def _batches(signature: Signature, probe: Tensors, failed: ParityRow) -> Sequence[Tensors]:
    """Yield a few rows, among them the one that differs most; then all, since a difference may need the entire batch."""
    inputs = tensor_file.select(probe, signature.key)
    count = compare.rows_of(signature, probe)
    if count <= _FIRST_ROWS + 1:
        return [inputs]
    worst = failed.worst.index[0] if failed.worst and failed.worst.index else 0
    chosen = sorted({*range(_FIRST_ROWS), min(worst, count - 1)})
    return [{name: np.ascontiguousarray(array[chosen]) for name, array in inputs.items()}, inputs]


def _side(live: Predictor, pair: Pair, inputs: Tensors, *, mine: bool) -> Side:
    assert isinstance(live, SourcePredictor)
    signature = pair.baseline if mine else pair.candidate
    specs = {name: signature.inputs[name if mine else theirs] for name, theirs in pair.inputs.items()}
    outputs = {name: signature.outputs[name if mine else theirs].tensor for name, theirs in pair.outputs.items()}
    feeds = {specs[name].tensor: array for name, array in inputs.items()} | live.pins
    return Side(live.session, feeds, outputs, live.named)
