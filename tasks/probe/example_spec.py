"""The parsing specification of a graph that takes serialized tf.Examples, read from its ParseExample node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tasks.graphs import graph as graphs
from tasks.graphs.dataflow import Dataflow, Scope, Use
from tasks.tensors.tensor_file import Array

OPS = {"ParseExample", "ParseExampleV2", "ParseSingleExample"}


@dataclass(frozen=True)
class Feature:
    """A feature: dense ones have a shape (None for an open length) and may have a default.

    `outputs` are the names, in graph and function, of the parsed values among the node's outputs. `most` is the number of
    values that a row may have if the graph makes a sparse feature dense, with that width.
    """

    key: str
    dtype: str
    dense: bool
    shape: tuple[int | None, ...] = ()
    optional: bool = True
    outputs: tuple[str, ...] = ()
    most: int | None = None


def features(flow: Dataflow, use: Use) -> list[Feature] | None:
    """Return the features that a parsing node reads (tensorflow/core/ops/parsing_ops.cc); None if its keys are computed."""
    import tensorflow as tf

    def dtypes(attribute: str) -> list[str]:
        return [tf.dtypes.as_dtype(number).name for number in graphs.attribute(node, attribute).list.type]

    node, scope = use.node, use.scope
    sparse, dense = dtypes("sparse_types"), dtypes("Tdense")
    ragged = dtypes("ragged_value_types") if node.op == "ParseExampleV2" else []
    if node.op == "ParseSingleExample":
        keys = [_text(item) for name in ("sparse_keys", "dense_keys") for item in graphs.attribute(node, name).list.s]
        first_default = 1
    else:
        read: list[Array | None]
        if node.op == "ParseExampleV2":
            read = [flow.constant(scope, source) for source in node.input[2:5]]
            first_default = 5
        else:
            first_default = 2 + len(sparse) + len(dense)
            read = [flow.constant(scope, source) for source in node.input[2:first_default]]
        if any(array is None for array in read):
            return None
        keys = [_text(item) for array in read if array is not None for item in array.ravel().tolist()]
    # Sparse outputs come three times: indices, values, shapes.
    sparse_at, dense_at = len(sparse), 3 * len(sparse)
    found: list[Feature] = []
    kinds = [("sparse", sparse), ("dense", dense), ("ragged", ragged)]
    for kind, position, dtype in [(kind, i, dtype) for kind, types in kinds for i, dtype in enumerate(types)]:
        key = keys[len(found)] if len(found) < len(keys) else ""
        at = {"sparse": sparse_at, "dense": dense_at, "ragged": dense_at + len(dense)}[kind] + position
        outputs = (str(at), f"{kind}_values:{position}")
        if kind != "dense":
            indices = (str(position), f"sparse_indices:{position}") if kind == "sparse" else ()
            found.append(Feature(key, dtype, dense=False, outputs=outputs, most=_width(flow, use, indices)))
            continue
        dims = graphs.attribute(node, "dense_shapes").list.shape[position].dim
        optional = _has_elements(flow, scope, node.input[first_default + position])
        shape = tuple(None if dim.size < 0 else int(dim.size) for dim in dims)
        found.append(Feature(key, dtype, dense=True, shape=shape, optional=optional, outputs=outputs))
    return found


def _width(flow: Dataflow, use: Use, indices: tuple[str, ...]) -> int | None:
    """Return the width of the dense tensor into which a sparse feature is written; a value beyond it is an error."""
    widths = []
    for taker in flow.uses(use.scope, use.node.name, indices):
        if taker.node.op == "SparseToDense" and taker.position == 0:
            shape = flow.origin(taker.scope, taker.node.input[1])
            if shape is not None and shape[1].op == "Pack" and shape[1].input:
                width = flow.constant(shape[0], shape[1].input[-1])
                widths += [int(width)] if width is not None and width.size == 1 else []
    return min(widths, default=None)


def _has_elements(flow: Dataflow, scope: Scope, default: str) -> bool:
    """Return True if a default has elements: an empty one marks a required feature."""
    found = flow.origin(scope, default)
    if found is not None and found[1].op == "Reshape":
        scope, default = found[0], found[1].input[0]
    value = flow.constant(scope, default)
    return value is not None and value.size > 0


def _text(item: Any) -> str:
    return item.decode(errors="surrogateescape") if isinstance(item, bytes) else str(item)
