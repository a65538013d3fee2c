"""GraphDefs in files, written and read with their large constants apart, so that these are held once or not at all.

The fields are those of tensorflow/core/framework/{graph,node_def,attr_value,tensor}.proto; their numbers are taken from
the messages' descriptors. Runs in a child.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tasks.forms import wire_format
from tasks.graphs.protos import GraphDef, NodeDef
from tasks.records.baseline import TensorFact
from tasks.tensors import tensor_file
from tasks.tensors.tensor_file import Array

LARGE = 1 << 16
"""Bytes from which a constant is kept apart."""

_VALUE = b"value"


def write(path: Path, graph_def: GraphDef, value_of: Callable[[str], Array | None]) -> str:
    """Write a GraphDef in which some Consts have the values that `value_of` returns for their names; return the sha256.

    A large value is written from where it lies.
    """
    sha = hashlib.sha256()
    rest: Any = type(graph_def)()
    rest.library.CopyFrom(graph_def.library)
    rest.versions.CopyFrom(graph_def.versions)
    with path.open("wb") as stream:
        for node in graph_def.node:
            for piece in _written(node, value_of(node.name)):
                stream.write(piece)
                sha.update(piece)
        tail = rest.SerializeToString(deterministic=True)
        stream.write(tail)
        sha.update(tail)
    return sha.hexdigest()


def _written(node: NodeDef, value: Array | None) -> Iterator[Any]:
    """Yield the bytes of one node as a field of a GraphDef."""
    import tensorflow as tf
    from tensorflow.core.framework import attr_value_pb2, graph_pb2, node_def_pb2, tensor_pb2

    in_graph = _number(graph_pb2.GraphDef, "node")
    if value is None or value.nbytes < LARGE or value.dtype.kind in "OSU":
        if value is not None:
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
        content = node.SerializeToString(deterministic=True)
        if value is not None:
            node.attr["value"].Clear()  # so that no two values are held
        yield wire_format.header(in_graph, len(content)) + content
        return
    array = np.ascontiguousarray(value)
    shape = tf.TensorShape(array.shape).as_proto()
    tensor = tensor_pb2.TensorProto(dtype=node.attr["dtype"].type, tensor_shape=shape)
    node.attr.pop("value", None)
    entry = node_def_pb2.NodeDef.DESCRIPTOR.fields_by_name["attr"].message_type
    # Each message ends with the field that holds the next one, and the last with the bytes.
    lead = b""
    for content, number in (
        (tensor.SerializeToString(deterministic=True), _number(tensor_pb2.TensorProto, "tensor_content")),
        (b"", _number(attr_value_pb2.AttrValue, "tensor")),
        (
            wire_format.header(entry.fields_by_name["key"].number, len(_VALUE)) + _VALUE,
            entry.fields_by_name["value"].number,
        ),
        (node.SerializeToString(deterministic=True), _number(node_def_pb2.NodeDef, "attr")),
        (b"", in_graph),
    ):
        lead = content + wire_format.header(number, len(lead) + array.nbytes) + lead
    yield lead
    yield array.reshape(-1).view(np.uint8).data


def parse(content: bytes) -> tuple[GraphDef, dict[str, TensorFact]]:
    """Return a GraphDef without the bytes of its large constants, and the facts of these by the name of the node.

    Raises:
        ValueError, google.protobuf.message.DecodeError: it is not a GraphDef.
    """
    from tensorflow.core.framework import graph_pb2

    if wire_format.is_cut(content):
        raise ValueError("it is cut off")
    in_graph = _number(graph_pb2.GraphDef, "node")
    apart: dict[str, TensorFact] = {}
    pieces: list[bytes | memoryview] = []
    for number, kind, payload in wire_format.fields(memoryview(content)):
        found = None
        if number == in_graph and kind == wire_format.LENGTH_DELIMITED and len(payload) >= LARGE:
            found = _without_content(payload)
        if found is None:
            pieces.append(wire_format.field(number, kind, payload))
        else:
            light, fact = found
            if fact.name in apart:
                raise ValueError(f"two nodes named {fact.name!r}")
            apart[fact.name] = fact
            pieces.append(wire_format.header(in_graph, len(light)) + light)
    graph_def: GraphDef = graph_pb2.GraphDef.FromString(b"".join(pieces))
    return graph_def, apart


def _without_content(node: memoryview) -> tuple[bytes, TensorFact] | None:
    """Return a Const without its bytes, and their facts; None for any other node, or one written in another way.

    Nothing may stand twice, for a reader would merge it.
    """
    from tensorflow.core.framework import attr_value_pb2, node_def_pb2, tensor_pb2

    definition = node_def_pb2.NodeDef.DESCRIPTOR.fields_by_name
    entry = definition["attr"].message_type.fields_by_name
    others, values = [], []
    name = op = b""
    for number, kind, payload in wire_format.fields(node):
        if number == definition["attr"].number:
            named = _once(payload)
            if named is None:
                return None
            if bytes(named.get(entry["key"].number, b"")) == _VALUE:
                values.append(named.get(entry["value"].number, memoryview(b"")))
                continue
        elif number == definition["name"].number:
            name = bytes(payload)
        elif number == definition["op"].number:
            op = bytes(payload)
        others.append(wire_format.field(number, kind, payload))
    if op != b"Const" or len(values) != 1:
        return None
    in_value, value = _number(attr_value_pb2.AttrValue, "tensor"), _once(values[0]) or {}
    if value.keys() != {in_value}:
        return None
    tensor = value[in_value]
    held = _once(tensor)
    content = _number(tensor_pb2.TensorProto, "tensor_content")
    known = {_number(tensor_pb2.TensorProto, field) for field in ("dtype", "tensor_shape", "version_number")}
    if held is None or content not in held or not held.keys() <= {content, *known} or len(held[content]) < LARGE:
        return None
    described = b"".join(
        wire_format.field(number, kind, payload)
        for number, kind, payload in wire_format.fields(tensor)
        if number != content
    )
    fact = _fact(name.decode(), tensor_pb2.TensorProto.FromString(described), held[content])
    if fact is None:
        return None
    light = wire_format.header(in_value, len(described)) + described
    pair = wire_format.header(entry["key"].number, len(_VALUE)) + _VALUE
    pair += wire_format.header(entry["value"].number, len(light)) + light
    return b"".join(others) + wire_format.header(definition["attr"].number, len(pair)) + pair, fact


def _once(message: memoryview) -> dict[int, memoryview] | None:
    """Return the payloads of a message's fields by number; None where one stands twice."""
    found: dict[int, memoryview] = {}
    for number, _, payload in wire_format.fields(message):
        if number in found:
            return None
        found[number] = payload
    return found


def _fact(name: str, tensor: Any, content: memoryview) -> TensorFact | None:
    """Return the facts of a tensor whose bytes are `content`; None where these are not the numbers of its shape."""
    import tensorflow as tf

    dtype = (
        tensor_file.numpy_dtype(tf.dtypes.as_dtype(tensor.dtype).name)
        if tensor.dtype != tf.string.as_datatype_enum
        else None
    )
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    if dtype is None or len(content) != dtype.itemsize * int(np.prod(shape, dtype=np.int64)):
        return None
    return tensor_file.fact(name, np.frombuffer(content, dtype).reshape(shape))


def _number(message: Any, field: str) -> int:
    return int(message.DESCRIPTOR.fields_by_name[field].number)
