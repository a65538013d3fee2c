"""The divergence of two graphs of one model: the first tensor, from the inputs towards the outputs, that differs.

Nodes correspond by name. Stored values (constants, variables, their reads) must be equal byte for byte, computed ones
within the tolerance. Bodies of functions are not compared: the call is named. Runs in a child.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.graphs import graph as graphs
from tasks.graphs.graph import Cone, Graph
from tasks.parity import compare
from tasks.records.base import Record
from tasks.records.parity import Limit, ParityRow, ParityTest
from tasks.tensors.tensor_file import Array, as_array

_CHUNK_TENSORS = 64
_CHUNK_BYTES = 64 * 2**20
_LISTED = 5
_HANDLES = ("resource", "variant", "string_ref")  # the last is how TF1 hands on tables and queues


class Divergence(Record):
    """A tensor that differs while everything before it agrees; in pairs, the baseline comes first.

    `row` compares it: `worst` has both values where they differ most.
    """

    tensor: str
    ops: tuple[str, str]
    inputs: tuple[tuple[str, ...], tuple[str, ...]]
    row: ParityRow
    note: str = ""


class Explanation(Record):
    """Why two forms answer otherwise, in a sentence, and the tensor that it comes from if one was found.

    `others` are further tensors that differ while all before them agree; `unlooked` is how many could not be evaluated.
    """

    sentence: str
    candidate: str = ""
    first: Divergence | None = None
    others: tuple[str, ...] = ()
    compared: int = 0
    unlooked: int = 0


@dataclass(frozen=True)
class Side:
    """One of the two models: a session, feeds (tensor -> value), outputs (name -> tensor), the tensors that read variables."""

    session: Any
    feeds: Mapping[str, Array]
    outputs: Mapping[str, str]
    variables: Mapping[str, str]


def explain(mine: Side, other: Side, bounds: Limit) -> Explanation:
    """Find the first tensor that differs. The outputs of both sides have the same names."""
    cones = [
        Cone(Graph(side.session.graph.as_graph_def()), side.outputs.values(), side.feeds) for side in (mine, other)
    ]
    common = [name for name in cones[0].order if name in cones[1].nodes]
    computed = [name for name in common if not cones[0].fed(name)]
    if not computed:
        return Explanation(
            sentence="it cannot be explained: the two graphs have no node in common, so nothing in the one can be "
            "said to be something in the other"
        )
    rows, unlooked = _compared(mine, other, cones, common, bounds)
    swapped = _swapped(mine, other, bounds)
    differing = {name: row for name, row in rows.items() if row.passed is False}
    slightly = False
    if not differing and not _rewired(mine, other):
        differing = {name: row for name, row in rows.items() if row.max_abs > 0}
        slightly = bool(differing)
    if differing:
        told = _told(cones, differing, len(rows), unlooked, slightly)
        return told.model_copy(update={"sentence": "; ".join([*swapped, told.sentence])})
    counted = f"all {len(rows)} tensors that both graphs have agree"
    if moved := _rewired(mine, other):
        sentence = "; ".join([*swapped, counted, *moved])
    else:
        sentence = f"{counted}: what differs has other names in the two graphs"
    return Explanation(sentence=sentence, compared=len(rows), unlooked=unlooked)


def _told(
    cones: Sequence[Cone], differing: Mapping[str, ParityRow], compared: int, unlooked: int, slightly: bool
) -> Explanation:
    tainted = [cone.after(differing.keys()) for cone in cones]
    origins = [name for name in differing if name not in tainted[0] and name not in tainted[1]]
    first, *others = origins or list(differing)
    nodes = [cone.nodes[first] for cone in cones]
    ops = (nodes[0].op, nodes[1].op)
    note = f"a call of a function: its body is not looked into ({ops[0]})" if cones[0].calls(first) else ""
    if slightly:
        note = "no tensor differs by more than the tolerance: this is the first that differs at all"
    found = Divergence(
        tensor=differing[first].output,
        ops=ops,
        inputs=(tuple(nodes[0].input), tuple(nodes[1].input)),
        row=differing[first],
        note=note,
    )
    named = ops[0] if ops[0] == ops[1] else f"{ops[0]}, here {ops[1]}"
    sentence = f"the first tensor that differs is {found.tensor} ({named})"
    if ops[0] == ops[1] and found.inputs[0] != found.inputs[1] and not cones[0].reads(first):
        sentence += f": it reads {', '.join(found.inputs[1])} instead of {', '.join(found.inputs[0])}"
    names = tuple(differing[name].output for name in others) if origins else ()
    return Explanation(sentence=sentence, first=found, others=names[:_LISTED], compared=compared, unlooked=unlooked)


def _rewired(mine: Side, other: Side) -> list[str]:
    """Describe the outputs that are another tensor in the other graph."""
    return [
        f"the output {name} is {tensor} in the first and {other.outputs[name]} in the other"
        for name, tensor in mine.outputs.items()
        if other.outputs[name] != tensor
    ]


def _swapped(mine: Side, other: Side, bounds: Limit) -> list[str]:
    """Describe the pairs of outputs that differ, and agree under each other's names."""
    names = list(mine.outputs)
    ours, theirs = (
        side.session.run([side.outputs[name] for name in names], dict(side.feeds)) for side in (mine, other)
    )
    agree = {
        (one, two): compare.compare("", "", "", ParityTest.SERVED, as_array(left), as_array(right), bounds).passed
        for one, left in zip(names, ours, strict=True)
        for two, right in zip(names, theirs, strict=True)
    }
    return [
        f"the outputs {one} and {two} are swapped"
        for index, one in enumerate(names)
        for two in names[index + 1 :]
        if not agree[one, one] and not agree[two, two] and agree[one, two] and agree[two, one]
    ]


