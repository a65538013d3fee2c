"""Requests whose right answers are known: the probe, cut as a server's set-up wants it. Runs in a child."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from tasks.baseline.reference import Reference
from tasks.parity import compare
from tasks.parity.predictor import Predictor
from tasks.records.parity import ParityRow, ParityTest, Tolerance
from tasks.records.signature import Signature
from tasks.serving.clients.grpc import NotCarriedError
from tasks.serving.clients.rest import BODY_BYTES, RestPredictor
from tasks.tensors.tensor_file import Tensors


@dataclass(frozen=True)
class Asked:
    """One request, `rows` rows of `signature` (0 where it has none), and what the live model answers to it.

    `form` is how reports call the comparison.
    """

    form: str
    predictor: Predictor
    signature: Signature
    inputs: Tensors
    outputs: Tensors
    rows: int


def questions(predictor: Predictor, reference: Reference, largest: int | None) -> Iterator[Asked]:
    """Every signature that `predictor` carries: the whole probe, and its first rows alone.

    A server that batches takes at most `largest` rows in a request: the probe in such pieces then, one row, and a full
    batch. A piece must be answered as its rows were in the whole probe, for a server joins the rows of strangers.
    """
    for signature in reference.names.signatures:
        if signature.key not in predictor.signatures:
            continue
        inputs = compare.select(reference.probe, signature.key)
        outputs = compare.select(reference.outputs, signature.key)
        count = compare.rows_of(signature, reference.probe)
        form = predictor.form
        if largest is None or not count:
            yield Asked(form, predictor, signature, inputs, outputs, count)
            for few, answers in reference.smaller.items():
                if smaller := compare.select(answers, signature.key):
                    yield Asked(f"{form}, batch {few}", predictor, signature, _rows(inputs, range(few)), smaller, few)
            continue
        pieces = {form: [range(start, min(start + largest, count)) for start in range(0, count, largest)]}
        pieces[f"{form}, batch 1"] = [range(1)]
        pieces[f"{form}, full batch"] = [range(largest)]
        for name, ranges in pieces.items():
            for rows in ranges:
                taken = [row % count for row in rows]
                yield Asked(name, predictor, signature, _rows(inputs, taken), _rows(outputs, taken), len(taken))


def _rows(tensors: Tensors, rows: Iterable[int]) -> Tensors:
    taken = np.array(list(rows), dtype=np.int64)
    return {name: array[taken] for name, array in tensors.items()}


def compared(asked: Asked, tolerance: Tolerance) -> list[ParityRow]:
    """A row for each output; one that says why where the protocol cannot carry the request or its answer."""
    key = asked.signature.key
    try:
        outputs = _carried(asked)
        probe, expected = ({f"{key}/{name}": array for name, array in side.items()} for side in (asked.inputs, outputs))
        rows = compare.outputs(asked.predictor, [asked.signature], probe, expected, ParityTest.SERVED, tolerance)
    except NotCarriedError as reason:
        note = f"not made: {reason.where} cannot carry {reason.found}"
        rows = [ParityRow(candidate="", signature=key, output="*", test=ParityTest.SERVED, passed=None, note=note)]
    return [row.model_copy(update={"candidate": asked.form}) for row in rows]


def _carried(asked: Asked) -> Tensors:
    """The expected outputs as the protocol shows them. Raises NotCarriedError.

    A request too long for REST is not cut: rows of the whole probe need not be answered as they are alone. Its first
    rows alone are questions anyway.
    """
    rest = asked.predictor
    if not isinstance(rest, RestPredictor):
        return asked.outputs
    outputs = rest.shown(asked.signature, asked.outputs)
    if asked.rows > 1 and (size := rest.size(asked.signature, asked.inputs)) > BODY_BYTES:
        most = f"{BODY_BYTES >> 10} KiB of JSON at most"
        found = f"{asked.rows} rows, {size >> 10} KiB of JSON ({BODY_BYTES >> 10} at most are sent; see fewer rows)"
        raise NotCarriedError("REST", most, found, "use gRPC.")
    return outputs
