"""Proof of a form against a baseline: open it, compare values, assets and outputs. Runs in a fresh child.

The baseline is in the folder of a training run: see `training_run.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from pathlib import Path

from tasks.artifacts.hashes import hash_file
from tasks.baseline import record as baselines
from tasks.baseline.training_run import TrainingRun
from tasks.errors import ImpureError, PipelineError
from tasks.forms import frozen_graph, saved_model, saver
from tasks.graphs import graph as graphs
from tasks.graphs import purity, structure
from tasks.graphs.protos import GraphDef, MetaGraphDef, NodeDef
from tasks.parity import compare, predictor
from tasks.parity.predictor import Predictor
from tasks.records.baseline import Baseline, TensorFact, Variable
from tasks.records.forms import CandidateForm
from tasks.records.parity import Difference, ParityReport, ParityRow, ParityTest, Tolerance
from tasks.records.settings import SessionOptions
from tasks.records.signature import GraphNames, Signature
from tasks.tensors import tensor_file
from tasks.tensors.tensor_file import Tensors

GRAPH = "(graph)"  # what a structure row is about, in place of an output
Opener = Callable[[Path, SessionOptions], AbstractContextManager[Predictor]]
LOADERS: dict[str, Opener] = {
    CandidateForm.SAVED_MODEL_V1: saved_model.loaded_v1,
    CandidateForm.SAVED_MODEL_V2: saved_model.loaded_v2,
}


@dataclass(frozen=True)
class Reference:
    """The baseline of a training run at one step, with which every form is compared.

    `graph_file` is the source's graph. `smaller` are the outputs for the first rows of the probe alone, by their number, of signatures with an open batch.
    """

    graph_file: Path
    names: GraphNames
    baseline: Baseline
    probe: Tensors
    outputs: Tensors
    smaller: dict[int, Tensors]

    @classmethod
    def read(cls, run: Path, step: int) -> Reference:
        """Read it from the folder of a training run.

        Raises:
            NondeterministicError, ParityError: the baseline is not fit for a comparison.
            PipelineError: a signature has no output to compare.
        """
        trained = TrainingRun(run)
        baseline, names = trained.baseline(step), trained.names()
        compare.require_usable(baseline, must_be_finite(trained.graph_file, names))
        answered = tensor_file.read_tensors(trained.outputs_file(step))
        reference = cls(
            graph_file=trained.graph_file,
            names=names,
            baseline=baseline,
            probe=tensor_file.read_tensors(trained.probe_file),
            outputs={name: array for name, array in answered.items() if not name.startswith("/")},
            smaller={
                count: {
                    name.removeprefix(f"/{count}/"): array
                    for name, array in answered.items()
                    if name.startswith(f"/{count}/")
                }
                for count in baselines.SMALLER
            },
        )
        for signature in reference.names.signatures:
            answers = tensor_file.select(reference.outputs, signature.key)
            # Without elements by declaration, only dtypes and shapes can differ.
            declared = all(spec.shape is not None and 0 in spec.shape for spec in signature.outputs.values())
            if not declared and not any(array.size for array in answers.values()):
                raise PipelineError(
                    f"the probe of {signature.key}",
                    "at least one row",
                    "none",
                    "return rows from `probe()`, then train again.",
                )
        return reference

    @cached_property
    def meta(self) -> MetaGraphDef:
        """The source's graph, read when it is first asked for."""
        return saver.meta_graph(self.graph_file)

    @property
    def session(self) -> SessionOptions:
        """The threads and the device with which the baseline was computed."""
        return self.baseline.environment.session

    @property
    def needed(self) -> list[Variable]:
        """The variables that the outputs read."""
        return [variable for variable in self.baseline.variables if variable.name in self.names.needed]


def must_be_finite(graph_file: Path, names: GraphNames) -> frozenset[str]:
    """Return the variables of signatures that do not declare NaN and infinities legitimate."""
    strict = [signature for signature in names.signatures if not signature.allow_nonfinite]
    if not strict or len(strict) == len(names.signatures):
        return frozenset(names.needed if strict else ())
    graph_def = saver.meta_graph(graph_file).graph_def
    outputs = [spec.tensor for signature in strict for spec in signature.outputs.values()]
    return frozenset(graphs.Graph(graph_def).variables(outputs))


def prove(form: str, folder: Path, run: Path, step: int, tolerance: Tolerance) -> ParityReport:
    """Compare the form in `folder` with the baseline of the training run `run` at `step`.

    Raises:
        NondeterministicError, ParityError: the baseline is not fit for a comparison.
        DamagedError: the form cannot be loaded.
    """
    reference = Reference.read(run, step)
    if form == CandidateForm.FROZEN_GRAPH:
        stored = frozen_graph.read(folder)
        constants, graph_def, signatures = stored.constants, stored.graph_def, reference.names.signatures
        opening: AbstractContextManager[Predictor] = frozen_graph.opened(stored, folder, reference.session)
    else:
        constants, graph_def = saved_model.constants(folder), saved_model.meta_graph(folder).graph_def
        signatures, opening = tuple(saved_model.signatures(folder)), LOADERS[form](folder, reference.session)
    with opening as opened:
        report = judge(opened, folder, reference, reference.needed, constants, tolerance)
    if form != CandidateForm.SAVED_MODEL_V2:  # whose files are those of the other loader
        rows = structure_rows(form, graph_def, signatures, reference, constants)
        report = report.model_copy(update={"rows": (*report.rows, *rows)})
    return report


