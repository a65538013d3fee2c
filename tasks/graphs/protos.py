"""Protocols for the TensorFlow protos that are read here: the fields in use, with their types.

The real classes come from `tensorflow.core`, which ships no types and is imported only in children
(tensorflow/core/framework/{graph,node_def,function,attr_value}.proto, tensorflow/core/protobuf/meta_graph.proto).
"""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Iterable, Iterator, MutableMapping, MutableSequence
from typing import Any, Protocol


def import_alone() -> None:
    """Make `tensorflow.core…_pb2` modules importable in this process without TensorFlow, which takes seconds.

    TensorFlow itself cannot be imported in it afterwards: call it in a fork.
    """
    if "tensorflow" not in sys.modules:
        spec = importlib.util.find_spec("tensorflow")
        package = types.ModuleType("tensorflow")
        package.__path__ = list(spec.submodule_search_locations or ()) if spec else []
        sys.modules["tensorflow"] = package


class Message(Protocol):
    """The methods of every protobuf message that are used here."""

    def CopyFrom(self, other: Any) -> None:  # noqa: N802 - protobuf's names
        """Replace all fields."""

    def Clear(self) -> None:  # noqa: N802
        """Clear all fields."""

    def ClearField(self, field: str) -> None:  # noqa: N802
        """Clear one field."""

    def SerializeToString(self, *, deterministic: bool = False) -> bytes:  # noqa: N802
        """Return the message in wire format."""
        ...


class NameAttrList(Protocol):
    """A function named in an attribute."""

    name: str


class AttrList(Protocol):
    """The repeated fields of an attribute."""

    s: MutableSequence[bytes]
    type: MutableSequence[int]
    shape: MutableSequence[Any]
    func: MutableSequence[NameAttrList]


class AttrValue(Message, Protocol):
    """The value of a node's attribute: one of its fields is set."""

    s: bytes
    i: int
    b: bool
    type: int
    shape: Any
    tensor: Any
    placeholder: str
    func: NameAttrList
    list: AttrList


class NodeDef(Message, Protocol):
    """A node: `input` holds tensors `node`, `node:1` and control inputs `^node`."""

    name: str
    op: str
    device: str
    input: MutableSequence[str]
    attr: MutableMapping[str, AttrValue]


class Nodes(Protocol):
    """The repeated field of nodes."""

    def __iter__(self) -> Iterator[NodeDef]: ...

    def __len__(self) -> int: ...

    def add(self, **fields: Any) -> NodeDef:
        """Append a node and return it."""
        ...

    def extend(self, nodes: Iterable[NodeDef]) -> None:
        """Append nodes."""


class FunctionDef(Message, Protocol):
    """A function of the library: its signature, its nodes, and the tensors that it returns."""

    signature: Any
    node_def: Nodes
    ret: MutableMapping[str, str]
    attr: MutableMapping[str, AttrValue]


class Library(Message, Protocol):
    """The function library of a graph; `gradient` names the gradient function of a function."""

    function: Any
    gradient: Any


class GraphDef(Message, Protocol):
    """A graph: nodes, library, versions."""

    node: Nodes
    library: Library
    versions: Any


class SaverDef(Message, Protocol):
    """A Saver: the operations and tensors by which it saves and restores."""

    filename_tensor_name: str
    save_tensor_name: str
    restore_op_name: str
    max_to_keep: int
    sharded: bool
    version: int


class MetaGraphDef(Message, Protocol):
    """A GraphDef with collections, signatures, assets and a Saver."""

    graph_def: GraphDef
    meta_info_def: Any
    saver_def: SaverDef
    collection_def: MutableMapping[str, Any]
    signature_def: MutableMapping[str, Any]
    asset_file_def: Any
