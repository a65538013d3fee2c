"""Nodes that compute otherwise while a model trains: dropout, batch statistics, random draws, `is_training` switches."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from tasks.graphs import graph as graphs
from tasks.graphs.graph import Placed, Read
from tasks.graphs.protos import NodeDef

RANDOM = re.compile(
    r"Random(Uniform|UniformInt|StandardNormal|Gamma|Poisson(V2)?|Shuffle|Crop)|TruncatedNormal|ParameterizedTruncatedNormal"
    r"|Multinomial|Stateful(Random\w+|Uniform\w*|StandardNormal\w*|TruncatedNormal)|\w*CandidateSampler|NonDeterministicInts"
    r"|SampleDistortedBoundingBox(V2)?"
)
UNIFORM = re.compile(r"RandomUniform|Stateful(Random)?Uniform|StatelessRandomUniform(V2)?")
_SCALING = frozenset({"Add", "AddV2", "Sub", "Mul", "RealDiv", "Div", "Identity", "Cast", "Reshape"})
_PASSING = frozenset({"Identity", "Cast", "Reshape", "Enter", "RefEnter", "Squeeze", "ExpandDims", "StopGradient"})
_BATCH_STATISTICS = re.compile(r"(?i)(.*/)?batch_?norm[^/]*(/[^/]+)?/moments(_\d+)?/(mean|variance)")
_CHOOSERS = {"Switch": 1, "RefSwitch": 1, "If": 0, "StatelessIf": 0, "Select": 0, "SelectV2": 0, "Case": 0}


class Dropout(NamedTuple):
    """A mask drawn anew each time; `source` is the node that its rate comes from, `off` the value that switches it off."""

    mask: str
    source: str
    off: float


def found(placed: Iterable[Placed], *, reached: bool) -> tuple[str, ...]:
    """`node (op)` of what behaves otherwise while training.

    A random draw counts only where outputs are known to reach it: initialisers draw, too.
    """
    names: set[str] = set()
    bodies: dict[int, tuple[Mapping[str, NodeDef], dict[str, str]]] = {}
    for name, node, body, *_ in placed:
        _, here = bodies.setdefault(id(body), (body.nodes, {}))
        here[node.name] = name
        statistics = _BATCH_STATISTICS.fullmatch(node.name) and node.op == "Mean"
        if is_training_batch_norm(node) or (reached and RANDOM.fullmatch(node.op)) or statistics:
            names.add(f"{name} ({node.op})")
    for within, here in bodies.values():
        special = {dropout.mask for dropout in dropouts(within)} | set(training_switches(within))
        names |= {f"{here[name]} ({within[name].op})" for name in special if name in here}
    return tuple(sorted(names))


def is_training_batch_norm(node: NodeDef) -> bool:
    """Return True if a fused batch norm uses the statistics of the batch, which is its default."""
    return (
        node.op.startswith("FusedBatchNorm")
        and "Grad" not in node.op
        and ("is_training" not in node.attr or bool(node.attr["is_training"].b))
    )


def dropouts(nodes: Mapping[str, NodeDef]) -> Iterator[Dropout]:
    """Yield every dropout among these nodes, in each of the ways in which TensorFlow has written it.

    `floor(keep_prob + uniform)` until 1.12, `uniform >= rate` since (tensorflow/python/ops/nn_ops.py, dropout_v2), and
    `uniform < keep_prob` by hand.
    """
    readers = graphs.readers(nodes.values())
    seen: set[str] = set()
    waiting = [name for name, node in nodes.items() if UNIFORM.fullmatch(node.op)]
    drawn = set(waiting)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for node, _, _ in readers.get(name, ()):
            if node.op == "Floor":
                yield from _dropout(nodes, node.name, nodes[name], drawn, 1.0)
            elif node.op in ("GreaterEqual", "Greater", "Less", "LessEqual"):
                drawn_first = graphs.node_name(node.input[0]) == name
                keeps_above = node.op.startswith("Greater") == drawn_first
                yield from _dropout(nodes, node.name, node, drawn, 0.0 if keeps_above else 1.0)
            elif node.op in _SCALING:
                drawn.add(node.name)
                waiting.append(node.name)


def _dropout(
    nodes: Mapping[str, NodeDef], mask: str, mixing: NodeDef, drawn: set[str], off: float
) -> Iterator[Dropout]:
    rates = [graphs.node_name(source) for source in mixing.input if graphs.node_name(source) not in drawn]
    for rate in rates:
        source, flipped = _traced(nodes, rate)
        yield Dropout(mask, source, 1.0 - off if flipped else off)


def _traced(nodes: Mapping[str, NodeDef], name: str) -> tuple[str, bool]:
    """Return the node that a rate comes from, and whether it was inverted on the way (`1 - keep_prob`)."""
    flipped, seen = False, set()
    while name in nodes and name not in seen:
        seen.add(name)
        node = nodes[name]
        if node.op in _PASSING | {"Switch", "RefSwitch"} and node.input:
            name = graphs.node_name(node.input[0])
        elif node.op == "Sub" and len(node.input) >= 2 and _constant(nodes, node.input[0]):
            name, flipped = graphs.node_name(node.input[1]), not flipped
        else:
            break
    return name, flipped


def _constant(nodes: Mapping[str, NodeDef], tensor: str) -> bool:
    node = nodes.get(graphs.node_name(tensor))
    return node is not None and node.op == "Const"


def training_switches(nodes: Mapping[str, NodeDef]) -> list[str]:
    """Placeholders of one bool that choose between branches, as `is_training` does."""
    readers = graphs.readers(nodes.values())
    return [
        name for name, node in nodes.items() if node.op.startswith("Placeholder") and _chooses(nodes, readers, name)
    ]


def _chooses(nodes: Mapping[str, NodeDef], readers: Mapping[str, list[Read]], placeholder: str) -> bool:
    if graphs.attribute(nodes[placeholder], "dtype").type != 10:  # DT_BOOL (tensorflow/core/framework/types.proto)
        return False
    waiting, seen = [placeholder], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for node, _, _ in readers.get(name, ()):
            position = _CHOOSERS.get(node.op)
            if position is not None and graphs.node_name(node.input[position]) == name:
                return True
            if node.op in _PASSING or node.op.startswith("Logical"):
                waiting.append(node.name)
    return False
