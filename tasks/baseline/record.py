"""The baseline: a live model's outputs for the probe, computed twice, and the digests of its values.

Layout: see `training_run.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tasks.baseline.training_run import TrainingRun
from tasks.parity import compare
from tasks.parity import predictor as predictors
from tasks.parity.predictor import Predictor
from tasks.records.baseline import Baseline, TensorFact, Variable
from tasks.records.settings import SessionOptions
from tasks.records.signature import OutputRef, Signature
from tasks.tensors import tensor_file
from tasks.tensors.tensor_file import Tensors

SMALLER = (1, 7)
"""Batches besides the complete probe: one row, and an odd number of rows."""


def record(
    run: TrainingRun,
    step: int,
    live: Predictor,
    signatures: Iterable[Signature],
    probe: Tensors,
    variables: Iterable[Variable],
    constants: Iterable[TensorFact],
    options: SessionOptions,
    metrics: Mapping[str, float] | None = None,
) -> Baseline:
    """Compute all outputs of `live`, and write the baseline of `step` into a training run."""
    run.baselines.mkdir(exist_ok=True)
    signatures = list(signatures)
    first, second = ask(live, signatures, probe), ask(live, signatures, probe)
    alone = {
        f"/{count}/{name}": array
        for count in SMALLER
        for name, array in ask_first_rows(live, signatures, probe, count).items()
    }
    tensor_file.write_tensors(run.outputs_file(step), first | alone)
    allowed = {signature.key for signature in signatures if signature.allow_nonfinite}
    found = Baseline(
        step=step,
        form=live.form,
        environment=predictors.environment(options),
        variables=tuple(variables),
        constants=tuple(constants),
        unstable=unstable(first, second),
        nonfinite=tuple(
            name
            for name in first
            if OutputRef.parse(name).signature not in allowed and tensor_file.nonfinite(first[name])
        ),
        metrics=dict(metrics or {}),
    )
    run.write_baseline(found)
    return found


def ask(live: Predictor, signatures: Iterable[Signature], probe: Tensors) -> Tensors:
    """Return every output of every signature, by `signature/output`."""
    return {
        str(OutputRef(signature.key, name)): value
        for signature in signatures
        for name, value in live.predict(
            signature.key, {name: probe[str(OutputRef(signature.key, name))] for name in signature.inputs}
        ).items()
    }


def ask_first_rows(live: Predictor, signatures: Iterable[Signature], probe: Tensors, count: int) -> Tensors:
    """Return the outputs as `ask` for the first rows alone, of signatures with an open batch dimension throughout."""
    answers: Tensors = {}
    for signature in signatures:
        open_ended = all(spec.shape and spec.shape[0] is None for spec in signature.outputs.values())
        if open_ended and compare.rows_of(signature, probe) > count:
            inputs = compare.first_rows(tensor_file.select(probe, signature.key), count)
            found = live.predict(signature.key, inputs)
            answers |= tensor_file.keyed(signature.key, found)
    return answers


def unstable(first: Tensors, second: Tensors) -> tuple[str, ...]:
    """Return the outputs that differ in any bit between two answers."""
    return tuple(name for name in first if tensor_file.as_bytes(first[name]) != tensor_file.as_bytes(second[name]))
