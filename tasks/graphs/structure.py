"""Structure: whether two graphs compute the same, node for node, on whatever inputs. The fourth test; it runs nothing.

Outputs on a probe cannot show a limit that it never reaches or a branch that it never takes. Two graphs are compared from a
signature's outputs back to its inputs, in a canonical form that leaves out what decides nothing: names, devices and
colocation; identities and reads of variables, which become their values; calls of functions, whose bodies count where they
are called; attributes with their default value; control edges. Tables count by their names, and by what fills them. `ResourceGather` is the `GatherV2` of a variable's value.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tasks.graphs import graph as graphs
from tasks.graphs import op_policy, op_registry
from tasks.graphs.dataflow import Dataflow, Scope
from tasks.graphs.graph import CALLS, Graph, node_name
from tasks.graphs.lookup_tables import FILLING, TABLES
from tasks.graphs.op_policy import Effect
from tasks.graphs.protos import GraphDef, NodeDef
from tasks.records.signature import Signature
from tasks.tensors import tensor_file

_SAME = frozenset({"Identity", "ReadVariableOp", "Snapshot", "StopGradient", "PreventGradient", "RefIdentity"})
_VALUES = frozenset({"Const", "HostConst"}) | graphs.VARIABLE_OPS
_ALIKE = {
    "RefEnter": "Enter",
    "RefExit": "Exit",
    "RefMerge": "Merge",
    "RefSwitch": "Switch",
    "ResourceGather": "GatherV2",
}
_ALIKE |= {"RefNextIteration": "NextIteration", "StatelessIf": "If", "StatelessWhile": "While", "StatelessCase": "Case"}
# Attributes that name something, or say again what the inputs are.
_NAMES = frozenset(
    {"shared_name", "container", "frame_name", "config", "config_proto", "executor_type", "output_shapes"}
)
_OF_CALLS = frozenset({"Tin", "Tout", "T", "Targuments", "Tcond", "output_types"})
_OF_GATHER = frozenset({"Tparams", "Taxis", "dtype", "validate_indices"})
_INLINED = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
_MOST = 1_000_000
_SHORT = 4


class Leaf(NamedTuple):
    """What is not looked into: an input, a value, or an argument that only a loop knows. Equal leaves are equal."""

    what: Hashable
    words: str
    node: NodeDef | None = None


class Found(NamedTuple):
    """A node, or a leaf, and which of its outputs is meant."""

    scope: Scope | None
    node: NodeDef | None
    output: int
    leaf: Leaf | None = None


class Difference(NamedTuple):
    """The first pair that differs, in order from the outputs."""

    source: str
    found: str


@dataclass
class Side:
    """A graph to compare. `value` identifies what a constant or variable holds, by its node and the function it is in."""

    graph_def: GraphDef
    value: Callable[[NodeDef, str], Hashable]
    graph: Graph = field(init=False)
    top: Scope = field(init=False)
    _scopes: dict[tuple[int, str, str], Scope] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.graph = Graph(self.graph_def)
        self.top = Scope(self.graph.body)

    def resolve(self, scope: Scope, tensor: str, fed: Mapping[str, str]) -> Found:
        """Return the node that computes a tensor, behind identities, calls and arguments; or a leaf."""
        for _ in range(_MOST):
            name = node_name(tensor)
            node = scope.body.nodes.get(name)
            if node is None:
                argument = scope.body.arguments.index(name)
                given = _data(scope.call)[argument + scope.offset] if scope.caller is not None else ""
                if scope.caller is None or _repeats(scope.call):
                    return Found(None, None, 0, Leaf(("argument", argument), f"argument {argument}"))
                scope, tensor = scope.caller, given
                continue
            output = _output(self.graph, node, tensor)
            if scope is self.top and name in fed:
                return Found(None, None, 0, Leaf(("input", fed[name], output), f"input {fed[name]}"))
            if node.op in _VALUES:
                held = self.value(node, scope.body.function)
                return Found(None, None, 0, Leaf(("value", held), f"{name} ({node.op})", node))
            if op_policy.table().get(node.op) is Effect.STATE and not _data(node):
                shared = graphs.attribute(node, "shared_name").s.decode(errors="replace") or name
                return Found(None, None, 0, Leaf(("resource", node.op, shared), f"{name} ({node.op})", node))
            if node.op in _SAME or node.op == "PlaceholderWithDefault":
                tensor = node.input[0]
            elif node.op == "IdentityN":
                tensor = _data(node)[output]
            elif node.op in _INLINED or node.op in self.graph.functions:
                ((function, _),) = self.graph.calls(node)
                scope = self.enter(scope, node, function)
                tensor = self.returned(scope)[output]
            else:
                return Found(scope, node, output)
        raise RecursionError("a function that calls itself")

    def enter(self, scope: Scope, node: NodeDef, function: str) -> Scope:
        """Return the body of a function as a node calls it."""
        key = (id(scope), node.name, function)
        if key not in self._scopes:
            offset = next((first for name, first in self.graph.calls(node) if name == function), 0)
            followed = any(name == function for name, _ in self.graph.calls(node))
            caller = scope if followed else None
            self._scopes[key] = Scope(self.graph.functions[function], caller, node, offset, scope.depth + 1)
        if scope.depth > _DEEPEST or len(self._scopes) > _SCOPES:  # calls can multiply
            raise RecursionError("calls without end")
        return self._scopes[key]

    def fillers(self, table: NodeDef) -> list[Found]:
        """Return the nodes that fill a table, wherever they are called."""
        flow = Dataflow(self.graph)
        found = []
        for scope, node in flow.everywhere():
            origin = flow.origin(scope, node.input[0]) if node.op in FILLING and node.input else None
            if origin is not None and origin[1] is table:
                found.append(Found(scope, node, 0))
        return sorted(found, key=lambda one: one.node.name if one.node else "")

    def returned(self, scope: Scope) -> list[str]:
        """Return the tensors that a function returns, in order."""
        definition = scope.body.definition
        assert definition is not None
        return [definition.ret[output.name] for output in definition.signature.output_arg]


_DEEPEST, _SCOPES = 200, 20_000


def compare(source: Side, found: Side, wanted: Signature, declared: Signature) -> tuple[int, Difference | None]:
    """Return how many nodes were compared, and the first difference of one signature's outputs.

    `wanted` is the signature by the source's tensors, `declared` by the other's; inputs and outputs pair by alias.
    """
    ours = {node_name(spec.tensor): alias for alias, spec in wanted.inputs.items()}
    theirs = {node_name(spec.tensor): alias for alias, spec in declared.inputs.items()}
    waiting: deque[tuple[Scope, str, Scope, str]] = deque(
        (source.top, spec.tensor, found.top, declared.outputs[alias].tensor) for alias, spec in wanted.outputs.items()
    )
    seen: set[tuple[int, str, int, int, str, int]] = set()
    nodes: set[tuple[int, str]] = set()
    tables: dict[Hashable, tuple[NodeDef, NodeDef]] = {}
    filled: set[Hashable] = set()
    while waiting or tables.keys() - filled:
        if not waiting:
            what = next(iter(tables.keys() - filled))
            filled.add(what)
            mine, its = source.fillers(tables[what][0]), found.fillers(tables[what][1])
            if len(mine) != len(its):
                table = tables[what][0].name
                return len(nodes), Difference(*(f"{table}, filled by {len(one)} operations" for one in (mine, its)))
            for one, other in zip(mine, its, strict=True):
                if difference := _differ(source, one, found, other):
                    return len(nodes), difference
                assert one.scope and one.node and other.scope and other.node
                pairs = zip(_data(one.node)[1:], _data(other.node)[1:], strict=True)
                waiting += [(one.scope, our, other.scope, their) for our, their in pairs]
            continue
        scope, tensor, other_scope, other_tensor = waiting.popleft()
        one, other = source.resolve(scope, tensor, ours), found.resolve(other_scope, other_tensor, theirs)
        if one.leaf is not None or other.leaf is not None:
            if one.leaf is None or other.leaf is None or one.leaf.what != other.leaf.what:
                return len(nodes), Difference(_words(one), _words(other))
            if one.leaf.node is not None and one.leaf.node.op in TABLES and other.leaf.node is not None:
                tables.setdefault(one.leaf.what, (one.leaf.node, other.leaf.node))
            continue
        assert one.scope and one.node and other.scope and other.node
        pair = (id(one.scope), one.node.name, one.output, id(other.scope), other.node.name, other.output)
        if pair in seen:
            continue
        seen.add(pair)
        nodes.add((id(one.scope), one.node.name))
        if difference := _differ(source, one, found, other):
            return len(nodes), difference
        for our, their in zip(_inputs(one), _inputs(other), strict=True):
            waiting.append((one.scope, our, other.scope, their))
        called = zip(_functions(source.graph, one.node), _functions(found.graph, other.node), strict=True)
        for function, counterpart in called:
            inner, outer = (
                source.enter(one.scope, one.node, function),
                found.enter(other.scope, other.node, counterpart),
            )
            for our, their in zip(source.returned(inner), found.returned(outer), strict=True):
                waiting.append((inner, our, outer, their))
    return len(nodes), None


def _differ(source: Side, one: Found, found: Side, other: Found) -> Difference | None:
    """Compare two nodes by themselves: op, attributes, number of inputs and of functions."""
    ours, theirs = one.node, other.node
    assert ours is not None and theirs is not None
    if _op(ours) != _op(theirs) or one.output != other.output:
        return Difference(_words(one), _words(other))
    mine, its = _attributes(ours), _attributes(theirs)
    for name in sorted(mine.keys() | its.keys()):
        if mine.get(name) != its.get(name):
            shown, other_shown = (_shown(node, name) for node in (ours, theirs))
            return Difference(f"{_words(one)} with {name}={shown}", f"{_words(other)} with {name}={other_shown}")
    counts = [
        (
            len(_inputs(at)),
            [len(side.returned(side.enter(at.scope, at.node, name))) for name in _functions(side.graph, at.node)],
        )
        for side, at in ((source, one), (found, other))
        if at.scope and at.node
    ]
    if counts[0] != counts[1]:
        return Difference(f"{_words(one)} of {counts[0][0]} inputs", f"{_words(other)} of {counts[1][0]}")
    return None


def _op(node: NodeDef) -> str:
    return _ALIKE.get(node.op, str(node.op))


def _inputs(found: Found) -> list[str]:
    """Return the tensors that are compared in pairs: not arguments that are followed into functions, nor an axis of 0."""
    scope, node = found.scope, found.node
    assert scope is not None and node is not None
    inputs = _data(node)
    if node.op == "GatherV2" and len(inputs) == 3:
        axis = scope.body.nodes.get(node_name(inputs[2]))
        return inputs[:2] if axis is not None and _is_zero(axis) else inputs
    if node.op in CALLS and not _repeats(node):
        return inputs[: CALLS[node.op].first]
    return inputs


def _is_zero(node: NodeDef) -> bool:
    import tensorflow as tf

    held = tf.make_ndarray(graphs.attribute(node, "value").tensor) if node.op == "Const" else None
    return held is not None and held.ndim == 0 and held == 0


def _functions(graph: Graph, node: NodeDef) -> list[str]:
    """Return the functions that a node calls, in the order of the attributes that name them."""
    found: list[str] = []
    for name in sorted(node.attr):
        value = node.attr[name]
        found += [one for one in (value.func.name, *(one.name for one in value.list.func)) if one in graph.functions]
    return found


def _attributes(node: NodeDef) -> dict[str, bytes]:
    """Return a node's attributes with a value that is not the default, but not those that decide nothing."""
    definition = op_registry.definition(node.op)
    defaults = {} if definition is None else {one.name: one.default_value for one in definition.attr}
    left_out = _NAMES | (_OF_CALLS if node.op in CALLS else frozenset())
    left_out |= _OF_GATHER if _op(node) == "GatherV2" else frozenset()
    found: dict[str, bytes] = {}
    for name in node.attr:
        value = node.attr[name]
        if (
            name in left_out
            or (name.startswith("_") and name != "_XlaMustCompile")
            or value.func.name
            or value.list.func
        ):
            continue
        encoded = value.SerializeToString(deterministic=True)
        if name not in defaults or encoded != defaults[name].SerializeToString(deterministic=True):
            found[name] = encoded
    return found


