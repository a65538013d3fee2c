"""The index of a GraphDef: nodes, functions, readers, reach, order and calls. Runs nothing.

Names are as in GraphDef: `node`, `node:1`, `^node` for a control input; in the body of a function `argument` or
`node:output:index` (tensorflow/core/framework/function.proto). A Graph indexes the proto as it is when it is made: make
a new one after changing the proto.
"""

from __future__ import annotations

import graphlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

from tasks.errors import PipelineError
from tasks.graphs.protos import AttrValue, FunctionDef, GraphDef, NodeDef
from tasks.records.baseline import TensorFact
from tasks.tensors import tensor_file
from tasks.tensors.tensor_file import Array

# Every op that holds a variable's state; the first two are TF1's reference variables.
VARIABLE_OPS = frozenset({"Variable", "VariableV2", "VarHandleOp", "TemporaryVariable", "AutoReloadVariable"})
# Ops whose state is not in a variable and is not restored: mutable tables, queues, iterators, tree ensembles.
# (Immutable hash tables are filled by their initialiser each time the model is loaded.)
OTHER_STATE = re.compile(
    r"(Anonymous)?Mutable(Dense)?HashTable\w*|(FIFO|PaddingFIFO|RandomShuffle|Priority)Queue(V2)?|Barrier"
    r"|(Anonymous|OneShot)?Iterator(V[23])?|\w*ConditionalAccumulator|(BoostedTrees|DecisionTree|FertileStats)\w*"
)
# The inputs of these nodes close a loop; without them a graph has no cycles.
BACK_EDGES = frozenset({"NextIteration", "RefNextIteration"})
_FRAMES = frozenset({"Enter", "RefEnter", "Exit", "RefExit"})


class CallSpec(NamedTuple):
    """The way in which an op calls functions: the attributes that name them, and the input that is their first argument.

    A function of an op that `repeats` takes the op's inputs in the first iteration only.
    """

    attributes: tuple[str, ...]
    first: int
    repeats: bool = False


# Ops that pass their inputs to functions in order (tensorflow/core/ops/functional_ops.cc, tensorflow/compiler/tf2xla/ops).
# Any other op that names a function in an attribute calls it too, with arguments that cannot be followed.
CALLS: Mapping[str, CallSpec] = {
    **dict.fromkeys(("PartitionedCall", "StatefulPartitionedCall"), CallSpec(("f",), 0)),
    "RemoteCall": CallSpec(("f",), 1),
    **dict.fromkeys(("If", "StatelessIf", "_If", "XlaIf"), CallSpec(("then_branch", "else_branch"), 1)),
    **dict.fromkeys(("Case", "StatelessCase"), CallSpec(("branches",), 1)),
    **dict.fromkeys(("While", "StatelessWhile", "_While", "XlaWhile"), CallSpec(("cond", "body"), 0, repeats=True)),
}


# Ops that run a whole GraphDef, which they are handed serialized at this input (tensorflow/core/kernels/data/dataset_ops.cc).
CARRIES: Mapping[str, int] = {"DatasetFromGraph": 0}
# Levels of graphs in graphs that are looked into.
_DEEPEST = 8


def node_name(tensor: str) -> str:
    """Return the name of the node that a tensor or control input comes from."""
    return tensor.lstrip("^").split(":")[0]


def full_name(tensor: str) -> str:
    """Return `node:0` for `node`; full names of tensors and control inputs stay as they are."""
    return tensor if ":" in tensor or tensor.startswith("^") else f"{tensor}:0"


def output_index(tensor: str) -> int:
    """Return the index of a tensor among its node's outputs."""
    return int(tensor.partition(":")[2] or 0)


def attribute(node: NodeDef | FunctionDef, name: str) -> AttrValue:
    """Return an attribute's AttrValue, an empty one if it is not set: indexing a protobuf map would add it."""
    return node.attr[name] if name in node.attr else _no_attribute()


@lru_cache(maxsize=1)
def _no_attribute() -> AttrValue:
    from tensorflow.core.framework import attr_value_pb2

    empty: AttrValue = attr_value_pb2.AttrValue()
    return empty


def constant(node: NodeDef) -> Array:
    """Return the value of a Const."""
    import tensorflow as tf

    return tensor_file.as_array(tf.make_ndarray(attribute(node, "value").tensor))


class Read(NamedTuple):
    """A node that reads a tensor: at which of its inputs, and which output of the source (`0`, or `output:0`)."""

    node: NodeDef
    position: int
    output: str


def readers(nodes: Iterable[NodeDef]) -> dict[str, list[Read]]:
    """Map each node or argument to the reads of its outputs, control inputs excluded."""
    found: dict[str, list[Read]] = {}
    for node in nodes:
        for position, source in enumerate(node.input):
            if not source.startswith("^"):
                name, _, output = source.partition(":")
                found.setdefault(name, []).append(Read(node, position, output or "0"))
    return found


