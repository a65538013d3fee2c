"""What the live model gave: the truth that every form is compared with."""

from __future__ import annotations

from pydantic import Field

from tasks.records.base import Record
from tasks.records.forms import LIVE_SESSION


class TensorFact(Record):
    """One tensor by name: what it is, and the sha256 of its bytes (strings: of their lengths and bytes).

    `nonfinite` is how many of its floats are NaN or infinite.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    sha256: str
    nonfinite: int = 0

    @property
    def size(self) -> int:
        """Number of elements."""
        count = 1
        for dimension in self.shape:
            count *= dimension
        return count


class Variable(Record):
    """A variable of the graph: its operation's name, the key it has in the checkpoint, and its value's facts."""

    name: str
    key: str
    value: TensorFact


class Environment(Record):
    """What must be equal for outputs to be compared bit for bit: another one moves floats by some 4e-6."""

    tensorflow: str
    cpu: str
    onednn: bool
    intra_op_threads: int
    inter_op_threads: int
    device: str | None = None


class Baseline(Record):
    """Facts about the live session, or the brought original, at one global step; its outputs lie in a file beside it.

    `form` is what answered.
    `constants` are those that the outputs read: weights can be baked into a graph.
    `unstable` are outputs that differed between two calls on the same probe, `nonfinite` those that hold NaN or
    infinities without a declaration: either makes every comparison with them worthless, and is refused.
    """

    step: int
    form: str = LIVE_SESSION
    environment: Environment
    variables: tuple[Variable, ...]
    constants: tuple[TensorFact, ...] = ()
    unstable: tuple[str, ...] = ()
    nonfinite: tuple[str, ...] = ()
    metrics: dict[str, float] = Field(default_factory=dict)