def _shown(node: NodeDef, name: str) -> str:
    """Return an attribute's value for a message."""
    definition = op_registry.definition(node.op)
    defaults = {} if definition is None else {one.name: one.default_value for one in definition.attr}
    value: Any = node.attr[name] if name in node.attr else defaults.get(name)
    text = " ".join(str(value).split()) if value is not None else "none"
    return text.partition(": ")[2].strip('"')[:60] or text[:60]


def _words(found: Found) -> str:
    if found.leaf is not None:
        node = found.leaf.node
        return f"{found.leaf.words} {_written(node)}" if node is not None and node.op == "Const" else found.leaf.words
    assert found.node is not None and found.scope is not None
    inside = f"{found.scope.body.function}/" if found.scope.body.function else ""
    output = f", its output {found.output}" if found.output else ""
    return f"{inside}{found.node.name} ({found.node.op}){output}"


def _written(node: NodeDef) -> str:
    """Return a constant's value where it is short, else what tells it from others."""
    value = graphs.constant(node)
    if value.size > _SHORT:
        return f"of sha256 {hashlib.sha256(tensor_file.as_bytes(value)).hexdigest()[:12]}"
    return (
        ", ".join(f"{one:.9g}" if value.dtype.kind == "f" else str(one) for one in value.ravel().tolist())
        or "of no elements"
    )


