"""Quality of a model on labelled data, and sensitivity of its probe."""

from __future__ import annotations

from tasks.records.base import Record


class ClassQuality(Record):
    """Precision, recall and f1 of one class; `support` is the number of rows with its label."""

    label: str
    support: int
    precision: float
    recall: float
    f1: float


class Evaluation(Record):
    """Quality of one output of one signature on labelled rows.

    Classification has `accuracy`, `macro_f1` (the unweighted mean of the classes' f1) and `classes`; regression has
    `mae`, `rmse` and `r2`. Fields that do not apply are None.
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
    """Sensitivity of the probe: what it would not show.

    `constant` are outputs that are the same in every row, `one_class` those that name a single class, as
    `signature/output`. `unnoticed` are variables whose elements were all changed by a tenth or more without changing a
    bit of any output. `tried` is the number of variables that were changed in this way, of `variables` that the outputs
    need (in a graph without variables: of its constants with several floats); `not_tried` are those that could not be.
    A variable that is not `unnoticed` was noticed as a whole, which says nothing about single elements.
    """

    constant: tuple[str, ...] = ()
    one_class: tuple[str, ...] = ()
    unnoticed: tuple[str, ...] = ()
    tried: int = 0
    variables: int = 0
    not_tried: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
