"""How good a model is on labelled data, and how much its probe can tell."""

from __future__ import annotations

from tasks.records.base import Record


class ClassQuality(Record):
    """One class: how many rows bear its label (`support`), and how well they are found."""

    label: str
    support: int
    precision: float
    recall: float
    f1: float


class Evaluation(Record):
    """What one output of one signature is worth on labelled rows.

    Classes have `accuracy`, `macro_f1` (the mean of the classes' f1, small classes counting as much as large ones) and
    `classes`; numbers have `mae`, `rmse` and `r2`. What does not apply is None.
    """

    file: str
    signature: str
    output: str
    rows: int
    accuracy: float | None = None
    macro_f1: float | None = None
    classes: tuple[ClassQuality, ...] = ()
    mae: float | None = None
    rmse: float | None = None
    r2: float | None = None
    notes: tuple[str, ...] = ()


class ProbeWorth(Record):
    """What the probe would not show.

    `constant` are outputs that are the same in every row, `one_class` those that name one class only, as
    `signature/output`. `unnoticed` are variables whose every element was changed by a tenth and more while no bit of
    any output moved. `tried` variables were changed so, of `variables` that the outputs need (in a graph without any: of
    its constants of several floats); `not_tried` could not be.
    A variable that was tried and is not `unnoticed` was noticed as a whole, which says nothing of each single element.
    """

    constant: tuple[str, ...] = ()
    one_class: tuple[str, ...] = ()
    unnoticed: tuple[str, ...] = ()
    tried: int = 0
    variables: int = 0
    not_tried: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
