"""A model compared with the first one: signatures paired, outputs compared, values looked up."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from tasks.adoption import from_code, source_graph, source_model
from tasks.adoption.source_model import SourceModel, outputs_of
from tasks.baseline import record as baselines
from tasks.errors import UsageError
from tasks.forms.detect import detect
from tasks.graphs import graph as graphs
from tasks.graphs import purity
from tasks.parity import compare
from tasks.parity.predictor import Predictor
from tasks.records.adoption import Found, ModelOptions
from tasks.records.base import Record
from tasks.records.baseline import Environment, TensorFact
from tasks.records.forms import Form
from tasks.records.parity import Difference, Limits, Noise, ParityRow, ParityTest
from tasks.records.settings import SessionOptions
from tasks.records.signature import OutputRef, Signature, TensorSpec
from tasks.tensors import tensor_file
from tasks.tensors.tensor_file import Array, Tensors
from tasks.user_code.source import ModelSource
from tasks.verify import pairing
from tasks.verify.pairing import Pair

PROBE, BASELINE = "probe.tensors", "baseline.tensors"
_TEST = ParityTest.SERVED
_NAMED = 4


class Answered(Record):
    """A model and its results; `rows` is empty for the first, `applied` are the options that applied to it.

    `signatures` are those that were asked, `values` are the values with which its outputs are computed, `unstable` the
    outputs that differ between two calls, `random` the operations that may be the reason. `environment` is that of its answers,
    `rounding` the least that may be allowed for each.
    """

    path: str
    form: str
    chosen: str
    notes: tuple[str, ...] = ()
    applied: tuple[str, ...] = ()
    signatures: tuple[Signature, ...] = ()
    values: tuple[TensorFact, ...] = ()
    probe: str = ""
    unstable: tuple[str, ...] = ()
    random: tuple[str, ...] = ()
    environment: Environment | None = None
    rounding: tuple[Noise, ...] = ()
    rows: tuple[ParityRow, ...] = ()


def candidate(
    one: Subject, expected: tuple[Signature, ...], values: tuple[TensorFact, ...], limits: Limits, folder: Path
) -> Answered:
    """In a child: ask another model the same, twice, and compare both answers."""
    rows, answers = tensor_file.read_tensors(folder / PROBE), tensor_file.read_tensors(folder / BASELINE)
    with tempfile.TemporaryDirectory(dir=folder) as scratch, opened(one, Path(scratch)) as (brought, applied):
        pairs, only_first, only_this = pairing.pair(expected, asked(brought), one.name)
        found: list[ParityRow] = []
        comparable = []
        for pair in pairs:
            wrong = list(_input_rows(one.name, pair, rows))
            found += wrong
            comparable += [] if wrong else [pair]
        found += _outputs(one.name, brought.live, comparable, rows, answers, limits)
        found += [
            _failed(one.name, signature.key, name, "this signature", "none")
            for signature in only_first
            for name in signature.outputs
        ]
        found += _not_compared(one.name, pairs, only_this)
        constants = graphs.Graph(brought.meta.graph_def).constants(
            outputs_of(brought.names.signatures), brought.names.assets
        )
        held = (fact for fact in brought.live.values() if fact.dtype != "uninitialised")  # Keras exports such copies
        found.append(values_row(one.name, values, chain(held, constants)))
        return Answered(
            path=one.name,
            form=one.found.form.value,
            chosen=one.found.chosen,
            notes=brought.notes,
            applied=applied,
            signatures=asked(brought),
            rows=tuple(found),
        )


def values_row(name: str, wanted: Sequence[TensorFact], held: Iterable[TensorFact]) -> ParityRow:
    """Return how many of the first model's values are among another's, by `compare.values`. For information: never passed.

    Another tool may have folded or renamed constants although the outputs are equal.
    """
    there = {fact.name for fact in wanted}
    lost = [row.output for row in compare.values(name, wanted, held) if row.passed is False and row.output in there]
    lost = list(dict.fromkeys(lost))
    note = f"{len(wanted) - len(lost)} of {len(wanted)} values found byte for byte"
    if lost:
        more = f" and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
        note += f"; not found: {', '.join(lost[:_NAMED])}{more}"
    if not wanted:
        note = "the outputs of the first need no variable and no constant of numbers"
    return ParityRow(
        candidate=name,
        signature="",
        output="values",
        test=ParityTest.VALUES,
        compared=len(wanted),
        mismatched=len(lost),
        passed=None,
        note=note,
    )


class NoAnswer(Exception):  # noqa: N818 - it says what happened
    """A candidate fails on inputs that the first model takes."""


class _Paired:
    """A candidate under the first model's names. `answers` keeps what it said, keyed `signature/output`."""

    def __init__(self, name: str, live: Predictor, pairs: Iterable[Pair]) -> None:
        self.form, self.values, self._live = name, live.values, live
        self._pairs = {pair.baseline.key: pair for pair in pairs}
        self.signatures = {key: pair.baseline for key, pair in self._pairs.items()}
        self.answers: Tensors = {}

    def predict(self, signature: str, inputs: Mapping[str, Array]) -> Tensors:
        """See `Predictor`; outputs that the first model has not are left out."""
        pair = self._pairs[signature]
        try:
            got = self._live.predict(pair.candidate.key, {pair.inputs[name]: array for name, array in inputs.items()})
        except UsageError as error:  # the first model answered these inputs: to refuse them is to differ
            raise NoAnswer(error.found) from None
        named = {mine: got[theirs] for mine, theirs in pair.outputs.items()}
        self.answers |= tensor_file.keyed(signature, named)
        return named


