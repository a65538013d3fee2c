"""Noise: how far a model's own answers to the probe lie apart where a server may compute them in another way.

A server rewrites the graph with Grappler, cuts or joins batches, takes as many threads as it likes, and uses oneDNN or not.
The source is asked in each of these ways, in children, since TensorFlow reads some of them once in a process: only where a
form's answers are further from the baseline than rounding, for nothing else asks for it (`decided`).
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import numpy as np

from tasks import isolate
from tasks.baseline import record as baselines
from tasks.baseline.training_run import TrainingRun
from tasks.errors import EnvironmentFailure, PipelineError
from tasks.forms import saver
from tasks.isolate import Settings
from tasks.parity import compare, predictor
from tasks.parity.predictor import Predictor
from tasks.records.base import Record
from tasks.records.baseline import Environment
from tasks.records.checkpoint import PinnedCheckpoint
from tasks.records.parity import CEILING, FIXED, Limits, Noise, ParityReport, Tolerance
from tasks.records.settings import SessionOptions
from tasks.records.signature import OutputRef, Signature
from tasks.tensors import tensor_file
from tasks.tensors.tensor_file import Array, Tensors, dtype_name

_PIECES = 8
_ALONE, _PIECE = "/alone/", "/pieces/"
_COLUMNS = 64


@dataclass(frozen=True)
class Way:
    """A way to compute the answers: `words` says how it differs from that of the baseline, with Grappler off."""

    words: str
    rewriting: bool
    options: SessionOptions
    settings: Settings


class Measured(Record):
    """The noise of each float output, and the ways in which the model could not be asked."""

    noise: tuple[Noise, ...] = ()
    notes: tuple[str, ...] = ()


def ways(recorded: Environment) -> tuple[Way, ...]:
    """Return the ways to ask a model whose baseline was computed in this environment; the first is the baseline's own."""
    options = recorded.session
    one = options.model_copy(update={"intra_op_threads": 1, "inter_op_threads": 1})
    return (
        Way("as the baseline", False, options, Settings()),
        Way("Grappler on", True, options, Settings()),
        Way(
            f"Grappler on, one thread, oneDNN {'off' if recorded.onednn else 'on'}",
            True,
            one,
            # TensorFlow reads this when it is imported: in a fork server of its own.
            Settings(environment=((predictor.ONEDNN, str(int(not recorded.onednn))),)),
        ),
    )


class HasParity(Protocol):
    """What holds a comparison with the baseline."""

    @property
    def parity(self) -> ParityReport:
        """The comparison."""
        ...

    def model_copy(self, *, update: dict[str, Any]) -> Any:
        """Return a copy with other fields."""
        ...


R = TypeVar("R", bound=ParityReport | HasParity)


def decided(
    ask: Callable[[Tolerance], R], tolerance: Tolerance, checkpoint: Path, pin: PinnedCheckpoint, run: Path
) -> R:
    """Compare within `tolerance`; measure the source's noise, and compare again, where it may decide or explain a difference.

    `ask(limits)` compares a form with the baseline of the training run `run`, of which `pin` is the checkpoint that lies in the
    folder `checkpoint`. The noise that was measured, and what hindered it, are in the report.

    Raises:
        EnvironmentFailure, PipelineError: as `measure`, and what `ask` raises.
    """
    found = ask(tolerance)
    if all(row.could_be_noise is None for row in _parity(found).rows):
        return found
    recorded = TrainingRun(run).baseline(pin.step).environment
    measured = measure(restored_answers, (checkpoint, pin.prefix, run), recorded)
    found = ask(Limits.measured_of(tolerance, measured.noise))
    report = _parity(found)
    changes: dict[str, Any] = {"noise": measured.noise, "notes": (*report.notes, *measured.notes)}
    if not isinstance(found, ParityReport):
        changes = {"parity": report.model_copy(update=changes)}
    return cast(R, found.model_copy(update=changes))


def _parity(found: ParityReport | HasParity) -> ParityReport:
    return found if isinstance(found, ParityReport) else found.parity


def restored_answers(checkpoint: Path, prefix: str, run: Path, way: Way, file: Path) -> None:
    """In a child: restore a pinned checkpoint in this way, and leave its answers to the probe."""
    trained = TrainingRun(run)
    names, probe = trained.names(), tensor_file.read_tensors(trained.probe_file)
    with (
        predictor.rewriting(way.rewriting),
        saver.restored(checkpoint, checkpoint / prefix, names, way.options) as opened,
    ):
        tensor_file.write_tensors(file, answers(opened, names.signatures, probe))


def measure(ask: Callable[..., Any], arguments: Sequence[Any], recorded: Environment) -> Measured:
    """Ask a model in every way and return its noise.

    `ask(*arguments, way, file)` runs in a child of its own and leaves `answers` of the model, opened in that way, in a file.

    Raises:
        EnvironmentFailure: something outside the model is wrong: what is measured is kept, so it must not depend on that.
        PipelineError: the model could not be asked as for the baseline.
    """
    first, *others = ways(recorded)
    with tempfile.TemporaryDirectory(prefix="tfship-noise-") as scratch:
        file = Path(scratch) / "answers.tensors"
        isolate.call_with(ask, (*arguments, first, file), settings=first.settings)
        found, notes = [tensor_file.read_tensors(file)], []
        # One after the other: each holds the model in memory.
        for way in others:
            try:
                isolate.call_with(ask, (*arguments, way, file), settings=way.settings)
            except EnvironmentFailure:
                raise
            except PipelineError as error:
                notes.append(f"noise was not measured with {way.words}: {error.found}")
            else:
                found.append(tensor_file.read_tensors(file))
    return Measured(noise=tuple(spread(found)), notes=tuple(notes))


