"""Comparison of several saved forms of one model on one probe: each is opened in a child of its own.

The first model answers twice before anything is compared with it. Its answers travel through a folder:

probe.tensors       `signature/input` -> array
baseline.tensors    `signature/output` -> array
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from tasks import isolate
from tasks.adoption.adopt import probe_of
from tasks.adoption.source_model import SourceModel, outputs_of
from tasks.baseline import noise
from tasks.baseline import record as baselines
from tasks.errors import EnvironmentFailure, NondeterministicError, UsageError
from tasks.graphs import graph as graphs
from tasks.graphs import scan
from tasks.parity import predictor
from tasks.parity.predictor import Predictor
from tasks.records.adoption import ModelOptions, ProbeSource
from tasks.records.base import Record
from tasks.records.baseline import TensorFact
from tasks.records.parity import Limits, ParityReport, Tolerance
from tasks.records.settings import SessionOptions
from tasks.records.signature import Signature
from tasks.tensors import tensor_file
from tasks.tensors.tensor_file import Tensors
from tasks.user_code.source import ModelSource
from tasks.verify import pairing, reproduction
from tasks.verify.candidate import BASELINE, PROBE, Answered, Subject, asked, candidate, opened, subject
from tasks.verify.divergence import Explanation
from tasks.verify.explain import explain
from tasks.verify.predict import ask

_NAMED = 4


class Comparison(Record):
    """The first model and every other one beside it."""

    baseline: Answered
    candidates: tuple[Answered, ...]
    explanation: Explanation | None = None
    reproduction: str | None = None

    @property
    def divergent(self) -> Answered | None:
        """The first form that is not equal to the baseline, None where all are."""
        return next((one for one in self.candidates if self.refused(one) is not None), None)

    def refused(self, other: Answered) -> ParityReport | None:
        """Return the failures of a candidate: rows that differ, or a signature of which no output could be compared."""
        report = ParityReport(baseline=f"first model {self.baseline.path}", rows=other.rows)
        if report.failures:
            return report
        judged = {row.signature for row in other.rows if row.passed is not None}
        for signature in self.baseline.signatures:
            if signature.key not in judged:
                rows = tuple(row for row in other.rows if row.signature == signature.key)
                return report.model_copy(update={"rows": rows})
        return None


def compare(
    paths: Sequence[Path],
    given: ModelOptions,
    code: ModelSource | None,
    options: SessionOptions,
    source: ProbeSource,
    tolerance: Tolerance,
    *,
    explained: bool = False,
    reproduce: Path | None = None,
) -> Comparison:
    """Compare every model with the first one; `reproduce` is a folder to repeat the first difference in.

    Raises:
        NondeterministicError: the first one differs from itself.
        UsageError: signatures cannot be paired, or an option was for none of the models.
        As `source_model.opened`, for each of them.
    """
    subjects = [subject(path, given, code, options) for path in paths]
    with tempfile.TemporaryDirectory(prefix="tfship-verify-") as scratch:
        folder = Path(scratch)
        first = isolate.call(baseline, subjects[0], source, folder)
        if first.unstable:
            raise _nondeterministic(first)
        others, limits = _compared(subjects, first, tolerance, folder)
        applied = {option for one in (first, *others) for option in one.applied}
        if unused := [option for option in pairing.words(given, code) if option not in applied]:
            names = " or ".join(dict.fromkeys(one.name for one in subjects))
            where = f"{' '.join(unused)} does not apply to {names}"
            remedy = "leave it out, or name what `tfship inspect` lists for one of them."
            raise UsageError(where, "an option that applies to one of them", "none that does", remedy)
        found = Comparison(baseline=first, candidates=tuple(others))
        if explained and (divergent := found.divergent) is not None:
            one = subjects[others.index(divergent) + 1]
            told = isolate.call(explain, subjects[0], one, divergent.rows, limits, folder)
            found = found.model_copy(update={"explanation": told})
        if reproduce is not None and (divergent := found.divergent) is not None:
            one = subjects[others.index(divergent) + 1]
            probe = tensor_file.read_tensors(folder / PROBE)
            script = _reproduction(reproduce, (subjects[0], first), (one, divergent), probe, limits)
            found = found.model_copy(update={"reproduction": str(script) if script else None})
        return found


def _compared(
    subjects: Sequence[Subject], first: Answered, tolerance: Tolerance, folder: Path
) -> tuple[list[Answered], Limits]:
    """Compare every other model with the first, and return the limits that were applied.

    The first one's noise is measured when a difference is larger than rounding, and no larger than noise may be: else it
    decides nothing.
    """
    limits = Limits.measured_of(tolerance, first.rounding)
    measured = False
    others: list[Answered] = []
    for one in subjects[1:]:
        found = isolate.call(candidate, one, first.signatures, first.values, limits, folder)
        if not measured and any(row.could_be_noise for row in found.rows):
            assert first.environment is not None
            noise_of = noise.measure(answer, (subjects[0], folder), first.environment)
            limits, measured = Limits.measured_of(tolerance, noise_of.noise), True
            found = isolate.call(candidate, one, first.signatures, first.values, limits, folder)
            found = found.model_copy(update={"notes": (*found.notes, *noise_of.notes)})
        others.append(found)
    return others, limits


def answer(one: Subject, folder: Path, way: noise.Way, file: Path) -> None:
    """In a child: open the first model in another way, and leave its answers to the probe."""
    again = dataclasses.replace(one, options=way.options)
    rows = tensor_file.read_tensors(folder / PROBE)
    with (
        predictor.rewriting(way.rewriting),
        tempfile.TemporaryDirectory(dir=folder) as scratch,
        opened(again, Path(scratch)) as (brought, _),
    ):
        tensor_file.write_tensors(file, noise.answers(brought.live, asked(brought), rows))


def _reproduction(
    folder: Path, first: tuple[Subject, Answered], other: tuple[Subject, Answered], probe: Tensors, tolerance: Tolerance
) -> Path | None:
    """Write the folder that repeats the first difference, and return its script; None where no script can open both.

    Raises:
        EnvironmentFailure: it cannot be written.
    """
    pairs, *_ = pairing.pair(first[1].signatures, other[1].signatures, other[1].path)
    for row in other[1].rows:
        pair = next((one for one in pairs if one.baseline.key == row.signature), None)
        if row.passed is not False or pair is None or row.output not in pair.outputs:
            continue
        mine = pair.candidate
        paired = mine.model_copy(
            update={
                "inputs": {alias: mine.inputs[name] for alias, name in pair.inputs.items()},
                "outputs": {alias: mine.outputs[name] for alias, name in pair.outputs.items()},
            }
        )
        sides = [reproduction.side_of(first[0].found, first[0].given, first[1].path, pair.baseline)]
        sides.append(reproduction.side_of(other[0].found, other[0].given, other[1].path, paired))
        try:
            source, candidate = sides
            if source is None or candidate is None:
                return None
            rows = tensor_file.select(probe, row.signature)
            return reproduction.write(folder, source, candidate, row, rows, tolerance)
        except OSError as error:
            raise EnvironmentFailure.from_os(error, f"--reproduce {folder}") from None
    return None


def baseline(one: Subject, source: ProbeSource, folder: Path) -> Answered:
    """In a child: establish the probe and ask the first model, twice."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch, opened(one, Path(scratch)) as (brought, applied):
        rows, words = probe_of(brought, one.found, source)
        signatures = asked(brought)
        first, second = (_ask(brought.live, signatures, rows, one.name) for _ in range(2))
        tensor_file.write_tensors(folder / PROBE, rows)
        tensor_file.write_tensors(folder / BASELINE, first)
        unstable = baselines.unstable(first, second)
        return Answered(
            path=one.name,
            form=one.found.form.value,
            chosen=one.found.chosen,
            notes=brought.notes,
            applied=applied,
            signatures=signatures,
            values=tuple(_wanted(brought)),
            probe=words,
            environment=predictor.environment(one.options),
            rounding=tuple(noise.spread([first])),
            unstable=unstable,
            random=_random(brought) if unstable else (),
        )


