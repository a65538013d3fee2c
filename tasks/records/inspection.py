"""The result of `tfship inspect`: what is found in a model's files without running any of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from tasks.records.adoption import OpsFound, Proposal
from tasks.records.base import Record
from tasks.records.forms import Form


class TensorRow(Record):
    """One stored tensor, or a variable whose value is not stored here (`bytes` is None).

    `role` is `model`, `optimizer` (slots and their counters), `step`, or `bookkeeping`. `min`, `mean` and `max` are of
    the finite values, `nonfinite` counts the others; None where nobody asked or the dtype has no order.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None
    bytes: int | None
    role: str
    min: float | None = None
    mean: float | None = None
    max: float | None = None
    nonfinite: int | None = None


class KerasFound(Record):
    """What a Keras file's configuration says: the model's class, its layers (name, class), and those that are code."""

    model_class: str
    layers: tuple[tuple[str, str], ...] = ()
    lambdas: tuple[str, ...] = ()
    version: str = ""


class Inspection(Record):
    """Everything that can be found out about a model by reading its files.

    `whole` is None if it was not checked (`--quick`) or there is nothing to check; `damage` says what is wrong.
    `written_by` is the version of TensorFlow in the file, `producer` the GraphDef's. `ops.unsafe`, `unknown` and
    `no_kernel` cover what `reached_from` reaches, or the entire graph where that is empty. `options` are the command
    line options that accept the first guess of the proposal; `needs` names what the user must provide to ship it.
    """

    path: str
    form: Form | None
    chosen: str = ""
    available: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    written_by: str = ""
    producer: int | None = None
    whole: bool | None = None
    damage: tuple[str, ...] = ()
    variables: tuple[TensorRow, ...] = ()
    collections: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    hyperparameters: dict[str, Any] = Field(default_factory=dict)
    proposal: Proposal | None = None
    reached_from: tuple[str, ...] = ()
    ops: OpsFound | None = None
    keras: KerasFound | None = None
    options: tuple[str, ...] = ()
    needs: str = ""
    notes: tuple[str, ...] = ()
