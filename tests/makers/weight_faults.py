"""Weights changed by more and less, and which limits notice it in the outputs alone. In a child."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.artifact_views import Pinned
from tasks.baseline import noise
from tasks.baseline.reference import Reference
from tasks.baseline.training_run import TrainingRun
from tasks.forms import saver
from tasks.parity import compare
from tasks.records.base import Record
from tasks.records.parity import Limits, Noise, ParityTest, Tolerance

CHANGES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""Parts of itself that a weight loses; 1 leaves a zero."""
_VARIABLES = 12


class Noticed(Record):
    """Faults of one kind: how many outputs show it beyond the fixed limits, beyond the measured ones, and only the former.

    `part` is the part of itself that a weight loses.
    """

    kind: str
    part: float
    planted: int
    fixed: int
    measured: int
    lost: int


def noise_of(pinned: Path, run: Path) -> noise.Measured:
    """Measure the noise of a pinned checkpoint of a training run."""
    pin = Pinned(pinned).record()
    recorded = TrainingRun(run).baseline(pin.step).environment
    return noise.measure(noise.restored_answers, (pinned, pin.prefix, run), recorded)


def noticed(measured: Sequence[Noise], pinned: Path, run: Path) -> list[Noticed]:
    """Plant every fault in a restored checkpoint with this noise, and ask it the probe."""
    import tensorflow as tf

    pin = Pinned(pinned).record()
    reference = Reference.read(run, pin.step)
    limits = [Tolerance(), Limits.measured_of(Tolerance(), measured)]
    names = reference.names
    rows = []
    with saver.restored(pinned, pinned / pin.prefix, names, reference.session) as opened:
        with opened.session.graph.as_default():
            held = {one.op.name: one for one in tf.compat.v1.global_variables()}
        variables = [held[name] for name in sorted(names.needed) if name in held and held[name].dtype.is_floating]
        values = {one: opened.session.run(one) for one in variables}
        largest = sorted((one for one in variables if values[one].size), key=lambda one: -values[one].size)[:_VARIABLES]

        def shown(one: Any, changed: Any) -> list[bool]:
            one.load(changed, opened.session)
            found = [
                compare.outputs(opened, names.signatures, reference.probe, reference.outputs, ParityTest.SERVED, limit)
                for limit in limits
            ]
            one.load(values[one], opened.session)
            return [any(row.passed is False for row in rows) for rows in found]

        for whole in (False, True):
            for part in CHANGES:
                seen = []
                for one in largest:
                    changed = np.array(values[one])
                    place = ... if whole else np.unravel_index(int(np.argmax(np.abs(changed))), changed.shape)
                    changed[place] *= 1.0 - part
                    seen.append(shown(one, changed))
                kind = f"{'all weights' if whole else 'the largest weight'} less {part:g} of itself"
                fixed, measured = (sum(one[side] for one in seen) for side in (0, 1))
                lost = sum(one[0] and not one[1] for one in seen)
                rows.append(Noticed(kind=kind, part=part, planted=len(seen), fixed=fixed, measured=measured, lost=lost))
    return rows
