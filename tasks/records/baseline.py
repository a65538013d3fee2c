"""The baseline: facts about the live model, with which every form is compared."""

from __future__ import annotations

from pydantic import Field

from tasks.records.base import Record
from tasks.records.forms import LIVE_SESSION
from tasks.records.settings import SessionOptions


class TensorFact(Record):
    """One tensor by name: dtype, shape, and the sha256 of its bytes (for strings: of their lengths and bytes).

    `nonfinite` is the number of its elements that are NaN or infinite.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    sha256: str
    nonfinite: int = 0

    @property
    def size(self) -> int:
        """Return the number of elements."""
        count = 1
        for dimension in self.shape:
            count *= dimension
        return count


class Variable(Record):
    """A variable of the graph: the name of its operation, its key in the checkpoint, and the facts of its value."""

    name: str
    key: str
    value: TensorFact


class Environment(Record):
    """The environment of a computation. Outputs are compared bit for bit only where it is equal: another one moves
    floats by about 4e-6.
    """

    tensorflow: str
    cpu: str
    onednn: bool
    intra_op_threads: int
    inter_op_threads: int
    device: str | None = None

    @property
    def session(self) -> SessionOptions:
        """Return the threads and the device of the computation."""
        return SessionOptions(
            intra_op_threads=self.intra_op_threads, inter_op_threads=self.inter_op_threads, device=self.device
        )


class Baseline(Record):
    """Facts about the live session, or about the source model, at one global step. Its outputs are in a separate file.

    `form` names the model that answered. `constants` are those that the outputs read: weights can be baked into a graph.
    `unstable` are outputs that differed between two calls on the same probe, `nonfinite` those that hold NaN or
    infinities without a declaration: either makes every comparison meaningless, and is refused.
    """

    step: int
    form: str = LIVE_SESSION
    environment: Environment
    variables: tuple[Variable, ...]
    constants: tuple[TensorFact, ...] = ()
    unstable: tuple[str, ...] = ()
    nonfinite: tuple[str, ...] = ()
    metrics: dict[str, float] = Field(default_factory=dict)