def _outputs(
    name: str, live: Predictor, pairs: Sequence[Pair], rows: Tensors, answers: Tensors, limits: Limits
) -> list[ParityRow]:
    asked, again = _Paired(name, live, pairs), _Paired(name, live, pairs)
    signatures = [pair.baseline for pair in pairs]
    first, second = (compare.outputs(one, signatures, rows, answers, _TEST, limits) for one in (asked, again))
    found = {(row.signature, row.output): row for row in first}
    for row in second:
        key = (row.signature, row.output)
        if row.passed is False and (key not in found or found[key].passed is not False):
            found[key] = row  # its second answer differs
    unstable = baselines.unstable(asked.answers, asked.answers | again.answers)

    def noted(row: ParityRow) -> ParityRow:
        output = str(OutputRef(row.signature, row.output))
        if output in unstable:
            return row.model_copy(update={"note": "it differs from itself between two calls"})
        if row.passed and not row.note and output in asked.answers:
            same = tensor_file.as_bytes(answers[output]) == tensor_file.as_bytes(asked.answers[output])
            return row.model_copy(update={"note": "bit for bit" if same else "within the tolerance"})
        return row

    return [noted(row) for row in found.values()]


def _input_rows(name: str, pair: Pair, rows: Tensors) -> Iterable[ParityRow]:
    """Return a row for each input that differs: nothing is cast, and nothing reshaped.

    Raises:
        UsageError: only the number of rows differs.
    """
    for mine, theirs in pair.inputs.items():
        wanted, taken = pair.baseline.inputs[mine], pair.candidate.inputs[theirs]
        array = rows[str(OutputRef(pair.baseline.key, mine))]
        sizes = taken.shape if taken.shape is not None else (None,) * array.ndim
        fits = len(sizes) == array.ndim and all(
            size in (None, given) for size, given in zip(sizes[1:], array.shape[1:], strict=True)
        )
        if taken.dtype != wanted.dtype or not fits:
            expected, got = _described(wanted), _described(taken)
            if expected == got:  # their shapes are written alike, the probe's rows are not
                expected = f"rows of {list(array.shape[1:])}"
            yield _failed(name, pair.baseline.key, f"input {mine}", expected, got)
        elif sizes and sizes[0] not in (None, len(array)):
            remedy = f"give {sizes[0]} rows with --probe, or name {name} first: the probe is drawn for the first model."
            found = f"a probe of {len(array)} rows"
            raise UsageError(f"{name}, input {theirs}", f"batches of {sizes[0]}, for it takes no other", found, remedy)


def _not_compared(name: str, pairs: Iterable[Pair], signatures: Iterable[Signature]) -> Iterable[ParityRow]:
    extra = [(signature.key, "*") for signature in signatures]
    for pair in pairs:
        extra += [(pair.baseline.key, output) for output in set(pair.candidate.outputs) - set(pair.outputs.values())]
    for key, output in sorted(extra):
        what = "signature" if output == "*" else "output"
        note = f"not compared: the first model has no such {what}"
        yield ParityRow(candidate=name, signature=key, output=output, test=_TEST, passed=None, note=note)


def _failed(name: str, signature: str, output: str, expected: str, got: str) -> ParityRow:
    worst = Difference(expected=expected, got=got)
    return ParityRow(candidate=name, signature=signature, output=output, test=_TEST, passed=False, worst=worst)


def _described(spec: TensorSpec) -> str:
    sizes = "..." if spec.shape is None else ", ".join("?" if size is None else str(size) for size in spec.shape)
    return f"{spec.dtype}[{sizes}]"


OBJECTS = (Form.KERAS, Form.HDF5, Form.OBJECT_CHECKPOINT)


@dataclass(frozen=True)
class Subject:
    """`name` is the user's name for it; `given` and `code` are the options, as far as they apply to files of this kind."""

    name: str
    found: Found
    given: ModelOptions
    code: ModelSource | None
    options: SessionOptions


def subject(path: Path, given: ModelOptions, code: ModelSource | None, options: SessionOptions) -> Subject:
    """Find the model at `path`. Raises as `detect`."""
    found = detect(path)
    kept, kept_code = pairing.code_for(found, given, code)
    return Subject(str(path), found, kept, kept_code, options)


@contextmanager
def opened(one: Subject, scratch: Path) -> Iterator[tuple[SourceModel, tuple[str, ...]]]:
    """Open the model, and return it with the options that applied to it.

    Raises:
        ImpureError: an output depends on more than the inputs, and that is not declared.
        Others: as `source_model.opened`.
    """
    given = pairing.given_for(_graph(one), one.given)
    with source_model.opened(one.found, given, one.code, one.options, scratch) as brought:
        purity.require_pure(brought.meta.graph_def, brought.names.signatures, given.impure, one.name)
        yield brought, pairing.words(given, one.code)


def asked(brought: SourceModel) -> tuple[Signature, ...]:
    """Return the requested signatures of a model, with the dtypes that it has where it is opened."""
    return tuple(brought.live.signatures[one.key] for one in brought.requested)


def _graph(one: Subject) -> Any | None:
    if one.found.form in OBJECTS:
        return None
    return (
        from_code.graph(one.code, one.found).meta if one.code is not None else source_graph.graph(one.found, one.given)
    )
