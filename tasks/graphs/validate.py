"""Validation of GraphDefs and MetaGraphDefs on the proto, before TensorFlow sees them.

Graph files carry no checksum. A flipped bit leaves a message that parses, with a dtype that does not exist, a variable
that is none, or a Saver that restores from nowhere; here, and not wherever it is met first, it gets its message.
"""

from __future__ import annotations

import graphlib
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from tasks.errors import DamagedError
from tasks.graphs import graph as graphs
from tasks.graphs import op_registry
from tasks.graphs.graph import Graph, in_order
from tasks.graphs.protos import GraphDef, MetaGraphDef, NodeDef
from tasks.graphs.variables import restored_slices

REMEDY = "get the file again from its author; if a tool edited the graph, fix that step."
_TYPED = graphs.VARIABLE_OPS | {"Const", "HostConst", "Placeholder", "PlaceholderV2", "PlaceholderWithDefault"}
_ASSETS = "saved_model_assets"

_SHOWN = 5


def require_valid_graph(graph_def: GraphDef, where: str) -> None:
    """Raise DamagedError for what is no graph: nothing in it, two nodes of one name, an input that is not there, a cycle.

    (tensorflow/core/common_runtime/graph_constructor.cc refuses the same, but after it began to build.)
    """

    def damaged(expected: str, found: str) -> DamagedError:
        return DamagedError(where, expected, found, REMEDY)

    if not graph_def.node:
        raise damaged("a graph with nodes", "none")
    names = Counter(node.name for node in graph_def.node)
    if twice := sorted(name for name, count in names.items() if count > 1):
        raise damaged("one node of each name", f"{names[twice[0]]} nodes named {twice[0]!r}{and_more(twice, twice[0])}")
    for node in graph_def.node:
        if not node.name or not node.op:
            raise damaged("nodes with a name and an op", f"{node.name!r} with the op {node.op!r}")
        for source in node.input:
            if graphs.node_name(source) not in names:
                raise damaged(f"every input of {node.name!r} in the graph", f"no node for its input {source!r}")
    if at := _on_a_cycle(Graph(graph_def)):
        raise damaged("a graph without cycles, loops apart", f"one through {at!r}")
    bodies: dict[str, bytes] = {}
    for function in graph_def.library.function:
        body = function.SerializeToString(deterministic=True)
        if bodies.setdefault(function.signature.name, body) != body:
            raise damaged("one function of each name", f"two different ones named {function.signature.name!r}")
        here = {argument.name for argument in function.signature.input_arg} | {node.name for node in function.node_def}
        for node in function.node_def:
            for source in node.input:
                if graphs.node_name(source) not in here:
                    raise damaged(
                        f"every input of {function.signature.name}/{node.name} in its function", f"no {source!r} there"
                    )


def _on_a_cycle(graph: Graph) -> str | None:
    """Return a node on a cycle that no NextIteration closes, or None."""
    try:
        in_order(graph.nodes)
    except graphlib.CycleError as error:
        return str(error.args[1][0])
    return None


def and_more(every: Iterable[str], first: str) -> str:
    """Return the rest of a list after its first item, for a message."""
    others = [other for other in every if other != first]
    shown = ", ".join(others[:_SHOWN]) + (", …" if len(others) > _SHOWN else "")
    return f" (and {len(others)} more: {shown})" if others else ""


def require_valid_meta_graph(meta: MetaGraphDef, where: str) -> None:
    """Raise DamagedError if the graph, a collection or a Saver of a MetaGraphDef cannot be read.

    Its signatures are checked when each is used (`propose.declared`): a broken one does not affect the others.
    """
    require_valid_graph(meta.graph_def, where)
    for at, number in _types(meta.graph_def):
        if not _known(number):
            raise DamagedError(f"{where}: {at}", "a dtype of TensorFlow's", f"number {number}", REMEDY)
    graph = Graph(meta.graph_def)
    outputs = {node.name: output_types(node, graph) for node in meta.graph_def.node}
    for node in meta.graph_def.node:
        _require_inputs(node, outputs, where)
    for node in graph.every_node():
        if node.op in _TYPED:
            _require_typed(node, where)
    for key in meta.collection_def:
        _require_decodes(key, meta.collection_def[key], where)
    for definition in savers(meta):
        _require_restores(meta.graph_def, definition, outputs, where)


def savers(meta: MetaGraphDef) -> list[Any]:
    """Return a graph's SaverDefs: its own first, then those of its collection. Raises DecodeError."""
    from tensorflow.core.protobuf import saver_pb2

    found = [meta.saver_def] if meta.saver_def.restore_op_name else []
    if "savers" in meta.collection_def:
        held = meta.collection_def["savers"].bytes_list.value
        found += [saver_pb2.SaverDef.FromString(encoded) for encoded in held]
    return found