def answers(live: Predictor, signatures: Sequence[Signature], probe: Tensors) -> Tensors:
    """Return every output for the whole probe; for its first row alone; and for the probe in pieces, joined again."""
    found = baselines.ask(live, signatures, probe)
    alone = baselines.ask_first_rows(live, signatures, probe, 1)
    found |= {f"{_ALONE}{name}": rows for name, rows in alone.items()}
    for signature in signatures:
        if any(OutputRef.parse(name).signature == signature.key for name in alone):
            found |= {f"{_PIECE}{name}": rows for name, rows in _in_pieces(live, signature, probe)}
    return found


def _in_pieces(live: Predictor, signature: Signature, probe: Tensors) -> Iterator[tuple[str, Array]]:
    count = compare.rows_of(signature, probe)
    size = max(baselines.SMALLER[-1], math.ceil(count / _PIECES))
    if size >= count:
        size = math.ceil(count / 2)
    inputs = tensor_file.select(probe, signature.key)
    pieces = [
        live.predict(signature.key, {name: np.ascontiguousarray(rows[at : at + size]) for name, rows in inputs.items()})
        for at in range(0, count, size)
    ]
    for name in signature.outputs:
        parts = [piece[name] for piece in pieces]
        if len({part.shape[1:] for part in parts}) == 1:
            yield str(OutputRef(signature.key, name)), np.concatenate(parts)


def spread(asked: Sequence[Tensors]) -> Iterator[Noise]:
    """Yield the noise of every float output: what its `answers` in every way differ by from the first one's whole probe."""
    for name, expected in asked[0].items():
        if name.startswith("/") or not compare.floating(expected) or not expected.size:
            continue
        widest = np.zeros(expected.shape)
        for found in asked:
            if found[name].shape == expected.shape:
                np.maximum(widest, _distance(expected, found[name]), out=widest)
            for prefix in (_ALONE, _PIECE):
                got = found.get(f"{prefix}{name}")
                if got is None or expected[: len(got)].shape != got.shape:
                    continue
                rows, part = expected[: len(got)], widest[: len(got)]
                if not _of_the_whole_batch(rows, got):
                    np.maximum(part, _distance(rows, got), out=part)
        yield _noise(OutputRef.parse(name), len(asked), expected, widest)


def _of_the_whole_batch(expected: Array, got: Array) -> bool:
    """Tell whether rows are answered otherwise without the rest of the batch: no noise, for the model looks at all of it."""
    size = np.abs(compare.wide(expected))
    return bool((_distance(expected, got) > FIXED + CEILING * (size + _typical(size))).any())


def _distance(expected: Array, got: Array) -> Array:
    """Return |got - expected| where both are finite, 0 elsewhere: NaN and infinities are compared by their places."""
    a, b = compare.wide(expected), compare.wide(got)
    both = np.isfinite(a) & np.isfinite(b)
    distance: Array = np.abs(np.where(both, b, 0) - np.where(both, a, 0))
    return distance


def _noise(output: OutputRef, ways: int, expected: Array, widest: Array) -> Noise:
    size = np.abs(np.where(np.isfinite(compare.wide(expected)), compare.wide(expected), 0))
    columns = size.shape[-1] if size.ndim > 1 and size.shape[-1] <= _COLUMNS else 1
    size, widest = (array.reshape(-1, columns) for array in (size, widest))
    overall = _typical(size) or 1.0
    scales = [_typical(size[:, column]) or overall for column in range(columns)]
    absolute, relative = [0.0] * columns, [0.0] * columns
    for alike in _alike(scales):
        bounds = _line(size[:, alike].ravel(), widest[:, alike].ravel())
        for column in alike:
            absolute[column], relative[column] = bounds
    return Noise(
        signature=output.signature,
        output=output.output,
        ways=ways,
        absolute=tuple(absolute),
        relative=tuple(relative),
        scale=tuple(scales),
        rounding=_rounding(expected),
    )


def _typical(size: Array) -> float:
    """Return the median of the magnitudes that are not zero, 0 without any."""
    there = size[(size > 0) & np.isfinite(size)]
    return float(np.median(there)) if there.size else 0.0


def _alike(scales: Sequence[float]) -> Iterable[list[int]]:
    """Group columns of one order of magnitude, so that the noise of a large one allows nothing in a small one."""
    groups: dict[int, list[int]] = {}
    for column, scale in enumerate(scales):
        groups.setdefault(round(math.log10(scale)), []).append(column)
    return groups.values()


def _line(size: Array, widest: Array) -> tuple[float, float]:
    """Return the absolute and the relative part of a noise: of several lines above all of it, the lowest on average.

    Each is relative as the noise is among the largest magnitudes, a tenth of them, a half, all or none.
    """
    there = size > 0
    shares = widest[there] / size[there]
    cuts = np.quantile(size[there], (0.0, 0.5, 0.9)) if there.any() else ()
    slopes = {0.0, *(float(shares[size[there] >= cut].max()) for cut in cuts)}
    lines = [(float(np.maximum(widest - slope * size, 0.0).max(initial=0.0)), slope) for slope in sorted(slopes)]
    return min(lines, key=lambda line: line[0] + line[1] * float(size.mean()))


def _rounding(expected: Array) -> float:
    """Return the distance from 1 to the next float of the dtype, or of float32 where float64 holds nothing finer."""
    import ml_dtypes

    dtype = expected.dtype
    if dtype_name(expected) in ("float64", "complex128"):
        narrow = np.complex64 if dtype.kind == "c" else np.float32
        with np.errstate(over="ignore", invalid="ignore"):
            if np.array_equal(expected.astype(narrow).astype(dtype), expected, equal_nan=True):
                dtype = np.dtype(narrow)
    return float(ml_dtypes.finfo(dtype).eps)