def in_order(nodes: Mapping[str, NodeDef], stops: Collection[str] = ()) -> list[str]:
    """Return the names of `nodes` in topological order; inputs of `stops` and inputs outside `nodes` do not count.

    Raises:
        graphlib.CycleError: there is a cycle that no NextIteration closes; `args[1]` lists its nodes.
    """
    sorter: graphlib.TopologicalSorter[str] = graphlib.TopologicalSorter()
    for name, node in nodes.items():
        sources = [] if name in stops else [node_name(source) for source in node.input]
        sorter.add(name, *(one for one in sources if one in nodes and nodes[one].op not in BACK_EDGES))
    return list(sorter.static_order())


def in_loops(nodes: Mapping[str, NodeDef]) -> set[str]:
    """Return the names of nodes within TensorFlow 1's loops, whose outputs have one value in each iteration.

    A loop is a frame between Enter and Exit; what an Exit gives is outside (tensorflow/core/ops/control_flow_ops.cc).
    """
    depths: dict[str, int] = {}
    for name in in_order(nodes):
        node = nodes[name]
        sources = (node_name(source) for source in node.input)
        below = max((depths[source] for source in sources if source in depths), default=0)
        depths[name] = max(below + ("Enter" in node.op) - ("Exit" in node.op), 0) if node.op in _FRAMES else below
    return {name for name, depth in depths.items() if depth}


@dataclass(frozen=True, eq=False)
class Body:
    """The nodes of a graph, or of the function `definition`.

    `every` holds all of them, also where a file that is not valid has several of one name; `nodes` finds one by name.
    """

    every: Sequence[NodeDef]
    definition: FunctionDef | None = None

    @cached_property
    def nodes(self) -> Mapping[str, NodeDef]:
        """The nodes by name."""
        return {node.name: node for node in self.every}

    @property
    def function(self) -> str:
        """The function's name, "" for a graph."""
        return str(self.definition.signature.name) if self.definition is not None else ""

    @cached_property
    def arguments(self) -> list[str]:
        """The names of the function's arguments."""
        return [one.name for one in self.definition.signature.input_arg] if self.definition is not None else []

    @cached_property
    def returned(self) -> dict[str, list[int]]:
        """The outputs of the function by the node or argument that they come from."""
        found: dict[str, list[int]] = {}
        if self.definition is not None:
            for index, output in enumerate(self.definition.signature.output_arg):
                found.setdefault(self.definition.ret[output.name].partition(":")[0], []).append(index)
        return found

    @cached_property
    def readers(self) -> dict[str, list[Read]]:
        """The reads of each node and argument."""
        return readers(self.every)


