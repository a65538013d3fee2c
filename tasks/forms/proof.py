"""Proof of one form against a run's baseline: open it, compare values, assets and outputs. Runs in a fresh child.

A run's folder holds what the live session gave: `graph.json` (GraphNames), and what `baseline.py` wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from tasks.artifacts.manifest import hash_file
from tasks.errors import DamagedError, PipelineError, SmokeRefused
from tasks.forms import baseline as baselines
from tasks.forms import frozen, ops, parity, predictor, saved_model, saver, tensors
from tasks.forms import graph as graphs
from tasks.forms.predictor import Predictor
from tasks.forms.tensors import Tensors
from tasks.records.adoption import Adopted
from tasks.records.baseline import Baseline, TensorFact, Variable
from tasks.records.parity import ParityReport, ParityRow, Tolerance
from tasks.records.serving import Cause
from tasks.records.settings import SessionOptions
from tasks.records.signature import GraphNames

ON_DISK = "saved_model (files)"

Opener = Callable[[Path, SessionOptions], AbstractContextManager[Predictor]]
OPENERS: dict[str, Opener] = {
    "frozen_graph": frozen.loaded,
    "saved_model (v1 loader)": saved_model.loaded_v1,
    "saved_model (v2 loader)": saved_model.loaded_v2,
}


@dataclass(frozen=True)
class Reference:
    """What a run recorded of its live session at one step: what every form is compared with.

    `smaller` are the outputs for the probe's first rows alone, by their number, of the signatures whose batch is open.
    """

    names: GraphNames
    baseline: Baseline
    probe: Tensors
    outputs: Tensors
    smaller: dict[int, Tensors]

    @classmethod
    def read(cls, run: Path, step: int) -> Reference:
        """Read it from a run's folder.

        Raises:
            NondeterministicError, ParityError: the baseline is not fit for a comparison.
            PipelineError: there is nothing to compare.
        """
        baseline = Baseline.model_validate_json((run / "baselines" / f"{step}.json").read_bytes())
        names = names_of(run)
        parity.require_usable(baseline, must_be_finite(run, names))
        answered = tensors.read_tensors(run / "baselines" / f"{step}.tensors")
        reference = cls(
            names=names,
            baseline=baseline,
            probe=tensors.read_tensors(run / "probe.tensors"),
            outputs={name: array for name, array in answered.items() if not name.startswith("/")},
            smaller={count: parity.select(answered, f"/{count}") for count in baselines.SMALLER},
        )
        for signature in reference.names.signatures:
            answers = parity.select(reference.outputs, signature.key)
            if not any(array.size for array in answers.values()):
                raise PipelineError(
                    f"the probe of {signature.key}",
                    "at least one row",
                    "none",
                    "give `probe()` rows, then train again.",
                )
        return reference

    @property
    def session(self) -> SessionOptions:
        """The threads and the device that the baseline was computed with."""
        recorded = self.baseline.environment
        return SessionOptions(
            intra_op_threads=recorded.intra_op_threads,
            inter_op_threads=recorded.inter_op_threads,
            device=recorded.device,
        )

    @property
    def needed(self) -> list[Variable]:
        """The variables that the outputs read."""
        return [variable for variable in self.baseline.variables if variable.name in self.names.needed]


def names_of(run: Path) -> GraphNames:
    """The names that a run recorded."""
    return GraphNames.model_validate_json((run / "graph.json").read_bytes())


def must_be_finite(run: Path, names: GraphNames) -> frozenset[str]:
    """The variables that a signature reads which does not declare NaN and infinities legitimate."""
    strict = [signature for signature in names.signatures if not signature.allow_nonfinite]
    if not strict or len(strict) == len(names.signatures):
        return frozenset(names.needed if strict else ())
    graph_def = saver.meta_graph(run / "graph.meta").graph_def
    outputs = [spec.tensor for signature in strict for spec in signature.outputs.values()]
    return frozenset(graphs.variables_needed(graph_def, outputs))


def adopted(run: Path) -> Adopted | None:
    """How the model of a run was brought, None where it was trained here."""
    path = run / "adopted.json"
    return Adopted.model_validate_json(path.read_bytes()) if path.exists() else None


def prove(form: str, folder: Path, run: Path, step: int, tolerance: Tolerance) -> ParityReport:
    """Compare the form in `folder` with the baseline of `run` at `step`.

    Raises:
        NondeterministicError, ParityError: the baseline itself is not fit for a comparison.
        DamagedError: the form cannot be loaded.
    """
    reference = Reference.read(run, step)
    constants = frozen.constants(folder) if OPENERS[form] is frozen.loaded else saved_model.constants(folder)
    with OPENERS[form](folder, reference.session) as opened:
        return judge(opened, folder, reference, reference.needed, constants, tolerance)


def judge(
    opened: Predictor,
    folder: Path,
    reference: Reference,
    variables: Iterable[Variable],
    constants: Iterable[TensorFact],
    tolerance: Tolerance,
) -> ParityReport:
    """Compare an opened form: `variables` and constants byte for byte, assets by hash, signatures, outputs.

    `constants` are those of the form's graph, read from its file.
    """
    here = predictor.environment(reference.session)
    values = [variable.value for variable in variables]
    rows = parity.values(opened.form, [*values, *reference.baseline.constants], chain(opened.values(), constants))
    if not values and rows[0].passed:
        rows[0] = rows[0].model_copy(update={"note": f"no variables; constants: {rows[0].note}"})
    rows += parity.signatures(opened.form, reference.names.signatures, opened.signatures.values())
    rows += asset_rows(opened.form, folder, reference.names)
    rows += parity.outputs(
        opened,
        reference.names.signatures,
        reference.probe,
        reference.outputs,
        parity.test_for(reference.baseline.environment, here),
        tolerance,
    )
    return ParityReport(baseline=reference.baseline.form, rows=tuple(rows))


def asset_rows(form: str, folder: Path, names: GraphNames) -> list[ParityRow]:
    """The assets of a form compared with the recorded ones by hash."""
    changed = saver.changed_assets(folder / "assets", names.assets)
    return parity.assets(form, {asset.filename: asset.sha256 for asset in names.assets}, changed)


def values_on_disk(folder: Path, run: Path, step: int) -> ParityReport:
    """Values and assets of the SavedModel in `folder`: as they lie in its files, then as a server computes with them.

    Outputs alone miss a zeroed weight 8 times in 60: whatever is about to be served is looked at here. The files alone
    miss a restore that reads another tensor into a variable, and a main op that writes one again; so what passes, and
    does nothing but compute, is loaded by the loader that TensorFlow Serving uses and its variables are read.

    Raises:
        UnsafeGraph: it would do more than compute; nothing of it was run.
        SmokeRefused: the loader refuses it.
    """
    reference = Reference.read(run, step)
    expected = [
        *(TensorFact(**(variable.value.model_dump() | {"name": variable.key})) for variable in reference.needed),
        *reference.baseline.constants,
    ]
    rows = parity.values(ON_DISK, expected, [*saved_model.bundle_values(folder), *saved_model.constants(folder)])
    rows += asset_rows(ON_DISK, folder, reference.names)
    if all(row.passed is not False for row in rows):
        require_self_contained(folder)
        rows += _values_as_loaded(folder, reference)
    return ParityReport(baseline=reference.baseline.form, rows=tuple(rows))


def _values_as_loaded(folder: Path, reference: Reference) -> list[ParityRow]:
    """A row for each variable that a server would not compute with as the live model did, and for each one too many."""
    try:
        loaded = saved_model.loaded_values(folder, reference.session)
    except DamagedError as error:
        made_of = ops.scan(saved_model.meta_graph(folder).graph_def, None)
        cause = Cause.UNKNOWN_OP if made_of.unknown or made_of.no_kernel else Cause.LOAD_ERROR
        raise SmokeRefused(error.where, error.expected, error.found, error.remedy, {"cause": cause.value}) from None
    wanted = [variable.value.model_copy(update={"name": variable.name}) for variable in reference.needed]
    rows = [row for row in parity.values(ON_DISK, wanted, loaded) if row.passed is False]
    return [_once_loaded(row) for row in rows or parity.unexpected(ON_DISK, wanted, loaded)]


def _once_loaded(row: ParityRow) -> ParityRow:
    """A row that says that the files are right, and what a server makes of them is not."""
    worst = row.worst and row.worst.model_copy(update={"got": f"{row.worst.got} once it was loaded"})
    return row.model_copy(update={"worst": worst, "note": "the files are right; loading them gives another value"})


def signatures_on_disk(folder: Path, run: Path) -> str:
    """How the signatures that the SavedModel in `folder` declares differ from the live model's, "" where they do not.

    Looked at before a server is: one that refuses a warmup request for an input's name would hide the name's change.
    """
    try:
        declared = saved_model.signatures(folder)
    except (ValueError, TypeError) as error:
        return f"a method or a dtype of no known kind: {error}"
    return parity.signature_difference(names_of(run).signatures, declared)


def require_self_contained(folder: Path) -> None:
    """Refuse a SavedModel that would do more in a server than compute from what it brings.

    Raises:
        UnsafeGraph: it touches other files or the network, runs Python, or ends the process.
    """
    meta = saved_model.meta_graph(folder)
    outputs = [info.name for definition in meta.signature_def.values() for info in definition.outputs.values()]
    ops.require_harmless(meta.graph_def, outputs, str(folder))
    ops.require_loadable(meta, str(folder))


def record_asset(path: Path, tensor: str) -> dict[str, str]:
    """The fields of an Asset record for a file and the tensor that holds its path."""
    return {"filename": path.name, "tensor": tensor, "sha256": hash_file(path)}
