"""GraphDefs with large constants, in children; each function returns what differs."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import numpy as np

from tasks.forms import graph_file
from tasks.graphs.graph import Graph, constant
from tasks.records.base import Record
from tasks.tensors import tensor_file
from tasks.tensors.tensor_file import Array

VALUES: dict[str, Array] = {
    "large": np.arange(40_000, dtype=np.float32).reshape(200, 200),
    "halves": np.arange(60_000, dtype=np.float16),
    "small": np.array([1.5, -2.0], dtype=np.float64),
    "scalar": np.array(7, dtype=np.int32),
    "not finite": np.full((300, 100), np.nan, dtype=np.float32),
    "transposed": np.arange(90_000, dtype=np.int64).reshape(300, 300).T,
    "empty": np.zeros((0, 5), dtype=np.float32),
    "flags": np.ones(70_000, dtype=bool),
    "words": np.array([b"a" * 40_000, b"b" * 40_000], dtype=object),
}


def skeleton() -> Any:
    """A GraphDef whose Consts have no values yet, with a node and a function beside them."""
    import tensorflow as tf
    from tensorflow.core.framework import graph_pb2

    graph_def = graph_pb2.GraphDef()
    graph_def.versions.producer = 1882
    for name, value in VALUES.items():
        node = graph_def.node.add(name=name, op="Const", device="/cpu:0")
        dtype = tf.string if value.dtype.kind == "O" else tf.dtypes.as_dtype(value.dtype)
        node.attr["dtype"].type = dtype.as_datatype_enum
    graph_def.node.add(name="x", op="Placeholder")
    graph_def.library.function.add().signature.name = "f"
    return graph_def


def whole() -> bytes:
    """A GraphDef with its values, as TensorFlow writes it."""
    import tensorflow as tf

    graph_def = skeleton()
    for node in graph_def.node:
        if node.name in VALUES:
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(VALUES[node.name]))
    content: bytes = graph_def.SerializeToString()
    return content


def written_as_read(folder: Path) -> list[str]:
    """Write the values apart, and compare every node with that of a GraphDef which TensorFlow made."""
    import tensorflow as tf
    from tensorflow.core.framework import graph_pb2

    sha = graph_file.write(folder / "g.pb", skeleton(), VALUES.get)
    content = (folder / "g.pb").read_bytes()
    found, wanted = graph_pb2.GraphDef.FromString(content), graph_pb2.GraphDef.FromString(whole())
    differ = [] if sha == hashlib.sha256(content).hexdigest() else ["sha256"]
    for one, other in zip(found.node, wanted.node, strict=True):
        if one.op == "Const":
            pair = [tf.make_ndarray(node.attr["value"].tensor) for node in (one, other)]
            same = pair[0].dtype == pair[1].dtype and tensor_file.as_bytes(pair[0]) == tensor_file.as_bytes(pair[1])
            differ += [] if same and pair[0].shape == pair[1].shape else [one.name]
            one.attr["value"].tensor.CopyFrom(other.attr["value"].tensor)
        differ += [] if one == other else [f"node {one.name}"]
    return differ + ([] if (found.library, found.versions) == (wanted.library, wanted.versions) else ["the rest"])


def facts_of(content: bytes) -> dict[str, Any]:
    """The facts of every constant, from the whole message."""
    from tensorflow.core.framework import graph_pb2

    nodes = graph_pb2.GraphDef.FromString(content).node
    return {node.name: tensor_file.fact(node.name, constant(node)) for node in nodes if node.op == "Const"}


def facts_apart(content: bytes) -> dict[str, Any]:
    """The facts of every constant, the large ones read apart."""
    graph_def, apart = graph_file.parse(content)
    names = [node.name for node in graph_def.node if node.op == "Const"]
    return {fact.name: fact for fact in Graph(graph_def).constants(names, (), apart)}


def differing_facts() -> list[str]:
    """Names of constants whose facts differ between the two readings; `none apart` if nothing was read apart."""
    content = whole()
    graph_def, apart = graph_file.parse(content)
    wanted, found = facts_of(content), facts_apart(content)
    held = {node.name: len(node.attr["value"].tensor.tensor_content) for node in graph_def.node}
    differ = [name for name in wanted if wanted[name] != found.get(name)]
    differ += [f"{name} is still there" for name in apart if held[name]]
    return differ if len(apart) == 4 else [f"{len(apart)} apart"]


class Flipped(Record):
    """What became of flipped bytes: names that were read otherwise, how many could be compared, how many were refused."""

    wrong: list[str]
    compared: int
    refused: int


def flipped(count: int) -> Flipped:
    """Flip single bytes of the message outside the large contents, and compare both readings."""
    from google.protobuf.message import DecodeError

    content, chance = whole(), random.Random(4)
    wrong, compared, refused = [], 0, 0
    # The lead of a node is within a hundred bytes of its name.
    starts = [content.index(name.encode()) for name in VALUES]
    for _ in range(count):
        at = chance.choice(starts) + chance.randrange(-8, 90)
        spoiled = bytearray(content)
        spoiled[at % len(content)] ^= 1 << chance.randrange(8)
        try:
            wanted = facts_of(bytes(spoiled))
        except (DecodeError, ValueError, TypeError, KeyError):
            refused += 1
            continue
        try:
            found = facts_apart(bytes(spoiled))
        except Exception:
            refused += 1
            continue
        compared += 1
        wrong += [f"{at}: {name}" for name in wanted if name in found and wanted[name] != found[name]]
    return Flipped(wrong=wrong, compared=compared, refused=refused)


def growth(folder: Path, count: int, size: int) -> int:
    """Write so many constants of so many bytes, each made when it is asked for; how far the process's peak grew."""
    from tensorflow.core.framework import graph_pb2

    graph_def = graph_pb2.GraphDef()
    for number in range(count):
        graph_def.node.add(name=f"w{number}", op="Const").attr["dtype"].type = 1
    before = _peak()
    graph_file.write(folder / "g.pb", graph_def, lambda name: np.ones(size // 4, dtype=np.float32))
    return _peak() - before


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