def _carried(body: Body, node: NodeDef) -> tuple[GraphDef | None, bool]:
    """Return the GraphDef in the constant that a node reads, if there is one; False beside it if another can be fed."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.framework import graph_pb2

    position, fixed = CARRIES[node.op], True
    source = body.nodes.get(node_name(node.input[position])) if len(node.input) > position else None
    passed: set[str] = set()
    while source is not None and source.op in ("Identity", "PlaceholderWithDefault") and source.input:
        fixed = fixed and source.op == "Identity"
        passed.add(source.name)
        name = node_name(source.input[0])
        source = body.nodes.get(name) if name not in passed else None
    held = list(attribute(source, "value").tensor.string_val) if source is not None and source.op == "Const" else []
    if len(held) != 1:
        return None, False
    try:
        graph_def: GraphDef = graph_pb2.GraphDef.FromString(held[0])
    except DecodeError:
        return None, False
    return graph_def, fixed


class Placed(NamedTuple):
    """A node with its body. `name` is `function/node` in a function, `carrier/node` in a graph that a node carries.

    `gpu_only` marks a function that prefers a GPU. `seen_through` is False for a node that runs a graph which is handed to
    it as data, unless that is a constant; then its nodes follow.
    """

    name: str
    node: NodeDef
    body: Body
    gpu_only: bool = False
    seen_through: bool = True


class Graph:
    """An index of a GraphDef and its function library, built in linear time."""

    def __init__(self, graph_def: GraphDef, depth: int = 0) -> None:
        self.graph_def = graph_def
        self._depth = depth
        self._inner: dict[int, tuple[Graph | None, bool]] = {}
        self.body = Body(list(graph_def.node))
        self._library = [Body(list(function.node_def), function) for function in graph_def.library.function]
        self.functions = {body.function: body for body in self._library}

    @property
    def nodes(self) -> Mapping[str, NodeDef]:
        """The nodes of the graph itself, by name."""
        return self.body.nodes

    @cached_property
    def in_loops(self) -> set[str]:
        """The nodes of the graph itself that are `in_loops`."""
        return in_loops(self.nodes)

    def every_node(self) -> Iterator[NodeDef]:
        """Yield the nodes of the graph, of every function of its library, and of the graphs that these carry."""
        for body in (self.body, *self._library):
            for node in body.every:
                yield node
                if (inner := self.carried(body, node)) is not None:
                    yield from inner.every_node()

    def reach(self, targets: Iterable[str], stops: Collection[str] = ()) -> set[str]:
        """Return the names of all nodes that `targets` (tensors or operations) depend on, themselves included.

        The inputs of the nodes in `stops` are not followed.

        Raises:
            PipelineError: a target is not in the graph.
        """
        waiting = [node_name(target) for target in targets]
        found: set[str] = set()
        while waiting:
            name = waiting.pop()
            if name in found:
                continue
            if name not in self.nodes:
                remedy = "name a tensor of this graph."
                raise PipelineError("the graph", f"a node named {name!r}", f"{len(self.nodes)} other nodes", remedy)
            found.add(name)
            if name not in stops:
                waiting.extend(node_name(source) for source in self.nodes[name].input)
        return found

    def reached_nodes(self, targets: Iterable[str]) -> dict[str, NodeDef]:
        """Return every node that `targets` depend on, with the bodies of the functions that they call.

        A node of a function is named `node@function`, because its own name is unique in its function only. No node has
        an `@` in its name (tensorflow/core/graph/graph_constructor.cc), so no name can hide another.
        """
        names = self.reach(targets)
        found = {name: node for name, node in self.nodes.items() if name in names}
        for function in self.called(list(found.values())):
            found |= {f"{name}@{function}": node for name, node in self.functions[function].nodes.items()}
        return found

    def placed(self, targets: Iterable[str] | None, *, swapped_in: bool = False) -> Iterator[Placed]:
        """Yield every node that `targets` reach, function bodies included; without targets every node there is.

        The nodes of a graph that a node carries as data follow that node, all of them.

        With `swapped_in`, also the nodes of functions that TensorFlow may put in another's place: gradients, and those
        that implement the same interface (tensorflow/core/grappler/optimizers/implementation_selector.cc).

        Raises:
            PipelineError: a target is not in the graph.
        """
        names: Collection[str] = self.nodes.keys() if targets is None else self.reach(targets)
        reached = [node for node in self.body.every if node.name in names]
        for node in reached:
            yield from self._placed(node.name, node, self.body)
        functions = set(self.functions)
        if targets is not None:
            functions = self.called(reached)
            while swapped_in and (more := self._in_place_of(functions) - functions):
                functions |= more | self.called(node for name in more for node in self.functions[name].every)
        for body in self._library:
            if body.function in functions and body.definition is not None:
                gpu_only = attribute(body.definition, "api_preferred_device").s == b"GPU"
                for node in body.every:
                    yield from self._placed(f"{body.function}/{node.name}", node, body, gpu_only)

    def _placed(self, name: str, node: NodeDef, body: Body, gpu_only: bool = False) -> Iterator[Placed]:
        inner, constant = self._carrying(body, node)
        yield Placed(name, node, body, gpu_only, inner is not None and constant if node.op in CARRIES else True)
        if inner is not None:
            yield from (at._replace(name=f"{name}/{at.name}") for at in inner.placed(None))

    def carried(self, body: Body, node: NodeDef) -> Graph | None:
        """Return the graph that a node carries as data, or None."""
        return self._carrying(body, node)[0]

    def _carrying(self, body: Body, node: NodeDef) -> tuple[Graph | None, bool]:
        """Return the graph that a node carries, and whether it is a constant; nothing deeper than a few levels."""
        if node.op not in CARRIES or self._depth >= _DEEPEST:
            return None, False
        if id(node) not in self._inner:
            graph_def, constant = _carried(body, node)
            self._inner[id(node)] = (None if graph_def is None else Graph(graph_def, self._depth + 1), constant)
        return self._inner[id(node)]

    def _in_place_of(self, functions: set[str]) -> set[str]:
        def interface(name: str) -> bytes:
            definition = self.functions[name].definition
            return b"" if definition is None else bytes(attribute(definition, "api_implements").s)

        gradients = {one.gradient_func for one in self.graph_def.library.gradient if one.function_name in functions}
        interfaces = {interface(name) for name in functions} - {b""}
        return (gradients & self.functions.keys()) | {name for name in self.functions if interface(name) in interfaces}

    def named_functions(self, node: NodeDef) -> list[str]:
        """Return the functions of the library that a node names: as its op, or in any attribute of it."""
        names = [node.op]
        for value in node.attr.values():
            names += [value.func.name, *(function.name for function in value.list.func)]
        return [name for name in names if name in self.functions]

    def called(self, nodes: Iterable[NodeDef]) -> set[str]:
        """Return the functions that these nodes lead to, directly or through another function."""
        found: set[str] = set()
        waiting = list(nodes)
        while waiting:
            for name in self.named_functions(waiting.pop()):
                if name not in found:
                    found.add(name)
                    waiting.extend(self.functions[name].every)
        return found

    def calls(self, node: NodeDef) -> list[tuple[str, int]]:
        """Return the functions to which a node passes its inputs in order, with the input of their first argument."""
        if node.op in self.functions:
            return [(node.op, 0)]
        if node.op not in CALLS:
            return []
        spec = CALLS[node.op]
        values = [attribute(node, name) for name in spec.attributes]
        names = [name for value in values for name in (value.func.name, *(one.name for one in value.list.func))]
        return [(name, spec.first) for name in names if name in self.functions]

    def variables(self, targets: Iterable[str]) -> set[str]:
        """Return the variable operations that `targets` read, directly or through functions that take them."""
        return {name for name in self.reach(targets) if self.nodes[name].op in VARIABLE_OPS}

    def other_state(self, targets: Iterable[str]) -> list[str]:
        """Return, as `name (op)`, the state that `targets` read and no restored variable holds."""
        nodes = self.reached_nodes(targets)
        return sorted(f"{name} ({node.op})" for name, node in nodes.items() if OTHER_STATE.fullmatch(node.op))

    def constants(
        self, targets: Iterable[str], assets: Iterable[Any], apart: Mapping[str, TensorFact] = MappingProxyType({})
    ) -> Iterator[TensorFact]:
        """Yield the facts of every constant that `targets` read, paths of assets excluded: weights can be constants.

        `apart` are the facts of nodes whose values are not in the graph.
        """
        paths = {node_name(asset.tensor) for asset in assets}
        for name, node in self.reached_nodes(targets).items():
            if node.op == "Const" and name not in paths:
                yield apart.get(name) or tensor_file.fact(name, constant(node))


class Cone:
    """The nodes that `outputs` depend on, no further back than the tensors in `fed`, in topological order."""

    def __init__(self, graph: Graph, outputs: Iterable[str], fed: Collection[str]) -> None:
        self._graph = graph
        self._fed = {node_name(tensor) for tensor in fed}
        names = graph.reach(outputs, self._fed)
        self.order = in_order({name: node for name, node in graph.nodes.items() if name in names}, self._fed)
        self.nodes = {name: graph.nodes[name] for name in self.order}
        self._loops: dict[str, int] = {}  # the number of loops around a node
        for name in self.order:
            depth = max((self._loops.get(source, 0) for source in self._sources(name)), default=0)
            op = self.nodes[name].op
            self._loops[name] = depth + (1 if op in ("Enter", "RefEnter") else -1 if op in ("Exit", "RefExit") else 0)

    def fed(self, name: str) -> bool:
        """Return True if the node's value is fed."""
        return name in self._fed

    def fetchable(self, name: str) -> bool:
        """Return True if the node has a single value: inside a loop it has one in each iteration."""
        return self._loops[name] <= 0

    def calls(self, name: str) -> bool:
        """Return True if the node calls a function."""
        return bool(self._graph.named_functions(self.nodes[name]))

    def reads(self, name: str) -> bool:
        """Return True if the node only passes on the value of a constant or a variable."""
        return self.nodes[name].op in _READS and self.stored(name)

    def stored(self, name: str) -> bool:
        """Return True if the node's value is that of a constant or a variable."""
        while name in self.nodes and not self.fed(name):
            node = self.nodes[name]
            if node.op == "Const" or node.op in VARIABLE_OPS:
                return True
            if node.op not in _READS:
                return False
            name = node_name(node.input[0])
        return False

    def after(self, names: Collection[str]) -> set[str]:
        """Return the nodes that depend on any of `names`."""
        found: set[str] = set()
        for name in self.order:
            if any(source in names or source in found for source in self._sources(name)):
                found.add(name)
        return found

    def _sources(self, name: str) -> list[str]:
        return [] if self.fed(name) else [node_name(source) for source in self.nodes[name].input]


_READS = frozenset({"Identity", "RefIdentity", "ReadVariableOp"})


def drop_unused_functions(graph_def: GraphDef) -> None:
    """Remove from the library, in place, every function that no node of the graph leads to."""
    graph = Graph(graph_def)
    gradients = {gradient.function_name: gradient for gradient in graph_def.library.gradient}
    kept = graph.called(graph.body.every)
    while more := {gradients[name].gradient_func for name in kept if name in gradients} - kept:
        known = [name for name in more if name in graph.functions]
        kept |= more | graph.called(node for name in known for node in graph.functions[name].every)
    library: Any = type(graph_def.library)()
    library.function.extend(body.definition for name, body in graph.functions.items() if name in kept)
    library.gradient.extend(gradient for name, gradient in gradients.items() if name in kept)
    graph_def.library.CopyFrom(library)
