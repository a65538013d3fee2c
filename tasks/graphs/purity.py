"""Purity: whether a signature's outputs depend on its inputs alone. Found in the graph, for answers show it by luck only.

An output depends on more where random numbers, the clock, or state that requests change reach it as data. Branches that a
constant switches off, and dropout whose rate keeps everything, are none. Runs nothing.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import wraps
from typing import Any, NamedTuple, TypeVar

from tasks.errors import ImpureError
from tasks.graphs import graph as graphs
from tasks.graphs import op_policy, training_ops
from tasks.graphs.dataflow import Dataflow, Scope
from tasks.graphs.graph import Graph, in_order, node_name, output_index
from tasks.graphs.op_policy import Effect
from tasks.graphs.protos import GraphDef, NodeDef
from tasks.graphs.validate import and_more
from tasks.records.signature import Impurity, OutputRef, Signature

T = TypeVar("T")
_MERGES = frozenset({"Merge", "RefMerge"})
_SWITCHES = frozenset({"Switch", "RefSwitch"})
_INPLACE = frozenset({"InplaceAdd", "InplaceSub", "InplaceUpdate"})
_KEPT = frozenset({"Const", "HostConst"}) | graphs.VARIABLE_OPS  # what an op in place changes for the next request, too
_ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "Add": operator.add,
    "AddV2": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
}
_WORDS: dict[Impurity, tuple[str, str]] = {
    Impurity.RANDOM: (
        "random numbers",
        "switch off what is random at inference: pin dropout's keep probability (--pin NAME=1.0) or `training` "
        "(--pin NAME=false)",
    ),
    Impurity.CLOCK: ("the clock", "give the time as an input"),
    Impurity.STATE: (
        "state that requests change",
        "build it without state between calls (a recurrent layer with stateful=False), for a server has many clients",
    ),
}


class Impure(NamedTuple):
    """A node that an output depends on besides the inputs: `name (op)`, and what it brings in."""

    kind: Impurity
    node: str
    pin: str = ""


def require_pure(
    graph_def: GraphDef, signatures: Iterable[Signature], declared: Collection[Impurity], where: str
) -> tuple[Impurity, ...]:
    """Refuse outputs that depend on more than their signature's inputs, unless that is declared; return by what they do.

    Raises:
        ImpureError: one does, by a kind that is not `declared`.
    """
    graph, kinds = Graph(graph_def), set[Impurity]()
    for signature in signatures:
        walk = _Walk(graph, {node_name(spec.tensor) for spec in signature.inputs.values()})
        for alias, spec in signature.outputs.items():
            found = _impurities(walk, spec.tensor)
            if undeclared := [one for one in found if one.kind not in declared]:
                raise _impure(undeclared, f"{where}: output {OutputRef(signature.key, alias)}")
            kinds |= {one.kind for one in found}
    return tuple(sorted(kinds))


def _impure(found: list[Impure], where: str) -> ImpureError:
    kind = found[0].kind
    named = list(dict.fromkeys(one.node for one in found if one.kind is kind))
    brings, remedy = _WORDS[kind]
    if pins := [one.pin for one in found if one.pin]:
        remedy = f"switch it off: {' '.join(dict.fromkeys(pins))}"
    return ImpureError(
        where,
        "one that depends on the inputs alone",
        f"{brings}, by {named[0]}{and_more(named, named[0])}",
        f"{remedy}; or declare it: --allow-impure {kind} (settings: given: {{impure: [{kind}]}}).",
    )


def _impurities(walk: _Walk, output: str) -> list[Impure]:
    """Return what an output depends on besides the inputs."""
    data = list(walk.reached(output, control=False))
    found: list[Impure] = []
    for scope, node in data:
        if kind := _kind(walk, scope, node):
            found.append(Impure(kind, _named(scope, node), walk.pin_of(scope) if kind is Impurity.RANDOM else ""))
    read = {_resource(scope, node) for scope, node in data if _resource(scope, node)}
    for scope, node in walk.reached(output, control=True):
        if op_policy.table().get(node.op) is Effect.WRITES and node.op not in _INPLACE and node.input:
            origin = walk.flow.origin(scope, node.input[0])
            if origin is None or _resource(*origin) in read:
                found.append(Impure(Impurity.STATE, _named(scope, node)))
    return list(dict.fromkeys(found))


def _kind(walk: _Walk, scope: Scope, node: NodeDef) -> Impurity | None:
    effect = op_policy.table().get(node.op)
    if effect is Effect.CLOCK:
        return Impurity.CLOCK
    if effect is Effect.RANDOM:
        fixed = node.op.startswith("Fractional") and graphs.attribute(node, "deterministic").b
        padded = node.op.startswith("ExtractGlimpse") and graphs.attribute(node, "noise").s == b"zero"
        return None if fixed or padded else Impurity.RANDOM
    if node.op == "Empty" and not graphs.attribute(node, "init").b:
        return Impurity.RANDOM  # what is in memory
    if node.op in _INPLACE:
        origin = walk.flow.origin(scope, node.input[0])
        return Impurity.STATE if origin is None or origin[1].op in _KEPT else None
    return Impurity.STATE if effect is Effect.WRITES else None


def _named(scope: Scope, node: NodeDef) -> str:
    return f"{scope.body.function}/{node.name} ({node.op})" if scope.body.function else f"{node.name} ({node.op})"


def _resource(scope: Scope, node: NodeDef) -> tuple[str, ...]:
    """Return what identifies the state behind a handle; empty for what is none."""
    if node.op not in graphs.VARIABLE_OPS and not graphs.OTHER_STATE.fullmatch(node.op):
        return ()
    shared = graphs.attribute(node, "shared_name").s.decode(errors="replace")
    return (shared,) if shared else ("", scope.body.function, node.name)


def _once(method: Callable[[_Walk, Scope, str], T | None]) -> Callable[[_Walk, Scope, str], T | None]:
    """Ask each tensor once, and none at the end of a chain that is too long to be a bound or a switch: that is not known."""

    @wraps(method)
    def asked(walk: _Walk, scope: Scope, tensor: str) -> T | None:
        key = (method.__name__, scope, tensor)
        if key not in walk.known:
            walk.known[key] = None
            walk.deep += 1
            if walk.deep <= _LONGEST:
                walk.known[key] = method(walk, scope, tensor)
            walk.deep -= 1
        found: T | None = walk.known[key]
        return found

    return asked


class _Walk:
    """What outputs depend on, through functions and back through their arguments."""

    def __init__(self, graph: Graph, fed: Collection[str]) -> None:
        self.graph, self.flow, self._fed = graph, Dataflow(graph), fed
        self._scopes: dict[tuple[int, str, str, int], Scope] = {}
        self._dead: dict[int, set[str]] = {}
        self.known: dict[tuple[str, Scope, str], Any] = {}
        self.deep = 0
        self._off: dict[int, set[str]] = {}

    def reached(self, output: str, *, control: bool) -> Iterator[tuple[Scope, NodeDef]]:
        """Yield every node that `output` depends on as data; with `control`, also what merely runs for it."""
        waiting = [(self.flow.graph, node_name(output))]
        seen: set[tuple[int, str]] = set()
        while waiting:
            scope, name = waiting.pop()
            if (id(scope), name) in seen:
                continue
            seen.add((id(scope), name))
            node = scope.body.nodes.get(name)
            if node is None:
                waiting += self._given(scope, name)
                continue
            yield scope, node
            if name in self._off_masks(scope) or (scope is self.flow.graph and name in self._fed):
                continue
            waiting += self._sources(scope, node, control)

    def pin_of(self, scope: Scope) -> str:
        """Return the options that switch off the dropout of a body, as far as placeholders of the graph do."""
        nodes = scope.body.nodes
        off = self._off_masks(scope)
        pins = (
            f"--pin {one.source}={one.off}"
            for one in training_ops.dropouts(nodes)
            if one.mask not in off and one.source in nodes and nodes[one.source].op.startswith("Placeholder")
        )
        return " ".join(dict.fromkeys(pins)) if scope is self.flow.graph else ""

    def _given(self, scope: Scope, argument: str) -> list[tuple[Scope, str]]:
        """Return the tensor that the caller gives for an argument; nothing if it is not known, or no argument."""
        if scope.caller is None or argument not in scope.body.arguments:
            return []
        position = scope.body.arguments.index(argument) + scope.offset
        given = _data(scope.call)
        return [(scope.caller, node_name(given[position]))] if position < len(given) else []

    def _sources(self, scope: Scope, node: NodeDef, control: bool) -> Iterator[tuple[Scope, str]]:
        calls = self._taken(scope, node)
        listed = False
        for function, offset in calls:
            inner = self._enter(scope, node, function, offset)
            definition = inner.body.definition
            assert definition is not None
            listed |= inner.caller is None
            listed |= any(one.number_attr or one.type_list_attr for one in definition.signature.input_arg)
            yield from ((inner, node_name(tensor)) for tensor in definition.ret.values())
            if (
                control
            ):  # a function runs its stateful nodes, whatever it returns (core/common_runtime/graph_constructor)
                yield from ((inner, one.name) for one in inner.body.every)
        inputs = _data(node)
        if calls and not listed:
            inputs = inputs[: calls[0][1]]  # the others are the arguments, and count where the functions read them
        dead = self._lifeless(scope) if node.op in _MERGES else set()
        yield from ((scope, node_name(tensor)) for tensor in inputs if not _in(dead, tensor))
        if control:
            yield from ((scope, node_name(tensor)) for tensor in node.input if tensor.startswith("^"))
        if not self.graph.calls(node):
            for function in self.graph.called([node]):
                alone = self._enter(scope, None, function, 0)
                yield from ((alone, one.name) for one in alone.body.every)
        if (carried := self.graph.carried(scope.body, node)) is not None:
            for at in carried.placed(None):
                yield self._alone(at.body), at.node.name

    def _enter(self, scope: Scope, node: NodeDef | None, function: str, offset: int) -> Scope:
        body = self.graph.functions[function]
        depth = scope.depth + 1
        if node is None or depth > _DEEPEST or len(self._scopes) > _MOST:  # calls can multiply
            return self._alone(body)
        key = (id(scope), node.name, function, offset)
        return self._scopes.setdefault(key, Scope(body, scope, node, offset, depth))

    def _alone(self, body: graphs.Body) -> Scope:
        """Return a body whose callers are not known."""
        return self._scopes.setdefault((id(body), "", "", 0), Scope(body))

    def _taken(self, scope: Scope, node: NodeDef) -> list[tuple[str, int]]:
        """Return the functions that a node calls, but not those of branches that a constant switches off."""
        calls = self.graph.calls(node)
        chosen = self._truth(scope, node.input[0]) if node.op in _IFS and len(calls) == 2 and node.input else None
        return calls if chosen is None else calls[:1] if chosen else calls[1:]

    def _lifeless(self, scope: Scope) -> set[str]:
        """Return what never has a value because a constant chose the other side: nodes, and `node:index` of a Switch."""
        if id(scope) in self._dead:
            return self._dead[id(scope)]
        dead = self._dead[id(scope)] = set()
        nodes = scope.body.nodes
        if not any(node.op in _SWITCHES for node in nodes.values()):
            return dead
        for name in in_order(nodes):
            node = nodes[name]
            inputs = _data(node)
            controls = [tensor for tensor in node.input if tensor.startswith("^")]
            gone = [_in(dead, tensor) for tensor in inputs]
            if (all(gone) and inputs if node.op in _MERGES else any(gone)) or any(_in(dead, one) for one in controls):
                dead.add(name)
            elif node.op in _SWITCHES and (chosen := self._truth(scope, inputs[1])) is not None:
                dead.add(f"{name}:{0 if chosen else 1}")
        return dead

    def _off_masks(self, scope: Scope) -> set[str]:
        """Return the masks of dropout that keep everything."""
        if id(scope) not in self._off:
            self._off[id(scope)] = {
                one.mask
                for one in training_ops.dropouts(scope.body.nodes)
                if self._number(scope, one.source) == one.off and self._drawn_from_0_to_1(scope, one.mask)
            }
        return self._off[id(scope)]

    def _drawn_from_0_to_1(self, scope: Scope, mask: str) -> bool:
        """Return True if what a mask compares, or rounds down, is a uniform draw from 0 to 1, which no rate of 0 cuts."""
        node = scope.body.nodes[mask]
        if node.op == "Floor":
            node = scope.body.nodes[node_name(node.input[0])]
        spans = [self._span(scope, tensor) for tensor in _data(node)]
        return (0.0, 1.0) in spans

    @_once
    def _span(self, scope: Scope, tensor: str) -> tuple[float, float] | None:
        """Return the bounds of a uniform draw behind scaling by constants, None for anything else."""
        node = scope.body.nodes.get(node_name(tensor))
        if node is None:
            return None
        if training_ops.UNIFORM.fullmatch(node.op):
            return 0.0, 1.0
        inputs = _data(node)
        if node.op in ("Identity", "Cast", "Reshape"):
            return self._span(scope, inputs[0])
        if node.op not in _ARITHMETIC or len(inputs) != 2:
            return None
        for drawn, constant in ((0, 1), (1, 0)) if node.op != "Sub" else ((0, 1),):
            span, number = self._span(scope, inputs[drawn]), self._number(scope, inputs[constant])
            if span is not None and number is not None:
                ends = [_ARITHMETIC[node.op](end, number) for end in span]
                return min(ends), max(ends)
        return None

    @_once
    def _number(self, scope: Scope, tensor: str) -> float | None:
        """Return the number that a tensor always is, or None."""
        origin = self.flow.origin(scope, tensor)
        if origin is not None and origin[1].op == "PlaceholderWithDefault" and not self._may_be_fed(*origin):
            return self._number(origin[0], origin[1].input[0])
        if origin is not None and origin[1].op in _ARITHMETIC:  # as TensorFlow writes the bounds of a draw
            inner, node = origin
            numbers = [self._number(inner, source) for source in _data(node)]
            known = [number for number in numbers if number is not None]
            return _ARITHMETIC[node.op](*known) if len(known) == len(numbers) == 2 else None
        value = self.flow.constant(scope, tensor)
        return float(value) if value is not None and value.ndim == 0 and value.dtype.kind in "fiub" else None

    def _may_be_fed(self, scope: Scope, node: NodeDef) -> bool:
        return scope is self.flow.graph and node.name in self._fed

    @_once
    def _truth(self, scope: Scope, tensor: str) -> bool | None:
        """Return the truth value that a tensor always has, or None."""
        origin = self.flow.origin(scope, tensor)
        if origin is None:
            return None
        inner, node = origin
        if node.op == "LogicalNot":
            value = self._truth(inner, node.input[0])
            return None if value is None else not value
        if node.op in ("LogicalAnd", "LogicalOr"):
            values = [self._truth(inner, source) for source in _data(node)]
            decisive = node.op == "LogicalOr"
            return decisive if decisive in values else None if None in values else not decisive
        value_of = self._number(scope, tensor)
        return None if value_of is None else bool(value_of)


_IFS = frozenset({"If", "StatelessIf", "_If", "XlaIf"})
_DEEPEST, _MOST, _LONGEST = 64, 10_000, 50


def _data(node: NodeDef) -> list[str]:
    return [tensor for tensor in node.input if not tensor.startswith("^")]


def _in(dead: set[str], tensor: str) -> bool:
    """Return True if a tensor, or the node of a control input, has no value."""
    if not dead:
        return False
    name = node_name(tensor)
    if name in dead:
        return True
    output = tensor.partition(":")[2]
    side = {"output_false:0": 0, "output_true:0": 1}.get(output)
    if side is None:
        side = output_index(tensor) if not tensor.startswith("^") and (not output or output.isdecimal()) else -1
    return f"{name}:{side}" in dead
