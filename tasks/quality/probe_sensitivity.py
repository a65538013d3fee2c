"""Sensitivity of the probe: outputs that never change, a single class, variables whose change moves no output."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np

from tasks.errors import EnvironmentFailure
from tasks.graphs import graph as graphs
from tasks.graphs.protos import GraphDef
from tasks.parity.predictor import Predictor, SessionPredictor
from tasks.records.baseline import TensorFact
from tasks.records.evaluation import ProbeWorth
from tasks.records.signature import OutputRef, Signature
from tasks.tensors.tensor_file import LARGE, Array, Tensors, as_array, as_bytes, dtype_name, select

Perturb = Callable[[str], AbstractContextManager[Predictor]]
SCORES = ("probabilities", "probability", "probs", "scores", "softmax", "logits")
MOST_VARIABLES = 64
SECONDS = 120.0
_AT_ONCE = 1 << 18  # elements
_FLOATS = {1, 2, 14, 19}  # float, double, bfloat16, half (tensorflow/core/framework/types.proto)


def probe_worth(
    predictor: Predictor,
    signatures: Sequence[Signature],
    probe: Tensors,
    outputs: Tensors,
    perturb: Perturb | None = None,
    *,
    seconds: float = SECONDS,
    values: Iterable[TensorFact] | None = None,
) -> ProbeWorth:
    """What `probe` (keyed `signature/input`), which gave `outputs` (keyed `signature/output`), would not show.

    `perturb` opens the model with one variable changed; without it a graph in a session is fed other values, and any
    other form's variables are not tried. At most 64 variables are, the largest first, for at most `seconds`. `values` are
    the facts of the variables where they are known.
    """
    constant, one_class, notes = _still(signatures, probe, outputs)
    sizes = _variables(predictor, signatures, predictor.values() if values is None else values)
    tried: list[str] = []
    unnoticed: list[str] = []
    not_tried: dict[str, str] = {}
    if perturb is None and isinstance(predictor, SessionPredictor):
        perturb = by_feeding(predictor, signatures)
    reason = "" if perturb else "in this form no variable can be changed"
    reference = _answers(predictor, signatures, probe)
    if perturb and sizes and _different(reference, _answers(predictor, signatures, probe)):
        reason = "the outputs differ from run to run"
    deadline = time.monotonic() + seconds
    for position, name in enumerate(sorted(sizes, key=lambda name: (-sizes[name], name))):
        why = reason or (f"only {MOST_VARIABLES} are" if position >= MOST_VARIABLES else "")
        if not why and time.monotonic() > deadline:
            why = f"{seconds:g} s were over"
        if not why and perturb:
            try:
                with perturb(name) as changed:
                    noticed = _noticed(changed, signatures, probe, reference)
                tried.append(name)
                unnoticed += [] if noticed else [name]
            except CannotPerturb as error:
                why = str(error)
        if why:
            not_tried[name] = why
    for why in dict.fromkeys(not_tried.values()):
        names = [name for name, reason in not_tried.items() if reason == why]
        notes.append(f"{len(names)} of {len(sizes)} variables not tried: {why}")
    return ProbeWorth(
        constant=tuple(constant),
        one_class=tuple(one_class),
        unnoticed=tuple(unnoticed),
        tried=len(tried),
        variables=len(sizes),
        not_tried=tuple(not_tried),
        notes=tuple(notes),
    )


def _still(signatures: Sequence[Signature], probe: Tensors, outputs: Tensors) -> tuple[list[str], list[str], list[str]]:
    constant, one_class, notes = [], [], []
    for signature in signatures:
        rows = {len(array) for array in select(probe, signature.key).values() if array.ndim}
        for name, array in select(outputs, signature.key).items():
            full = str(OutputRef(signature.key, name))
            if array.ndim == 0 or len(array) not in rows:
                continue  # it has no rows that could differ
            if len(array) < 2:
                notes.append(f"{full}: with one row nothing can be said of its change")
            elif _names_classes(array) and len(set(array.ravel().tolist())) == 1:
                one_class.append(full)
            elif all(as_bytes(row) == as_bytes(array[:1]) for row in np.split(array, len(array))):
                constant.append(full)
            elif _scores_classes(name, array) and len(set(np.argmax(array, axis=1).tolist())) == 1:
                one_class.append(full)
    return constant, one_class, notes


def _names_classes(array: Array) -> bool:
    return array.dtype.kind in "iuSUO" and (array.ndim == 1 or array.shape[1:] == (1,))


def _scores_classes(name: str, array: Array) -> bool:
    if array.dtype.kind != "f" or array.ndim != 2 or array.shape[1] < 2:
        return False
    return name.lower() in SCORES or bool(np.allclose(array.sum(axis=1), 1.0, atol=1e-3) and (array >= 0).all())


def _variables(predictor: Predictor, signatures: Sequence[Signature], values: Iterable[TensorFact]) -> dict[str, int]:
    """Map the variables that the outputs need to their numbers of elements."""
    sizes = {fact.name: fact.size for fact in values if fact.dtype != "uninitialised"}
    if isinstance(predictor, SessionPredictor):
        graph_def = predictor.session.graph.as_graph_def()
        needed = graphs.Graph(graph_def).variables(targets(signatures))
        if not needed:
            return _baked(graph_def, signatures)
        sizes = {name: size for name, size in sizes.items() if name in needed}
    return sizes


def _baked(graph_def: GraphDef, signatures: Sequence[Signature]) -> dict[str, int]:
    """In a graph without variables: the constants that may have been some, floats of more than one element."""
    reached = graphs.Graph(graph_def).reach(targets(signatures))
    sizes: dict[str, int] = {}
    for node in graph_def.node:
        if node.name in reached and node.op == "Const" and graphs.attribute(node, "dtype").type in _FLOATS:
            size = math.prod(dim.size for dim in graphs.attribute(node, "value").tensor.tensor_shape.dim)
            sizes |= {node.name: size} if size > 1 else {}
    return sizes


def _answers(predictor: Predictor, signatures: Sequence[Signature], probe: Tensors) -> Tensors:
    return {
        str(OutputRef(signature.key, name)): array
        for signature in signatures
        for name, array in predictor.predict(signature.key, select(probe, signature.key)).items()
    }


def _noticed(changed: Predictor, signatures: Sequence[Signature], probe: Tensors, reference: Tensors) -> bool:
    """Return True if the changed model answers differently, or fails."""
    import tensorflow as tf

    try:
        answers = _answers(changed, signatures, probe)
        different = _different(reference, answers)
        if different and isinstance(changed, Fed):
            # What is fed is not folded into other constants, which alone can move a bit: the old value is fed, too.
            different = _different(_answers(changed.unchanged(), signatures, probe), answers)
        return different
    except (tf.errors.ResourceExhaustedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError) as error:
        found = str(error).split("\n")[0][:200]
        remedy = "free memory, or give a smaller probe; then run again."
        raise EnvironmentFailure("the sensitivity of the probe", "memory for a run", found, remedy) from None
    except tf.errors.OpError:
        return True


def _different(one: Tensors, other: Tensors) -> bool:
    return one.keys() != other.keys() or any(
        (dtype_name(array), array.shape, as_bytes(array))
        != (dtype_name(other[name]), other[name].shape, as_bytes(other[name]))
        for name, array in one.items()
    )


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
        if _bytes(graph.get_tensor_by_name(found[0])) > LARGE:
            raise CannotPerturb(f"more than {LARGE >> 20} MiB, which a run would hold several times")
        value = as_array(predictor.session.run(predictor.named.get(name, f"{name}:0")))
        yield Fed(predictor, found, another(value), value)

    return changed


def _bytes(tensor: Any) -> int:
    """Return the size of a tensor of numbers, 0 where it is not known."""
    shape = tensor.shape.as_list() if tensor.shape.rank is not None else [None]
    return 0 if None in shape else math.prod(shape) * int(tensor.dtype.base_dtype.size or 0)


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
    flat = value.reshape(-1)
    moved = np.empty_like(flat)
    unchanged = True
    for at in range(0, flat.size, _AT_ONCE):  # in pieces, for they are wider than the value
        piece = flat[at : at + _AT_ONCE]
        wide = piece.astype(np.complex128 if value.dtype.kind == "c" else np.float64)
        step = 0.5 + np.arange(at, at + piece.size) / max(flat.size - 1, 1)
        finite = np.abs(wide[np.isfinite(wide)])
        scale = float(finite.mean()) if finite.size and finite.mean() > 0 else 1.0
        other = (wide + step * (0.1 * wide + 0.05 * scale * np.where(wide.real < 0, -1, 1))).astype(value.dtype)
        moved[at : at + _AT_ONCE] = other
        unchanged = unchanged and as_bytes(other) == as_bytes(piece)
    if unchanged:
        raise CannotPerturb("its values are not finite, or there are none")
    return moved.reshape(value.shape)


def targets(signatures: Sequence[Signature]) -> list[str]:
    """Return the tensors of all their outputs."""
    return [spec.tensor for signature in signatures for spec in signature.outputs.values()]
