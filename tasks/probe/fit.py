"""Conversion of a file of inputs into the tensors of a signature: cast only without loss, never broadcast."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tasks.errors import UsageError
from tasks.probe import cast
from tasks.records.signature import Method, OutputRef, Signature, TensorSpec
from tasks.tensors import tensor_file
from tasks.tensors.tensor_file import Array, Tensors, dtype_name

LABELS = ("label", "labels", "y", "target")  # what a file's labels are usually called
_OTHER = "give another file with --probe"


@dataclass(frozen=True)
class Rows:
    """One flat list of values per row, to be given the shape of the input's rows; `text` marks cells of a CSV."""

    rows: Sequence[Sequence[Any]]
    text: bool = False


@dataclass(frozen=True)
class Nested:
    """A value as JSON has it, lists in lists or a lone one, without a dtype."""

    value: Any


Value = Array | Nested | Rows


@dataclass(frozen=True)
class Held:
    """The contents of a file of inputs.

    `named` is keyed `signature/input` or `input`: arrays with a dtype of their own, or Nested and Rows without one.
    `unnamed` is for the only input of a signature, under the signature's key, or under None for any. In a `table`, the
    columns that no name takes are such an input too.
    """

    kind: str
    named: Mapping[str, Value]
    unnamed: Mapping[str | None, Value] = field(default_factory=dict)
    table: bool = False

    def without(self, name: str) -> Held:
        """Return the same contents without one name."""
        return replace(self, named={key: value for key, value in self.named.items() if key != name})

    def described(self) -> str:
        """What it holds, for an error."""
        names = [f"{name!r}" for name in self.named]
        more = f" and {len(names) - 12} more" if len(names) > 12 else ""
        parts = [", ".join(names[:12]) + more] if names else []
        parts += [f"{_length(value)} unnamed rows" for value in self.unnamed.values()]
        return f"a {self.kind} file with {' and '.join(parts) or 'nothing'}"


@dataclass(frozen=True)
class Fitted:
    """The inputs of one signature by name, and what the user should know."""

    inputs: Tensors
    notes: tuple[str, ...] = ()


def fitted(held: Held, signature: Signature, where: str, *, cut: bool = True) -> Fitted:
    """Return the inputs of one signature. With `cut`, rows beyond a fixed batch are left out, with a note.

    Raises:
        UsageError: an input is missing, or its dtype, rank or size differs from the signature's.
    """
    chosen, notes = _chosen(held, signature, where)
    inputs: Tensors = {}
    for name, value in chosen.items():
        spec, at = signature.inputs[name], f"{where}, {name}"
        inputs[name] = _array(value, spec, at)
        _require_rank(inputs[name], spec, at)
    batch = fixed_batch(signature)
    if batch is not None and cut:
        for name, array in inputs.items():
            if len(array) > batch:
                notes.append(f"{signature.key} takes batches of {batch}: {name} is the first {batch} of {len(array)}")
                inputs[name] = array[:batch]
    for name, array in inputs.items():
        _require_shape(array, signature.inputs[name], f"{where}, {name}", free_batch=batch is not None and not cut)
    return Fitted(inputs, tuple(notes))


def fixed_batch(signature: Signature) -> int | None:
    """Return the batch size that a signature requires: the first dimension that all its inputs share, if it is fixed."""
    firsts = {spec.shape[0] if spec.shape else None for spec in signature.inputs.values()}
    return firsts.pop() if len(firsts) == 1 else None


def mentions(held: Held, signature: Signature) -> bool:
    """Return True if the file has something for this signature by its key."""
    prefixes = (str(OutputRef(signature.key, "")), f"{signature.key}/")  # the latter as a user may write it
    return signature.key in held.unnamed or any(name.startswith(prefixes) for name in held.named)


def serves(held: Held, signature: Signature) -> bool:
    """Return True if the file has something for every input of the signature."""
    try:
        _chosen(held, signature, "")
    except UsageError:
        return False
    return True


def _chosen(held: Held, signature: Signature, where: str) -> tuple[dict[str, Value], list[str]]:
    found = {}
    for name in signature.inputs:
        for spelled in (str(OutputRef(signature.key, name)), f"{signature.key}/{name}", name):
            if spelled in held.named:
                found[name] = held.named[spelled]
                break
    notes: list[str] = []
    if len(signature.inputs) == 1:
        (only,) = signature.inputs
        unnamed = held.unnamed.get(signature.key, held.unnamed.get(None))
        # A classify or regress signature takes whole examples, whatever their features are called.
        if unnamed is not None and (only not in found or signature.called_by is not Method.PREDICT):
            found[only] = unnamed
        elif only not in found and held.table:
            joined, left = _numeric_columns(held)
            if joined is not None:
                _require_no_labels(held, left, only, signature.inputs[only], where)
                found[only] = joined
                notes += [f"columns left out, not being numbers: {', '.join(left)}"] if left else []
    if missing := [name for name in signature.inputs if name not in found]:
        spec = signature.inputs[missing[0]]
        wanted = ", ".join(repr(name) for name in signature.inputs)
        raise UsageError(
            where,
            f"{wanted} for the signature {signature.key}, {missing[0]!r} being {described(spec.dtype, spec.shape)}",
            held.described(),
            f"name the values as the signature's inputs, or `{signature.key}/{missing[0]}`; or {_OTHER}.",
        )
    return found, notes