def judge(
    opened: Predictor,
    folder: Path,
    reference: Reference,
    variables: Iterable[Variable],
    constants: Iterable[TensorFact],
    tolerance: Tolerance,
) -> ParityReport:
    """Compare an opened form: `variables` and constants byte for byte, assets by hash, signatures, and outputs.

    `constants` are the constants in the form's graph, read from its file.
    """
    here = predictor.environment(reference.session)
    values = [variable.value for variable in variables]
    rows = compare.values(opened.form, [*values, *reference.baseline.constants], chain(opened.values(), constants))
    if not values and rows[0].passed:
        rows[0] = rows[0].model_copy(update={"note": f"no variables; constants: {rows[0].note}"})
    rows += compare.signatures(opened.form, reference.names.signatures, opened.signatures.values())
    rows += asset_rows(opened.form, folder, reference.names)
    rows += compare.outputs(
        opened,
        reference.names.signatures,
        reference.probe,
        reference.outputs,
        compare.test_for(reference.baseline.environment, here),
        tolerance,
    )
    return ParityReport(baseline=reference.baseline.form, rows=tuple(rows))


def structure_rows(
    form: str,
    graph_def: GraphDef,
    signatures: Iterable[Signature],
    reference: Reference,
    constants: Iterable[TensorFact] = (),
) -> list[ParityRow]:
    """Compare the graph of a form with the source's, signature by signature; both stand for the values of the baseline.

    Control edges are not compared, so what they run is judged: a form must be as pure as its source. `constants` are the
    facts of the form's constants, as far as they are known: then these are not hashed again.
    """
    declared = {one.key: one for one in signatures}
    facts = {one.name: one.value.model_copy(update={"name": ""}) for one in reference.baseline.variables}
    assets = {graphs.node_name(asset.tensor): asset.filename for asset in reference.names.assets}

    def value(known: Mapping[str, TensorFact], node: NodeDef, function: str) -> Hashable:
        if node.op in graphs.VARIABLE_OPS:
            return facts.get(node.name, node.name)
        if not function and node.name in assets:
            return assets[node.name]
        return known.get(f"{node.name}@{function}" if function else node.name) or tensor_file.fact(
            "", graphs.constant(node)
        )

    def unnamed(every: Iterable[TensorFact]) -> dict[str, TensorFact]:
        return {one.name: one.model_copy(update={"name": ""}) for one in every}

    source = structure.Side(reference.meta.graph_def, partial(value, unnamed(reference.baseline.constants)))
    found = structure.Side(graph_def, partial(value, unnamed(constants)))
    rows = []
    for wanted in reference.names.signatures:
        count, difference = 0, None
        passed: bool | None = True
        try:
            count, difference = structure.compare(source, found, wanted, declared[wanted.key])
            note = f"same ({count} node{'s' * (count != 1)})"
            if difference is None:
                purity.require_pure(graph_def, [declared[wanted.key]], reference.names.impure, form)
        except ImpureError as error:
            difference = structure.Difference(error.expected, error.found)
        except (KeyError, IndexError, ValueError, RecursionError) as error:
            passed, note = None, f"not compared: {type(error).__name__}: {error}"[:200]
        worst = None
        if difference is not None:
            passed, note = False, f"differs: {difference.found}, where the source has {difference.source}"
            worst = Difference(expected=difference.source, got=difference.found)
        row = _structure_row(form, wanted.key, passed, note)
        differs = int(difference is not None)
        rows.append(row.model_copy(update={"compared": count, "mismatched": differs, "worst": worst}))
    return rows


def structure_not_compared(form: str, reference: Reference, why: str) -> list[ParityRow]:
    """Return the rows of a form whose graph is not that of the source, nor made from it."""
    return [_structure_row(form, one.key, None, f"not compared: {why}") for one in reference.names.signatures]


def _structure_row(form: str, signature: str, passed: bool | None, note: str) -> ParityRow:
    return ParityRow(
        candidate=form, signature=signature, output=GRAPH, test=ParityTest.STRUCTURE, passed=passed, note=note
    )


def asset_rows(form: str, folder: Path, names: GraphNames) -> list[ParityRow]:
    """Compare the assets of a form with the recorded ones by hash."""
    changed = saver.changed_assets(folder / "assets", names.assets)
    return compare.assets(form, {asset.filename: asset.sha256 for asset in names.assets}, changed)


def record_asset(path: Path, tensor: str) -> dict[str, str]:
    """Return the fields of an Asset for a file and the tensor that holds its path."""
    return {"filename": path.name, "tensor": tensor, "sha256": hash_file(path)}
