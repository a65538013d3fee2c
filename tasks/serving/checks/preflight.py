"""Checks of a SavedModel's files before a server starts: values, signatures, and that it only computes."""

from __future__ import annotations

from pathlib import Path

from tasks.baseline.reference import Reference, asset_rows, structure_rows
from tasks.baseline.training_run import TrainingRun
from tasks.errors import DamagedError, SmokeRefused
from tasks.forms import saved_model
from tasks.graphs import scan
from tasks.parity import compare
from tasks.records.baseline import TensorFact
from tasks.records.forms import CandidateForm
from tasks.records.parity import ParityReport, ParityRow
from tasks.records.serving import Cause

ON_DISK = CandidateForm.SAVED_MODEL_FILES


def values_on_disk(folder: Path, run: Path, step: int) -> ParityReport:
    """Compare values and assets of the SavedModel in `folder`: what its index declares, then every value as loaded.

    Outputs alone miss a zeroed weight 8 times in 60, so the values are compared. The files alone miss a restore that
    reads another tensor into a variable, and a main op that overwrites one; so a model that does nothing but compute is
    loaded by the loader that TensorFlow Serving uses and its variables are read. Only where something differs are the
    tensors of the files read too, to tell which of the two it is.

    Raises:
        UnsafeGraph: the model would do more than compute; nothing of it was run.
        SmokeRefused: the loader refuses the model.
    """
    reference = Reference.read(run, step)
    expected = [
        *(TensorFact(**(variable.value.model_dump() | {"name": variable.key})) for variable in reference.needed),
        *reference.baseline.constants,
    ]
    constants = saved_model.constants(folder)
    assets = asset_rows(ON_DISK, folder, reference.names)
    rows = None
    if _declared(folder, reference) and all(row.passed is not False for row in assets):
        require_self_contained(folder)
        rows = _values_as_loaded(folder, reference, constants)
    if rows is None or any(row.passed is False for row in rows):
        stored = compare.values(ON_DISK, expected, [*saved_model.bundle_values(folder), *constants])
        rows = (
            stored
            if rows is None or any(row.passed is False for row in stored)
            else [_once_loaded(row) for row in rows]
        )
    return ParityReport(baseline=reference.baseline.form, rows=(*rows, *assets))


def structure_on_disk(folder: Path, run: Path, step: int) -> ParityReport:
    """Compare the graph of the SavedModel in `folder` with the source's."""
    reference = Reference.read(run, step)
    graph_def, signatures = saved_model.meta_graph(folder).graph_def, saved_model.signatures(folder)
    rows = structure_rows(ON_DISK, graph_def, signatures, reference)
    return ParityReport(baseline=reference.baseline.form, rows=tuple(rows))


def _declared(folder: Path, reference: Reference) -> bool:
    """Return True if the index of the files declares each needed tensor as the live model has it."""
    declared = saved_model.declared_tensors(folder)
    wanted = {variable.key: (variable.value.dtype, variable.value.shape) for variable in reference.needed}
    return wanted.items() <= declared.items()


def _values_as_loaded(folder: Path, reference: Reference, constants: list[TensorFact]) -> list[ParityRow]:
    """Return the rows of the values as loaded: of each that differs from the live model's, or else of each one too many."""
    try:
        loaded = saved_model.loaded_values(folder, reference.session)
    except DamagedError as error:
        made_of = scan.scan(saved_model.meta_graph(folder).graph_def, None)
        cause = Cause.UNKNOWN_OP if made_of.unknown or made_of.no_kernel else Cause.LOAD_ERROR
        raise SmokeRefused(error.where, error.expected, error.found, error.remedy, cause=cause) from None
    wanted = [variable.value.model_copy(update={"name": variable.name}) for variable in reference.needed]
    rows = compare.values(ON_DISK, [*wanted, *reference.baseline.constants], [*loaded, *constants])
    if any(row.passed is False for row in rows):
        return rows
    return [*rows, *compare.unexpected(ON_DISK, wanted, loaded)]


def _once_loaded(row: ParityRow) -> ParityRow:
    """Note in a row that the files are right and the loaded value is not."""
    if row.passed is not False:
        return row
    worst = row.worst and row.worst.model_copy(update={"got": f"{row.worst.got} once it was loaded"})
    return row.model_copy(update={"worst": worst, "note": "the files are right; loading them gives another value"})


def signatures_on_disk(folder: Path, run: Path) -> str | None:
    """Return how the signatures of the SavedModel in `folder` differ from the live model's, or None.

    Compared before a server starts: one that refuses a warmup request for an input's name would hide the name's change.
    """
    try:
        declared = saved_model.signatures(folder)
    except (ValueError, TypeError) as error:
        return f"an unknown method or dtype: {error}"
    return compare.signature_difference(TrainingRun(run).names().signatures, declared)


def require_self_contained(folder: Path) -> None:
    """Refuse a SavedModel that would do more in a server than compute from its own files.

    Raises:
        UnsafeGraph: it accesses other files or the network, runs Python, or ends the process.
    """
    meta = saved_model.meta_graph(folder)
    outputs = [info.name for definition in meta.signature_def.values() for info in definition.outputs.values()]
    scan.require_harmless(meta.graph_def, outputs, str(folder))
    scan.require_loadable(meta, str(folder))