def _numeric_columns(held: Held) -> tuple[Rows | None, list[str]]:
    columns = {name: value for name, value in held.named.items() if isinstance(value, Rows)}
    numeric = {name: column for name, column in columns.items() if all(map(_is_number, _cells(column)))}
    if not numeric:
        # Text for a text input: only where there is no choice.
        return (next(iter(columns.values())) if len(columns) == 1 else None), []
    joined = [
        [cell for part in parts for cell in part]
        for parts in zip(*(column.rows for column in numeric.values()), strict=True)
    ]
    return Rows(joined, text=True), [name for name in columns if name not in numeric]


def _require_no_labels(held: Held, left: list[str], name: str, spec: TensorSpec, where: str) -> None:
    """Raise UsageError where a column of labels may pass for one of an input's: one that takes rows of any width."""
    labels = [repr(column) for column in LABELS if column in held.named and column not in left]
    if labels and len(held.named) - len(left) > 1 and (spec.shape is None or None in spec.shape[1:]):
        found = f"any number of columns, {', '.join(labels)} among them"
        remedy = f"take it out of the file, or say which columns are the input's: call them {name}.0, {name}.1, …."
        raise UsageError(where, f"the columns of {name}, {described(spec.dtype, spec.shape)}", found, remedy)


def _cells(column: Rows) -> Iterator[str]:
    return (cell for row in column.rows for cell in row)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell


def _array(value: Value, spec: TensorSpec, where: str) -> Array:
    if isinstance(value, Rows):
        widths = {len(row) for row in value.rows}
        if len(widths) > 1:
            usual = len(value.rows[0])
            row = next(index for index, row in enumerate(value.rows) if len(row) != usual)
            found = f"{len(value.rows[row])} in row {row}"
            raise UsageError(where, f"as many values in every row, {usual}", found, f"complete the row, or {_OTHER}.")
        shape = (len(value.rows), *_row_shape(spec, widths.pop() if widths else 0, where))
        flat = [item for row in value.rows for item in row]
        if value.text:
            flat = cast.parsed(flat, spec.dtype, where, shape)
        return cast.untyped(flat, shape, spec.dtype, where)
    if isinstance(value, Nested):
        flat, shape = cast.flattened(value.value, where)
        return cast.untyped(flat, shape, spec.dtype, where)
    return cast.typed(value, spec.dtype, where)


def _row_shape(spec: TensorSpec, width: int, where: str) -> tuple[int, ...]:
    """Return the shape of one row of `width` values: the input's own, with at most one open dimension."""
    if spec.shape is None or len(spec.shape) == 0:
        return () if width == 1 else (width,)
    dims = spec.shape[1:]
    known = math.prod(size for size in dims if size is not None)
    if dims.count(None) == 1 and known and width % known == 0:
        return tuple(width // known if size is None else size for size in dims)
    if None in dims or known != width:
        expected = f"{described(spec.dtype, spec.shape)}, {known if None not in dims else 'some'} values a row"
        remedy = f"give one value for each element, in row-major order; or {_OTHER}."
        raise UsageError(where, expected, f"{width} values a row", remedy)
    return tuple(size for size in dims if size is not None)


def _require_rank(array: Array, spec: TensorSpec, where: str) -> None:
    if spec.shape is None or array.ndim == len(spec.shape):
        return
    remedy = "give it as many dimensions as the signature declares"
    if array.ndim == len(spec.shape) - 1:
        remedy = "add the batch dimension, also around a single row"
    raise UsageError(
        where, described(spec.dtype, spec.shape), described(dtype_name(array), array.shape), f"{remedy}; or {_OTHER}."
    )


def _require_shape(array: Array, spec: TensorSpec, where: str, *, free_batch: bool) -> None:
    wanted = spec.shape if spec.shape is not None else (None,) * array.ndim
    wrong = any(size not in (None, got) for size, got in list(zip(wanted, array.shape, strict=True))[int(free_batch) :])
    if wrong or array.size == 0:
        expected = described(spec.dtype, spec.shape) + ("" if wrong else " with at least one row")
        found = described(dtype_name(array), array.shape)
        raise UsageError(where, expected, found, f"give rows of that shape; or {_OTHER}.")


def described(dtype: str, shape: tuple[int | None, ...] | None) -> str:
    """`float32[?, 3]`."""
    sizes = "..." if shape is None else ", ".join("?" if size is None else str(size) for size in shape)
    return f"{dtype}[{sizes}]"


def _length(value: Value) -> int:
    if isinstance(value, Rows):
        return len(value.rows)
    if isinstance(value, Nested):
        return len(value.value) if isinstance(value.value, list) else 1
    return len(value) if value.ndim else 1


def keyed(signature: Signature, inputs: Tensors) -> Tensors:
    """Return the inputs under `signature/input`."""
    return tensor_file.keyed(signature.key, inputs)