def _ask(live: Predictor, signatures: Iterable[Signature], rows: Tensors, where: str) -> Tensors:
    answers: Tensors = {}
    for one in signatures:
        got = ask(live, one.key, tensor_file.select(rows, one.key), where)
        answers |= tensor_file.keyed(one.key, got)
    return answers


def _wanted(brought: SourceModel) -> Iterable[TensorFact]:
    """Return the variables that the outputs need; without any, the constants that may have been variables."""
    if brought.names.needed:
        names = {brought.paths.get(name, name) for name in brought.names.needed}
        return [fact for fact in brought.live.values() if fact.name in names]
    outputs = outputs_of(brought.names.signatures)
    held = graphs.Graph(brought.meta.graph_def).constants(outputs, brought.names.assets)
    return [fact for fact in held if fact.size > 1 and "float" in fact.dtype]


def _random(brought: SourceModel) -> tuple[str, ...]:
    return scan.scan(brought.meta.graph_def, outputs_of(brought.names.signatures)).train_mode[:_NAMED]


def _nondeterministic(first: Answered) -> NondeterministicError:
    because = f" (through {', '.join(first.random)})" if first.random else ""
    return NondeterministicError(
        first.path,
        "the same outputs for the same probe, twice",
        f"{', '.join(first.unstable)} differ between two calls{because}",
        "pin what is random at inference: --pin NAME=VALUE (dropout's keep probability 1.0, `training` false); "
        "`tfship inspect` lists what to pin.",
        unstable=first.unstable,
        random=first.random,
    )
