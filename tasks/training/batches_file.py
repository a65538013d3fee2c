"""The file of `--batches`: rows by tensor, from which the batch of any step is cut, and scalars for every step.

The batch for step s is rows s*b … s*b + b - 1 of n, counted modulo n, so that interrupted training resumes as if it had
not been interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tasks.errors import UsageError
from tasks.probe import cast, files
from tasks.tensors.tensor_file import Array, Tensors, dtype_name


class Batches:
    """Batches of `size` rows by tensor name, cut from arrays with `rows` rows, and scalars."""

    def __init__(self, feeds: Mapping[str, Array], size: int) -> None:
        self.scalars = {name: array for name, array in feeds.items() if array.ndim == 0}
        self.arrays = {name: array for name, array in feeds.items() if array.ndim}
        self.rows = len(next(iter(self.arrays.values()))) if self.arrays else 0
        self.size = size

    def batch(self, step: int) -> Tensors:
        """Return the feeds of the train op after `step` steps."""
        rows = np.arange(step * self.size, (step + 1) * self.size) % max(self.rows, 1)
        return self.scalars | {name: array[rows] for name, array in self.arrays.items()}

    def batches(self, start: int, hyperparameters: Mapping[str, Any]) -> Iterator[Tensors]:
        """See `Model`."""
        while True:
            yield self.batch(start)
            start += 1

    def validation(self) -> Tensors:
        """See `Model`; there is none."""
        return {}


def read(file: Path | None, size: int, graph: Any, aliases: Mapping[str, str]) -> Batches:
    """Read an npz whose arrays are named by tensors of the graph, with or without `:0`, or by `aliases` of them.

    Raises:
        UsageError: it is not such a file, or an array does not fit its tensor.
    """
    if file is None:
        return Batches({}, size)
    held = files.held(file)
    remedy = "write it with numpy.savez(file, **{'NAME:0': rows, …})."
    if held.kind != "npz":
        raise UsageError(f"--batches {file.name}", "an npz", f"a {held.kind} file", remedy)
    feeds: dict[str, Array] = {}
    names: dict[str, str] = {}
    for name, value in held.named.items():
        where = f"--batches {file.name}, {name}"
        tensor = _tensor(graph, name, aliases, where)
        if tensor.name in feeds:
            found = f"{names[tensor.name]} and {name}"
            raise UsageError(where, f"{tensor.name} once", found, "leave one of them out.")
        assert isinstance(value, np.ndarray)
        feeds[tensor.name] = cast.typed(value, tensor.dtype.base_dtype.name, where)
        names[tensor.name] = name
    if not feeds:
        raise UsageError(f"--batches {file.name}", "arrays named by tensors", "an array without a name", remedy)
    _require_one_length(feeds, names, file)
    batches = Batches(feeds, size)
    for name, array in batches.batch(0).items():
        shape = graph.get_tensor_by_name(name).shape
        if not shape.is_compatible_with(array.shape):
            wanted = f"{dtype_name(array)}{[dim if dim is not None else '?' for dim in shape.as_list()]}"
            found = f"{dtype_name(array)}{list(array.shape)} a step"
            advice = "give rows of that shape, a scalar, or another --batch-size."
            raise UsageError(f"--batches {file.name}, {names[name]}", wanted.replace("'", ""), found, advice)
    return batches


def _tensor(graph: Any, name: str, aliases: Mapping[str, str], where: str) -> Any:
    """Return the tensor that a name means, an alias first."""
    full = name if ":" in name else f"{name}:0"
    meant = aliases.get(name, full)
    operations = {operation.name for operation in graph.get_operations()}
    if meant != full and full.rpartition(":")[0] in operations and aliases.get(full, full) != meant:
        found = f"a name of {meant} and of {full}"
        raise UsageError(where, "a name that means one tensor", found, "name the tensor itself, with `:0`.")
    try:
        tensor = graph.get_tensor_by_name(aliases.get(full, meant))
    except (KeyError, ValueError):
        holders = [one.outputs[0].name for one in graph.get_operations() if one.type.startswith("Placeholder")]
        known = ", ".join(holders[:10]) or "none"
        raise UsageError(where, "a tensor of the graph", f"none named {full}", f"placeholders are {known}.") from None
    if not graph.is_feedable(tensor):
        raise UsageError(
            where, "a tensor that can be fed", f"{tensor.name}, which cannot", "feed a tensor computed from it."
        )
    return tensor


def _require_one_length(feeds: Mapping[str, Array], names: Mapping[str, str], file: Path) -> None:
    lengths = {names[name]: len(array) for name, array in feeds.items() if array.ndim}
    if 0 in lengths.values():
        empty = next(name for name, length in lengths.items() if not length)
        raise UsageError(f"--batches {file.name}, {empty}", "at least one row", "none", "add rows.")
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        remedy = "give every array one row for each example; a value for every step is a scalar."
        raise UsageError(f"--batches {file.name}", "arrays with the same number of rows", found, remedy)
