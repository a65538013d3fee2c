"""The probe: one fixed batch of inputs for every signature, from a file, from warmup requests, or drawn with a seed.

Runs in a child: warmup requests, TFRecords and drawing need TensorFlow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.forms import warmup_requests as warmups
from tasks.graphs.protos import MetaGraphDef
from tasks.probe import draw, files, fit, tfrecords
from tasks.records.adoption import ProbeSource
from tasks.records.signature import OutputRef, Signature
from tasks.tensors.tensor_file import Tensors


def read(file: Path, signatures: Sequence[Signature]) -> Tensors:
    """Read the inputs of every signature from a file, keyed `signature/input`.

    Raises:
        UsageError: the file has an unknown format or is broken, lacks a signature, or holds values that an input cannot take.
    """
    return _read(file, signatures)[0]


def warmup(saved_model_folder: Path, signatures: Sequence[Signature]) -> Tensors | None:
    """Return the inputs in a SavedModel's warmup requests, for the signatures that have any; None if there are none.

    Raises:
        UsageError: the requests are broken, or do not fit the signatures.
    """
    found = _warmup(saved_model_folder, signatures)
    return found[0] if found else None


def drawn(
    meta: MetaGraphDef,
    signatures: Sequence[Signature],
    rows: int,
    seed: int,
    assets: Mapping[str, Path] | None = None,
) -> Tensors:
    """`rows` rows for every input, drawn with `numpy.random.default_rng(seed)`, in ranges that the graph can take.

    `meta` is the MetaGraphDef, `assets` its asset files by tensor name or by file name.

    Raises:
        UsageError: an input is of a dtype that cannot be drawn.
    """
    return draw.drawn(meta, signatures, rows, seed, assets)[0]


def establish(
    source: ProbeSource,
    meta: MetaGraphDef,
    signatures: Sequence[Signature],
    folder: Path | None,
    assets: Mapping[str, Path] | None = None,
) -> tuple[Tensors, str]:
    """Return the probe and a description of its source: the given file, otherwise warmup requests, otherwise drawn.

    `folder` is a SavedModel's. Signatures without warmup requests are drawn.

    Raises:
        UsageError: see `read`, `warmup` and `drawn`.
    """
    if source.file is not None:
        found, notes = _read(source.file, signatures)
        return found, _words(f"{source.file.name}, {_rows(found)}", notes)
    warm = _warmup(folder, signatures) if folder is not None else None
    found, notes = warm or ({}, ())
    words = f"{_rows(found)} from warmup requests" if found else ""
    left = [
        signature
        for signature in signatures
        if not all(str(OutputRef(signature.key, n)) in found for n in signature.inputs)
    ]
    if left:
        made, more = draw.drawn(meta, left, source.rows, source.seed, assets)
        told = f"{_rows(made)} drawn with seed {source.seed}"
        words = f"{words}; for {', '.join(s.key for s in left)} {told}" if words else told
        found, notes = found | made, (*notes, *more)
    return found, _words(words, notes)


def _read(file: Path, signatures: Sequence[Signature]) -> tuple[Tensors, tuple[str, ...]]:
    held = files.held(file)
    return _fitted(held, signatures, file.name)


def _warmup(folder: Path, signatures: Sequence[Signature]) -> tuple[Tensors, tuple[str, ...]] | None:
    file = folder / warmups.FILE
    if not file.is_file() or file.stat().st_size == 0:
        return None
    held = tfrecords.held(file, str(warmups.FILE))
    asked = [signature for signature in signatures if fit.mentions(held, signature)]
    return _fitted(held, asked, str(warmups.FILE)) if asked else None


def _fitted(held: fit.Held, signatures: Sequence[Signature], where: str) -> tuple[Tensors, tuple[str, ...]]:
    tensors: Tensors = {}
    notes: tuple[str, ...] = ()
    for signature in signatures:
        fitted = fit.fitted(held, signature, where)
        tensors |= fit.keyed(signature, fitted.inputs)
        notes += fitted.notes
    return tensors, notes


def _rows(tensors: Tensors) -> str:
    count = max((len(array) for array in tensors.values() if array.ndim), default=1)
    return f"{count} row{'' if count == 1 else 's'}"


def _words(told: str, notes: Sequence[str]) -> str:
    return "; ".join((told, *dict.fromkeys(notes)))
