"""A graph in a session with one variable changed for a run: nothing in the session is, other values are fed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

import numpy as np

from tasks.graphs import graph as graphs
from tasks.parity.predictor import Predictor, SessionPredictor
from tasks.records.signature import Signature
from tasks.tensors.tensor_file import Array, Tensors, as_array, as_bytes

_ALIASES = {"Identity", "RefIdentity"}


class CannotPerturb(Exception):  # noqa: N818 - it says what is so
    """This variable cannot be changed for a run; str() is why."""


class Fed:
    """A session's model that is fed other values where it reads a variable."""

    def __init__(self, predictor: SessionPredictor, reads: Sequence[str], value: Array, old: Array) -> None:
        self._predictor, self._reads, self._value, self._old = predictor, reads, value, old
        self.form, self.signatures, self.values = predictor.form, predictor.signatures, predictor.values

    def unchanged(self) -> Fed:
        """Return the same model with the variable's own value fed."""
        return Fed(self._predictor, self._reads, self._old, self._old)

    def predict(self, signature: str, inputs: Mapping[str, Array]) -> Tensors:
        """See `Predictor`."""
        spec = self.signatures[signature]
        feeds = dict.fromkeys(self._reads, self._value) | {
            spec.inputs[name].tensor: value for name, value in inputs.items()
        }
        fetches = {name: output.tensor for name, output in spec.outputs.items()}
        answers = self._predictor.session.run(fetches, feeds)
        return {name: as_array(value) for name, value in answers.items()}


def by_feeding(
    predictor: SessionPredictor, signatures: Sequence[Signature]
) -> Callable[[str], AbstractContextManager[Predictor]]:
    """Change a variable for one run only, by feeding every tensor by which the outputs read it.

    What hands the variable itself on, to a function, a loop or a gather, would still see the old value: such a
    variable raises CannotPerturb. Nothing in the session is changed.
    """
    graph_def = predictor.session.graph.as_graph_def()
    reached = graphs.Graph(graph_def).reach(targets(signatures))
    readers = graphs.readers(node for node in graph_def.node if node.name in reached)
    inputs = {spec.tensor for signature in signatures for spec in signature.inputs.values()}
    fetched = set(targets(signatures))

    def reads(name: str, resource: bool) -> list[str]:
        found = []
        for node, position, _ in readers.get(name, []):
            if node.op == "ReadVariableOp" or (not resource and node.op == "Identity"):
                found.append(f"{node.name}:0")
            elif node.op in _ALIASES:
                found += reads(node.name, resource)
            else:
                raise CannotPerturb(f"read by {node.op}, which cannot be fed")
            if position != 0:
                raise CannotPerturb(f"read by {node.op}, which cannot be fed")
        return found

    @contextmanager
    def changed(name: str) -> Iterator[Predictor]:
        graph = predictor.session.graph
        op = graph.get_operation_by_name(name).type
        found = [f"{name}:0"] if op == "Const" else reads(name, op == "VarHandleOp")
        if not found or {name, f"{name}:0", *found} & (inputs | fetched):
            raise CannotPerturb("read in a way that cannot be fed")
        if not all(graph.is_feedable(graph.get_tensor_by_name(tensor)) for tensor in found):
            raise CannotPerturb("its reads cannot be fed")
        value = as_array(predictor.session.run(predictor.named.get(name, f"{name}:0")))
        yield Fed(predictor, found, another(value), value)

    return changed


def another(value: Array) -> Array:
    """`value` with every element changed, unequally, floats by some tenth and keeping their sign.

    Unequally, because a softmax does not see what is added to all its inputs.
    """
    if value.dtype.kind in "OSU":
        found = np.empty(value.size, dtype=object)
        found[:] = [(item.encode() if isinstance(item, str) else bytes(item)) + b"~" for item in value.ravel().tolist()]
        return found.reshape(value.shape)
    if value.dtype.kind == "b":
        return np.asarray(~value)
    if value.dtype.kind in "iu":
        return np.asarray(value + np.ones((), value.dtype))
    wide = value.astype(np.complex128 if value.dtype.kind == "c" else np.float64)
    step = np.linspace(0.5, 1.5, value.size).reshape(value.shape)
    finite = np.abs(wide[np.isfinite(wide)])
    scale = float(finite.mean()) if finite.size and finite.mean() > 0 else 1.0
    moved = np.asarray((wide + step * (0.1 * wide + 0.05 * scale * np.where(wide.real < 0, -1, 1))).astype(value.dtype))
    if as_bytes(moved) == as_bytes(value):
        raise CannotPerturb("its values are not finite, or there are none")
    return moved


def targets(signatures: Sequence[Signature]) -> list[str]:
    """Return the tensors of all their outputs."""
    return [spec.tensor for signature in signatures for spec in signature.outputs.values()]
