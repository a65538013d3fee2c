"""Requests with known answers: the probe, cut to the batch sizes that a server takes. Runs in a child."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from tasks.baseline.reference import Reference
from tasks.parity import compare
from tasks.records.parity import ParityRow, ParityTest, Tolerance
from tasks.records.signature import Signature
from tasks.serving.clients.grpc import GrpcPredictor, NotCarriedError
from tasks.serving.clients.rest import BODY_BYTES, RestPredictor
from tasks.tensors import tensor_file
from tasks.tensors.tensor_file import Tensors


@dataclass(frozen=True)
class KnownRequest:
    """One request of `rows` rows (0 if the signature has no rows), with the live model's outputs.

    `form` is the name of the comparison in reports.
    """

    form: str
    predictor: GrpcPredictor | RestPredictor
    signature: Signature
    inputs: Tensors
    outputs: Tensors
    rows: int


def known_requests(
    predictor: GrpcPredictor | RestPredictor, reference: Reference, largest: int | None
) -> Iterator[KnownRequest]:
    """Yield for every signature that `predictor` carries the complete probe, and its first rows alone.

    A server that batches takes at most `largest` rows in a request: then the probe in pieces of that size, one row, and
    a full batch. A piece must be answered as its rows were in the complete probe, for a server joins rows of several
    clients.
    """
    for signature in reference.names.signatures:
        if signature.key not in predictor.signatures:
            continue
        inputs = tensor_file.select(reference.probe, signature.key)
        outputs = tensor_file.select(reference.outputs, signature.key)
        count = compare.rows_of(signature, reference.probe)
        form = predictor.form
        if largest is None or not count:
            yield KnownRequest(form, predictor, signature, inputs, outputs, count)
            for few, answers in reference.smaller.items():
                if smaller := tensor_file.select(answers, signature.key):
                    yield KnownRequest(
                        f"{form}, batch {few}", predictor, signature, _rows(inputs, range(few)), smaller, few
                    )
            continue
        pieces: dict[str, list[range]] = {
            form: [range(start, min(start + largest, count)) for start in range(0, count, largest)]
        }
        pieces[f"{form}, batch 1"] = [range(1)]
        pieces[f"{form}, full batch"] = [range(largest)]
        for name, ranges in pieces.items():
            for rows in ranges:
                taken = [row % count for row in rows]
                yield KnownRequest(name, predictor, signature, _rows(inputs, taken), _rows(outputs, taken), len(taken))


def _rows(tensors: Tensors, rows: Iterable[int]) -> Tensors:
    taken = np.array(list(rows), dtype=np.int64)
    return {name: array[taken] for name, array in tensors.items()}


def compare_answers(request: KnownRequest, tolerance: Tolerance) -> list[ParityRow]:
    """Return a row for each output, or one with the reason if the protocol cannot carry the request or its answer."""
    key = request.signature.key
    try:
        outputs = _carried(request)
        probe, expected = (tensor_file.keyed(key, side) for side in (request.inputs, outputs))
        rows = compare.outputs(request.predictor, [request.signature], probe, expected, ParityTest.SERVED, tolerance)
    except NotCarriedError as reason:
        note = f"not made: {reason.where} cannot carry {reason.found}"
        rows = [ParityRow(candidate="", signature=key, output="*", test=ParityTest.SERVED, passed=None, note=note)]
    return [row.model_copy(update={"candidate": request.form}) for row in rows]


def _carried(request: KnownRequest) -> Tensors:
    """Return the expected outputs in the form that the protocol can carry. Raises NotCarriedError.

    A request too long for REST is not cut: a part of the probe may be answered differently from the same rows in the
    complete probe. Its first rows are requests of their own.
    """
    rest = request.predictor
    if not isinstance(rest, RestPredictor):
        return request.outputs
    outputs = rest.shown(request.signature, request.outputs)
    if request.rows > 1 and (size := rest.size(request.signature, request.inputs)) > BODY_BYTES:
        most = f"{BODY_BYTES >> 10} KiB of JSON at most"
        found = f"{request.rows} rows, {size >> 10} KiB of JSON ({BODY_BYTES >> 10} at most are sent; see fewer rows)"
        raise NotCarriedError("REST", most, found, "use gRPC.")
    return outputs