def _compared(
    mine: Side, other: Side, cones: Sequence[Cone], names: Iterable[str], bounds: Limit
) -> tuple[dict[str, ParityRow], int]:
    """Compare the worst output of each node, in order; also return the number of tensors that could not be evaluated."""
    names = list(names)
    rows: dict[str, ParityRow] = {}
    looked, wanted = 0, sum(1 for name in names if not all(cone.fetchable(name) for cone in cones))
    for chunk in _chunks(mine, other, cones, names):
        wanted += len(chunk)
        for (name, ours, _), (expected, got) in _evaluated(mine, other, chunk):
            looked += 1
            stored = all(cone.stored(name) for cone in cones)
            test = ParityTest.EXACT if stored else ParityTest.SERVED
            label = f"{name}:{ours.rpartition(':')[2]}" if cones[0].nodes[name].op not in graphs.VARIABLE_OPS else name
            row = compare.compare("", "", label, test, expected, got, bounds)
            known = rows.get(name)
            if known is None or (known.passed is not False and row.passed is False):
                rows[name] = row
    return rows, wanted - looked


_Task = tuple[str, str, str]  # the node's name, and the tensor on each side


def _chunks(mine: Side, other: Side, cones: Sequence[Cone], names: Iterable[str]) -> Iterator[list[_Task]]:
    """Tensors to evaluate in one go, so many that they take a bounded amount of memory."""
    chunk: list[_Task] = []
    size = 0
    for name in names:
        ours, theirs = _tensors(mine, cones[0], name), _tensors(other, cones[1], name)
        for left, right in zip(ours, theirs, strict=False):
            if left is None or right is None:
                continue
            chunk.append((name, left, right))
            size += 2 * _bytes(mine.session.graph.get_tensor_by_name(left), mine.feeds)
            if len(chunk) >= _CHUNK_TENSORS or size >= _CHUNK_BYTES:
                yield chunk
                chunk, size = [], 0
    if chunk:
        yield chunk


def _tensors(side: Side, cone: Cone, name: str) -> list[str | None]:
    """Return the tensors of a node, None for a handle, which has no value; for a variable, the tensor that reads it."""
    if not cone.fetchable(name):
        return []
    if name in side.variables:
        return [side.variables[name]]
    held = side.session.graph.get_operation_by_name(name).outputs
    return [tensor.name if tensor.dtype.name not in _HANDLES else None for tensor in held]


def _bytes(tensor: Any, feeds: Mapping[str, Array]) -> int:
    rows = max((len(array) for array in feeds.values() if array.ndim), default=1)
    count = int(tensor.dtype.size or 16)
    for size in tensor.shape.as_list() if tensor.shape.rank is not None else [rows, 1024]:
        count *= rows if size is None else size
    return count


def _evaluated(mine: Side, other: Side, chunk: list[_Task]) -> Iterator[tuple[_Task, tuple[Array, Array]]]:
    """Yield the values of a chunk; tensors that cannot be evaluated (in a branch not taken) are left out."""
    import tensorflow as tf

    if not chunk:
        return
    try:
        ours = mine.session.run([task[1] for task in chunk], dict(mine.feeds))
        theirs = other.session.run([task[2] for task in chunk], dict(other.feeds))
    except (tf.errors.OpError, ValueError, TypeError):
        if len(chunk) > 1:
            half = len(chunk) // 2
            yield from _evaluated(mine, other, chunk[:half])
            yield from _evaluated(mine, other, chunk[half:])
        return
    for task, left, right in zip(chunk, ours, theirs, strict=True):
        yield task, (as_array(left), as_array(right))