def output_types(node: NodeDef, graph: Graph) -> list[int]:
    """Return the dtypes of a node's outputs, as enum values; empty if its op is unknown."""
    signature = op_registry.definition(node.op)
    if signature is None and (function := graph.functions.get(node.op)) and function.definition:
        signature = function.definition.signature
    if signature is None:
        return []
    defaults = {attribute.name: attribute.default_value for attribute in signature.attr}

    def attr(key: str) -> Any:
        return node.attr[key] if key in node.attr else defaults[key]

    found: list[int] = []
    try:
        for output in signature.output_arg:
            if output.type_list_attr:
                found += list(attr(output.type_list_attr).list.type)
            else:
                one = output.type or attr(output.type_attr).type
                found += [one] * (attr(output.number_attr).i if output.number_attr else 1)
    except KeyError:
        return []
    return found


def is_dtype(number: int) -> bool:
    """Return True if that is the number of a dtype."""
    return number != 0 and _known(number)


@cache
def _known(number: int) -> bool:
    import tensorflow as tf

    try:
        return number == 0 or bool(tf.dtypes.as_dtype(number))  # 0: not said
    except TypeError:
        return False


def _types(graph_def: GraphDef) -> Iterator[tuple[str, int]]:
    """Yield every dtype that is named in a graph and its functions, as a number, with its place."""
    for node in Graph(graph_def).every_node():
        for name, value in node.attr.items():
            at = f"{node.name} ({node.op}), its {name}"
            yield at, value.type
            yield at, value.tensor.dtype
            yield from ((at, number) for number in value.list.type)
    for function in graph_def.library.function:
        for argument in (*function.signature.input_arg, *function.signature.output_arg):
            yield f"the function {function.signature.name}, its {argument.name}", argument.type


def _require_inputs(node: NodeDef, outputs: dict[str, list[int]], where: str) -> None:
    for source in node.input:
        name, colon, position = source.partition(":")
        given = outputs.get(name)
        if not colon or not given:  # a control input, the first output, or of an op that is unknown
            continue
        if not position.isdecimal() or int(position) >= len(given):
            found = f"{len(given)} outputs there"
            raise DamagedError(f"{where}: {node.name} ({node.op})", f"its input {source!r} in the graph", found, REMEDY)


def _require_typed(node: NodeDef, where: str) -> None:
    at, dtype = f"{where}: {node.name} ({node.op})", graphs.attribute(node, "dtype")
    if dtype.placeholder:  # in the body of a function of several types
        return
    if not dtype.type:
        raise DamagedError(at, "an attribute dtype", "none", REMEDY)
    if "Const" in node.op:
        value = graphs.attribute(node, "value").tensor
        if value.dtype != dtype.type:
            found = _named(value.dtype) if value.dtype else "no value"
            raise DamagedError(at, f"a value of its dtype {_named(dtype.type)}", found, REMEDY)


def _named(number: int) -> str:
    import tensorflow as tf

    return str(tf.dtypes.as_dtype(number).name)


def _require_decodes(key: str, held: Any, where: str) -> None:
    """Check collections whose messages an import reads (tensorflow/python/framework/meta_graph.py)."""
    import tensorflow as tf
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import meta_graph_pb2
    from tensorflow.python.framework import ops

    assert tf.compat.v1.train.Saver  # what registers the messages of collections is imported with it
    message = ops.get_collection_proto_type(key)
    encoded = list(held.bytes_list.value) if message is not None else []
    if key == _ASSETS:
        message, encoded = meta_graph_pb2.AssetFileDef, [packed.value for packed in held.any_list.value]
    try:
        for entry in encoded:
            message.FromString(entry)
    except DecodeError as error:
        expected = f"entries that are each a {message.__name__}"
        raise DamagedError(f"{where}: its collection {key}", expected, str(error)[:200], REMEDY) from None


def _require_restores(graph_def: GraphDef, definition: Any, outputs: dict[str, list[int]], where: str) -> None:
    """Check a Saver whose restore operation is in the graph; one whose operation is not there restores nothing."""
    if graphs.node_name(definition.restore_op_name) not in outputs:
        return
    at, filename = f"{where}: the Saver of {definition.restore_op_name}", definition.filename_tensor_name
    name, _, position = filename.partition(":")
    if not position.isdecimal() or int(position) >= len(outputs.get(name) or [0]) or name not in outputs:
        raise DamagedError(at, "a tensor for the file's name", f"{filename!r}, which the graph does not have", REMEDY)
    try:
        for source in restored_slices(graph_def, definition).values():
            _ = source.window
    except (ValueError, LookupError, TypeError) as error:  # UnicodeDecodeError is a ValueError
        expected, found = "constants that say which tensor fills which variable", f"{type(error).__name__}: {error}"
        raise DamagedError(at, expected, found[:200], REMEDY) from None
