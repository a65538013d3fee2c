"""Guessing what a graph takes and gives: its inputs, what to pin while it serves, and its outputs, each ranked.

Plain sinks of a training graph are its loss and its accuracy. The prediction is the last tensor that needs no label
and reads the most variables; so labels and pins are recognised first, by where their placeholders lead.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from tasks.graphs import graph as graphs
from tasks.graphs.graph import full_name
from tasks.graphs.protos import NodeDef
from tasks.graphs.tensor_specs import FEEDERS, PLACEHOLDERS
from tasks.records.adoption import Candidate
from tasks.signatures.placeholder_roles import INPUT_NAME, PlaceholderRoles

# Ops whose result is about a tensor, not of it, or that only pass a variable or a constant on.
_NO_OUTPUT = re.compile(
    r"Const|Shape|ShapeN|Rank|Size|Placeholder\w*|Variable\w*|VarHandleOp|ReadVariableOp|Pack|Range|Fill|ZerosLike|OnesLike"
    r"|NextIteration|LoopCond|Switch|Random\w+|TensorArray\w*|TensorList\w*|Iterator\w*|\w*Dataset\w*|\w*Queue\w*"
    r"|StopGradient|Slice|ExpandDims|\w*Table\w*|Where|Unique\w*|\w*Sparse\w*"
)
_GOOD_OP = {
    **{"Softmax": 5.0, "Sigmoid": 4.5, "LogSoftmax": 2.5, "ArgMax": 2.0, "BiasAdd": 3.0, "MatMul": 1.0, "TopKV2": 1.5},
    **{"Relu": 1.0, "Relu6": 1.0, "Tanh": 1.0, "StatefulPartitionedCall": 1.0, "PartitionedCall": 1.0},
    **{
        "Exit": -1.5,
        "Reshape": -1.5,
        "Cast": -1.0,
        "Log": -2.0,
        "Neg": -2.0,
        "Sub": -2.0,
        "Square": -3.0,
        "SquaredDifference": -4.0,
    },
    **{
        "Abs": -3.0,
        "Mean": -3.0,
        "Sum": -3.0,
        "Minimum": -1.0,
        "Maximum": -1.0,
        "Equal": -2.0,
        "Pow": -3.0,
        "L2Loss": -5.0,
    },
    **{
        "SoftmaxCrossEntropyWithLogits": -6.0,
        "SparseSoftmaxCrossEntropyWithLogits": -6.0,
        "StridedSlice": -2.0,
        "Tile": -3.0,
    },
}
_GOOD_NAME = re.compile(
    r"(?i)(.*_)?(softmax|logits?|predictions?|preds?|probabilit(y|ies)|probs?|outputs?|results?|scores?|class_ids|y_hat"
    r"|y_pred|logistic)(_\d+)?"
)
_LOSS_NAME = re.compile(
    r"(?i)(.*[_/])?(loss(es)?|cost|x?entropy|accuracy|acc|mse|mae|rmse|error|metrics?|objective)([_/].*)?"
)
_LISTED = 10
_LOOKED_AT = 40


class Candidates(PlaceholderRoles):
    """The inputs, pins and outputs that a graph may have, ranked."""

    def inputs(self) -> tuple[Candidate, ...]:
        """Inputs, the likeliest first; labels last."""
        reach, weights = self.reach
        ranked: list[tuple[tuple[float, int], Candidate]] = []
        used = 0
        for other, bits in reach.items():
            used |= weights[other] if bits else 0
        total = used.bit_count()
        for position, source in enumerate(self.sources):
            name = graphs.node_name(source)
            op = self.nodes[name].op
            learned = 0
            for other, bits in reach.items():
                if bits >> position & 1:
                    learned |= weights[other]
            is_data = source in self.data or (not self.parameters and len(self.sources) == 1)
            reached = f"{learned.bit_count()} of {total} variables lie on its way"
            if op in FEEDERS:
                why = f"comes from {op}: cut the graph here; {reached}"
            elif op in PLACEHOLDERS:
                why = f"a placeholder; {reached}"
            else:
                why = "a variable named as an input: cut the graph here"
            if not is_data and name in self.only_machinery:
                why = "feeds only the training step"
            elif not is_data and self.parameters:
                why = f"a label: only a loss or a metric reads it{', after ' + op if op in FEEDERS else ''}"
            named = bool(INPUT_NAME.fullmatch(name))
            score = (10.0 if is_data else 0.0) + learned.bit_count() / (total or 1) + (0.5 if named else 0.0)
            ranked.append(((-score, position), self.candidate(source, why)))
        return tuple(candidate for _, candidate in sorted(ranked, key=lambda pair: pair[0]))

    def outputs(self) -> tuple[Candidate, ...]:
        """Outputs, the likeliest first: what needs no label, by variables read, by name and by op."""
        reach, weights = self.reach
        wanted = sum(1 << position for position, source in enumerate(self.sources) if source in self.data)
        labels = (1 << len(self.sources)) - 1 - (wanted or (1 << len(self.sources)) - 1)
        possible = [
            name
            for name, node in self.forward.items()
            if not reach[name] & labels
            and (reach[name] or not self.sources)
            and not _NO_OUTPUT.fullmatch(node.op)
            and name not in self.only_initial
            and name not in self.specs.graph.in_loops
            and not self._reads_a_variable(node)
            and self._has_value(name)
        ]
        if not possible:
            values = map(self.specs.value_of, sorted(self.parameters))
            possible = [graphs.node_name(source) for source in self.sources or filter(None, values)]
        most = max((weights[name].bit_count() for name in possible), default=0)
        possible = [name for name in possible if weights[name] or not most]
        scores = {name: self._score(name, weights[name].bit_count() / (most or 1), labels) for name in possible}
        looked_at = sorted(possible, key=lambda name: -scores[name][0])[:_LOOKED_AT]
        self.specs.infer([f"{name}:0" for name in looked_at])
        for name in looked_at:
            if self.shape(name) == ():
                score, why = scores[name]
                scores[name] = score - 15.0, f"{why}; one number a batch"
        ranked = sorted(looked_at, key=lambda name: -scores[name][0])[:_LISTED]
        return tuple(
            self.candidate(name, f"reads {counted(weights[name].bit_count())}{scores[name][1]}") for name in ranked
        )

    def _score(self, name: str, share: float, labels: int) -> tuple[float, str]:
        reach, _ = self.reach
        node = self.nodes[name]
        last = name.rpartition("/")[2]
        score, why = 20.0 * share + _GOOD_OP.get(node.op, 0.0), f"; {node.op}"
        if _GOOD_NAME.fullmatch(last):
            score, why = score + 4.0, f"{why}; named as an output"
        elif any(_GOOD_NAME.fullmatch(scope) for scope in name.split("/")[:-1]):
            score += 1.0
        if _LOSS_NAME.fullmatch(name):
            score -= 6.0
        if node.op in ("Add", "AddV2") and self._adds_a_bias(node):
            score += 3.0
        ends = [
            reader
            for reader in self.readers.get(name, ())
            if not reach[reader] & labels and not _NO_OUTPUT.fullmatch(self.nodes[reader].op)
        ]
        if not ends:
            score, why = score + 1.0, f"{why}; the last that needs no label" if labels else f"{why}; nothing reads it"
        return score, why

    def _adds_a_bias(self, node: NodeDef) -> bool:
        reach, weights = self.reach
        sides = [graphs.node_name(source) for source in node.input]
        return any(weights.get(side, 0) and not reach.get(side, 0) for side in sides)

    def _reads_a_variable(self, node: NodeDef) -> bool:
        return node.op == "Identity" and graphs.node_name(node.input[0]) in self.parameters

    def _has_value(self, name: str) -> bool:
        types = self.specs.types(name)
        return bool(types) and types[0] not in (20, 21)


def counted(variables: int) -> str:
    """Return a number of variables in words."""
    return f"{variables} variable{'' if variables == 1 else 's'}"


def collected(collections: Mapping[str, Any], known: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the collections whose names indicate inputs or outputs, with the tensors of this graph that they name."""
    nodes = set(known)
    found = {}
    for key in sorted(collections):
        held = [full_name(name) for name in collections[key].node_list.value if graphs.node_name(name) in nodes]
        if held and side(key):
            found[key] = tuple(held)
    return found


def side(collection: str) -> str:
    """`inputs` or `outputs` for a collection that says so by its name, else ""."""
    key = collection.rpartition("/")[2]
    if INPUT_NAME.fullmatch(key) or re.fullmatch(r"(?i)(feeds?|placeholders?)", key):
        return "inputs"
    return "outputs" if _GOOD_NAME.fullmatch(key) or re.fullmatch(r"(?i)fetch(es)?", key) else ""
