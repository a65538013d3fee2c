"""The tensors that a file holds, listed or read one at a time, with what is wrong among them: for looking, not for use."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tasks.errors import DamagedError
from tasks.forms import checkpoint_table, saver
from tasks.forms.keras import archive_check
from tasks.graphs import graph as graphs
from tasks.graphs import variables as graph_variables
from tasks.graphs.protos import GraphDef, NodeDef
from tasks.inspection.files import role, said
from tasks.records.forms import Form
from tasks.records.inspection import TensorRow
from tasks.tensors import tensor_file


class Listing(NamedTuple):
    """Tensors, and what was found wrong; `read` says whether every one was read."""

    rows: list[TensorRow]
    damage: list[str]
    read: bool


def of_checkpoint(prefix: Path, *, read: bool, values: bool) -> Listing:
    """List every tensor of a checkpoint of either version. With `read`, each is read and its checksum verified."""
    index = prefix.with_name(f"{prefix.name}.index")
    try:
        # Damage may have been passed over to list what is there, and a shape that cannot be would end this process.
        entries = dict(checkpoint_table.entries(index)) if index.is_file() else {}
        checkpoint = saver.reader(prefix)
        shapes, dtypes = checkpoint.get_variable_to_shape_map(), checkpoint.get_variable_to_dtype_map()
    except DamagedError as error:
        return Listing([], [said(error)], True)
    names = sorted(shapes)
    shards = checkpoint_table.shard_sizes(index)

    def value(name: str) -> tensor_file.Array:
        if name in entries:  # the reader allocates by what an entry declares
            checkpoint_table.require_bytes(index, name, entries[name], shards)
        return saver.read(checkpoint, name, prefix)

    def row(name: str) -> TensorRow:
        dtype, shape = dtypes[name].base_dtype, tuple(shapes[name])
        size = None if dtype.name == "string" else int(np.prod(shape, dtype=np.int64)) * dtype.size
        return TensorRow(name=name, dtype=dtype.name, shape=shape, bytes=size, role=role(name))

    return _listed([row(name) for name in names], value, read, values)


def of_keras(path: Path, form: Form, *, read: bool, values: bool) -> Listing:
    """List every weight of a Keras file. Raises what `archive_check.configuration` raises: call it first."""
    import h5py

    rows: list[TensorRow] = []
    try:
        with _weights(path, form) as stream, h5py.File(stream, "r") as file:
            held = {name: item for name, item in archive_check.items(file) if isinstance(item, h5py.Dataset)}
            for name, item in held.items():
                dtype = tensor_file.dtype_name(np.empty(0, item.dtype))
                size = int(item.size or 0) * item.dtype.itemsize
                rows.append(TensorRow(name=name, dtype=dtype, shape=item.shape or (), bytes=size, role=role(name)))
            return _listed(
                sorted(rows, key=lambda one: one.name), lambda name: np.asarray(held[name][()]), read, values
            )
    # h5py maps what the library finds wrong to whatever class is nearest.
    except (OSError, KeyError, ValueError, RuntimeError, TypeError, zipfile.BadZipFile, EOFError) as error:
        return Listing(rows, [f"{path}: {str(error)[:300]}"], True)


def _weights(path: Path, form: Form) -> Any:
    if form is not Form.KERAS:
        return path.open("rb")
    archive = zipfile.ZipFile(path)  # closed with its member, which holds the file open
    with archive:
        return archive.open(archive_check.WEIGHTS)


def of_graph(graph_def: GraphDef) -> list[TensorRow]:
    """List the variables of a graph, and, if it has none, the constants that may have been variables."""
    facts = graph_variables.variable_facts(graph_def)
    if facts:
        return [
            TensorRow(
                name=name,
                dtype=dtype,
                shape=shape,
                bytes=None,
                role=role(name),
            )
            for name, (dtype, shape) in sorted(facts.items())
        ]
    return [row for node in graph_def.node if node.op == "Const" if (row := _constant(node)) is not None]


def _constant(node: NodeDef) -> TensorRow | None:
    import tensorflow as tf

    proto = graphs.attribute(node, "value").tensor
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    dtype = tf.dtypes.as_dtype(proto.dtype)
    if not shape or not dtype.is_floating:
        return None
    size = int(np.prod(shape, dtype=np.int64)) * dtype.size
    return TensorRow(name=node.name, dtype=dtype.name, shape=shape, bytes=size, role="model")


def _listed(rows: list[TensorRow], value_of: Callable[[str], tensor_file.Array], read: bool, values: bool) -> Listing:
    if not read and not values:
        return Listing(rows, [], False)
    found, damage = [], []
    for row in rows:
        try:
            array = value_of(row.name)
        except DamagedError as error:
            damage.append(said(error))
            found.append(row)
            continue
        updates: dict[str, Any] = {"bytes": len(tensor_file.as_bytes(array))}
        if values:
            updates |= dict(_statistics(array))
        found.append(row.model_copy(update=updates))
    return Listing(found, damage, True)


def _statistics(array: tensor_file.Array) -> Iterator[tuple[str, Any]]:
    if array.dtype.kind not in "iufb" and array.dtype.name not in ("bfloat16",):
        return
    numbers = array.astype(np.float64).ravel()
    finite = numbers[np.isfinite(numbers)]
    yield "nonfinite", int(numbers.size - finite.size)
    if finite.size:
        with np.errstate(over="ignore"):
            mean = float(finite.mean())
        yield from (("min", float(finite.min())), ("max", float(finite.max())))
        if np.isfinite(mean):
            yield "mean", mean