def _repeats(node: NodeDef) -> bool:
    return node.op in CALLS and CALLS[node.op].repeats


def _data(node: NodeDef) -> list[str]:
    return [tensor for tensor in node.input if not tensor.startswith("^")]


def _output(graph: Graph, node: NodeDef, tensor: str) -> int:
    """Return the index of a tensor among its node's outputs: `node:1`, or `node:output:0` in a function."""
    _, _, which = tensor.partition(":")
    if not which or which.isdecimal():
        return int(which or 0)
    name, _, index = which.partition(":")
    before = 0
    for size, output in _outputs(graph, node):
        if output == name:
            return before + int(index or 0)
        before += size
    return before


def _outputs(graph: Graph, node: NodeDef) -> Iterator[tuple[int, str]]:
    """Yield the size and name of each output of a node, as its op declares them."""
    definition = op_registry.definition(node.op)
    if definition is None and node.op in graph.functions:
        called = graph.functions[node.op].definition
        definition = called.signature if called is not None else None
    for output in definition.output_arg if definition is not None else ():
        if output.number_attr:
            yield int(graphs.attribute(node, output.number_attr).i), str(output.name)
        elif output.type_list_attr:
            yield len(graphs.attribute(node, output.type_list_attr).list.type), str(output.name)
        else:
            yield 1, str(output.name)
