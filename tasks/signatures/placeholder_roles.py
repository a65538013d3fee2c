"""Roles of placeholders: inputs, labels and pins, from the parameters and nodes that depend on them. Works on the proto.

A placeholder is an input if a learned parameter is applied to it, and a label if only a loss compares it with the result
of other inputs. Those of dropout and of training switches are pins.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property
from typing import Any

from tasks.graphs import graph as graphs
from tasks.graphs import training_ops
from tasks.graphs.graph import full_name
from tasks.graphs.protos import NodeDef
from tasks.graphs.tensor_specs import FEEDERS, PLACEHOLDERS, Specs
from tasks.records.adoption import Candidate
from tasks.tensors.tensor_type import Shape

_MACHINERY = re.compile(
    r"(.*/)?(gradients?(_\d+)?|save(_\d+)?|saver|report_uninitialized_\w+|Initializer|IsInitialized|assert_\w+"
    r"|zero_fraction(_\d+)?|summar(y|ies)|AssignMovingAvg(_\d+)?|(GradientDescent|Adam|RMSProp|Momentum|Adagrad|Adadelta|Ftrl)(_\d+)?)(/.*)?"
)
_MACHINE_OPS = re.compile(
    r"\w*Apply[A-Z]\w*|Assign\w*|Scatter(Update|Add|Sub)|Save\w*|Restore\w*|\w*Summary\w*|NoOp|Assert|\w*IsInitialized\w*"
    r"|Merge(V2)?Checkpoints|Print\w*"
)
_KEEP_NAME = re.compile(r"(?i)(.*[_/])?(keep_?(prob\w*)?|dropout_keep\w*|prob_keep)(_\d+)?")
_DROP_NAME = re.compile(r"(?i)(.*[_/])?(drop_?(out)?(_?(rate|prob))?)(_\d+)?")
INPUT_NAME = re.compile(r"(?i)(.*[_/])?(inputs?|images?|features?|x|data)(_tensor|_data)?(_\d+)?")
_SERVING_NAME = re.compile(r"(?i).*(infer|eval|test|predict|serv)\w*")
_SHAPE_OPS = frozenset({"Shape", "ShapeN", "Rank", "Size"})  # a shape tells nothing of what was learned
_ASSIGNING = frozenset({"Assign", "AssignVariableOp"})
_FLOAT = (1, 2, 14, 19)  # DT_FLOAT, DT_DOUBLE, DT_BFLOAT16, DT_HALF (tensorflow/core/framework/types.proto)


class PlaceholderRoles:
    """The forward part of one graph. `machinery` are tensors and operations that train, save or summarise."""

    def __init__(self, specs: Specs, machinery: Iterable[str] = ()) -> None:
        self.specs = specs
        self.nodes = specs.nodes
        known = {graphs.node_name(name) for name in machinery}
        self.forward = {
            name: node
            for name, node in self.nodes.items()
            if not _MACHINERY.fullmatch(name) and not _MACHINE_OPS.fullmatch(node.op) and name not in known
        }
        self.readers = {
            name: [read.node.name for read in reads] for name, reads in graphs.readers(self.forward.values()).items()
        }

    @cached_property
    def pins(self) -> dict[str, Candidate]:
        """Placeholders that want one value while the model serves, by node."""
        found: dict[str, Candidate] = {}
        for dropout in training_ops.dropouts(self.forward):
            node = self.nodes[dropout.source]
            if node.op.startswith("Placeholder") and self._one_float(node):
                word = "keep probability" if dropout.off == 1.0 else "rate"
                found.setdefault(
                    node.name, self.candidate(node.name, f"the {word} of the dropout {dropout.mask}", dropout.off)
                )
        for name in training_ops.training_switches(self.forward):
            if self._scalar(name):
                serving = bool(_SERVING_NAME.fullmatch(name))
                found[name] = self.candidate(name, "chooses between training and inference", serving)
        for name, node in self.forward.items():
            if (
                node.op not in PLACEHOLDERS
                or name in found
                or not self._one_float(node)
                or self.shape(name) not in (None, ())
            ):
                continue
            if _KEEP_NAME.fullmatch(name):
                found[name] = self.candidate(name, "is named as dropout's keep probability", 1.0)
            elif _DROP_NAME.fullmatch(name):
                found[name] = self.candidate(name, "is named as dropout's rate", 0.0)
        return found

    @cached_property
    def sources(self) -> list[str]:
        """Tensors through which batches come in, pins apart: placeholders, what an iterator or queue hands out, or,
        where there is neither, variables that are named as inputs."""
        found = []
        for name, node in self.forward.items():
            if node.op in PLACEHOLDERS and name not in self.pins:
                found.append(f"{name}:0")
            elif node.op in FEEDERS:
                found += sorted(
                    {full_name(source) for source in self._read_from(name)}, key=lambda one: int(one.split(":")[1])
                )
        if not found:
            variables = [name for name, node in self.forward.items() if node.op in graphs.VARIABLE_OPS]
            found = [self.specs.value_of(name) or f"{name}:0" for name in variables if INPUT_NAME.fullmatch(name)]
        return found

    def _read_from(self, name: str) -> Iterable[str]:
        for reader in self.readers.get(name, ()):
            yield from (s for s in self.nodes[reader].input if not s.startswith("^") and graphs.node_name(s) == name)

    @cached_property
    def parameters(self) -> set[str]:
        """Nodes that hold what was learned: variables, or in a frozen graph the constants that are no scalars."""
        variables = {name for name, node in self.forward.items() if node.op in graphs.VARIABLE_OPS}
        variables -= {
            graphs.node_name(self.nodes[graphs.node_name(source)].input[0])
            for source in self.sources
            if self.nodes[graphs.node_name(source)].op in ("Identity", "ReadVariableOp")
        }
        if variables:
            return variables
        return {
            name
            for name, node in self.forward.items()
            if node.op == "Const"
            and graphs.attribute(node, "dtype").type in _FLOAT
            and graphs.attribute(node, "value").tensor.tensor_shape.dim
        }

    @cached_property
    def reach(self) -> tuple[dict[str, int], dict[str, int]]:
        """For each node, as bits, which sources and which parameters it depends on."""
        bit_of = {source: 1 << position for position, source in enumerate(self.sources)}
        weight_of = {name: 1 << position for position, name in enumerate(sorted(self.parameters))}
        reach = dict.fromkeys(self.forward, 0)
        weights = {name: weight_of.get(name, 0) for name in self.forward}
        changed = True
        order = graphs.in_order(self.forward)
        while changed:  # more than once only for loops
            changed = False
            for name in order:
                bits, learned = reach[name], weights[name]
                for source in self.forward[name].input:
                    origin = graphs.node_name(source)
                    if origin not in reach:
                        continue
                    if full_name(source) in bit_of:
                        bits |= bit_of[full_name(source)]
                    else:
                        bits |= reach[origin]
                        learned |= 0 if self.forward[name].op in _SHAPE_OPS else weights[origin]
                if (bits, learned) != (reach[name], weights[name]):
                    reach[name], weights[name], changed = bits, learned, True
        return reach, weights

    @cached_property
    def data(self) -> list[str]:
        """Sources that some learned parameter is applied to, or whose way leads on to one: inputs, not labels."""
        reach, weights = self.reach
        applied: set[str] = set()  # nodes that apply a parameter, which depends on no source, to something
        for name, node in self.forward.items():
            incoming = [
                graphs.node_name(s) for s in node.input if not s.startswith("^") and graphs.node_name(s) in reach
            ]
            if any(weights[origin] and not reach[origin] for origin in incoming) and reach[name]:
                applied.add(name)
        mask = 0
        for name in applied:
            mask |= reach[name]
        return [source for position, source in enumerate(self.sources) if mask >> position & 1]

    @cached_property
    def only_machinery(self) -> set[str]:
        """Placeholders that nothing reads but what trains: a learning rate."""
        return {name for name, node in self.forward.items() if node.op in PLACEHOLDERS and not self.readers.get(name)}

    @cached_property
    def only_initial(self) -> set[str]:
        """Nodes of which nothing but variables' initial or assigned values is computed."""
        reads = graphs.readers(self.nodes.values())
        found: set[str] = set()
        for name in reversed(graphs.in_order(self.nodes)):
            readers = [read.node for read in reads.get(name, ())]
            if readers and all(reader.op in _ASSIGNING or reader.name in found for reader in readers):
                found.add(name)
        return found - {name for name, node in self.nodes.items() if node.op in graphs.VARIABLE_OPS}

    def _one_float(self, node: NodeDef) -> bool:
        return graphs.attribute(node, "dtype").type in _FLOAT and self._scalar(node.name)

    def _scalar(self, name: str) -> bool:
        return self.shape(name) in (None, (), (1,))

    def shape(self, name: str) -> Shape:
        """Return the shape of a node's first output, as far as it is known."""
        return self.specs.spec(f"{name}:0").shape

    def candidate(self, tensor: str, why: str, value: Any = None) -> Candidate:
        """Return a tensor of this graph as a candidate."""
        spec = self.specs.spec(full_name(tensor))
        return Candidate(tensor=spec.tensor, dtype=spec.dtype, shape=spec.shape, why=why, value=value)
