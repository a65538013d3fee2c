"""Values from a file as an array of the dtype that an input wants, or an error that names the first that cannot be.

Arrays that have a dtype are cast only where every value stays what it was. Numbers written as text have none: they
are rounded to the float type that is wanted, as TensorFlow Serving's REST API does, but never to an infinity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tasks.errors import UsageError
from tasks.tensors.tensor_file import Array, dtype_name, numpy_dtype

_MAX_RANK = 32
_BOOLS = {"true": True, "false": False, "1": True, "0": False}


def flattened(value: Any, where: str) -> tuple[list[Any], tuple[int, ...]]:
    """Lists in lists as their items in row-major order and their shape. Raises UsageError where it is ragged."""
    level: list[Any] = [value]
    shape: tuple[int, ...] = ()
    while level and isinstance(level[0], list) and len(shape) < _MAX_RANK:
        size = len(level[0])
        for position, item in enumerate(level):
            if not isinstance(item, list) or len(item) != size:
                got = f"{len(item)} values" if isinstance(item, list) else f"{_shown(item)}"
                raise UsageError(
                    f"{where}{_at(position, shape)}",
                    f"a list of {size} values, as before it",
                    got,
                    "give lists of equal length: nothing is padded.",
                )
        level = [inner for item in level for inner in item]
        shape = (*shape, size)
    for position, item in enumerate(level):
        if isinstance(item, (list, dict)):
            found = "a list" if isinstance(item, list) else f"an object with {', '.join(map(repr, list(item)[:5]))}"
            remedy = "give lists of equal depth; bytes are written {'b64': '…'}."
            raise UsageError(f"{where}{_at(position, shape)}", "a value", found, remedy)
    return level, shape


def parsed(cells: Sequence[str], dtype: str, where: str, shape: tuple[int, ...]) -> list[Any]:
    """Cells of a CSV as values for `dtype`. Raises UsageError for the first that is none."""
    if dtype == "string":
        return list(cells)
    read: Callable[[str], Any] = _bool if dtype == "bool" else _number
    values = []
    for position, cell in enumerate(cells):
        try:
            values.append(read(cell.strip()))
        except (ValueError, KeyError):
            at = f"{where}{_at(position, shape)}"
            raise UsageError(at, f"a {dtype}", repr(cell[:60]), "correct the cell; nothing is filled in.") from None
    return values


def _bool(cell: str) -> bool:
    return _BOOLS[cell.lower()]


def _number(cell: str) -> int | float:
    if "_" in cell:
        raise ValueError(cell)  # Python reads 1_0 as ten
    try:
        return int(cell)
    except ValueError:
        return float(cell)


def untyped(flat: list[Any], shape: tuple[int, ...], dtype: str, where: str) -> Array:
    """Items without a dtype (of JSON, a CSV, a tf.Example) as an array. Raises UsageError for the first misfit."""
    kinds = (bytes, str) if dtype == "string" else (bool,) if dtype == "bool" else (int, float)
    for position, item in enumerate(flat):
        if not isinstance(item, kinds) or (isinstance(item, bool) and dtype != "bool"):
            raise _misfit(where, position, shape, dtype, item)
    if dtype == "string":
        array = np.empty(len(flat), dtype=object)
        array[:] = flat
    elif dtype == "bool":
        array = np.array(flat, dtype=bool)
    else:
        array = _numbers(flat, shape, dtype, where)
    return typed(array.reshape(shape), dtype, where, rounding=True)


def _numbers(flat: list[Any], shape: tuple[int, ...], dtype: str, where: str) -> Array:
    whole = [int(item) if isinstance(item, float) and item.is_integer() else item for item in flat]
    # As integers where they are: a float64 would round those above 2**53.
    wide = (np.int64, np.uint64) if all(isinstance(item, int) for item in whole) else ()
    for candidate in wide:
        try:
            array = np.array(whole, dtype=candidate)
        except OverflowError:
            continue
        negative_zero = any(isinstance(item, float) and item == 0 for item in flat)
        return np.array(flat, dtype=np.float64) if negative_zero and "float" in dtype else array
    try:
        return np.array(flat, dtype=np.float64)
    except OverflowError:
        position = next(index for index, item in enumerate(flat) if abs(item) >= 2**1023)
        raise _misfit(where, position, shape, dtype, flat[position]) from None


def typed(array: Array, dtype: str, where: str, *, rounding: bool = False) -> Array:
    """`array` cast to the dtype of that name.

    With `rounding`, floats may lose digits, but no finite one its finiteness.

    Raises:
        UsageError: the cast would change a value; it names the first.
    """
    if dtype == "string":
        return _strings(array, where)
    try:
        target = numpy_dtype(dtype)
    except (TypeError, AttributeError):
        remedy = "name another tensor as input."
        raise UsageError(where, "an input of a dtype that a file can hold", dtype, remedy) from None
    if not _numeric(array.dtype):
        remedy = "save numbers (`array.astype(…)`), without pickled, structured or text types."
        raise UsageError(where, dtype, f"{dtype_name(array)}{list(array.shape)}", remedy)
    if array.dtype == target:
        return np.ascontiguousarray(array).reshape(array.shape)
    with np.errstate(all="ignore"):
        # numpy warns where an imaginary part is lost; whether one is, is asked below.
        cast = (array.real if array.dtype.kind == "c" and target.kind != "c" else array).astype(target)
        kept = _kept(array, cast, rounding)
    if not kept.all():
        position = int(np.argmin(kept.ravel()))
        raise _misfit(where, position, array.shape, dtype, array.ravel()[position], array.dtype.name)
    return cast


def _kept(array: Array, cast: Array, rounding: bool) -> Array:
    """Return the places where a cast kept the value."""
    source, target = array.dtype.kind, cast.dtype.kind
    if target == "b":
        return np.asarray((array == 0) | (array == 1))
    if target in "iu":
        if source == "c":
            return np.asarray((array.imag == 0) & _within(array.real, cast.dtype))
        return _within(array, cast.dtype)
    if source == "c" and target != "c":
        return np.asarray((array.imag == 0) & _same_float(array.real, cast, rounding))
    return _same_float(array, cast, rounding)


def _within(array: Array, target: np.dtype[Any]) -> Array:
    info = np.iinfo(target)
    if array.dtype.kind in "biu":
        return np.asarray((array >= info.min) & (array <= info.max))
    wide = array.astype(np.float64)
    # float(info.max) rounds up to a power of two for the 64-bit types, which is the first that does not fit.
    return np.asarray((wide == np.trunc(wide)) & (wide >= float(info.min)) & (wide < float(info.max // 2 + 1) * 2))


def _same_float(array: Array, cast: Array, rounding: bool) -> Array:
    if rounding:
        return np.asarray(_finite(array) == _finite(cast))
    if array.dtype.kind in "iu":
        wide = cast.astype(np.complex128).real
        return np.asarray((np.abs(wide) < 2.0**63) & (wide.astype(np.int64) == array))
    back = (cast.real if cast.dtype.kind == "c" and array.dtype.kind != "c" else cast).astype(array.dtype)
    return np.asarray((back == array) | ((array != array) & (back != back)))


def _finite(array: Array) -> Array:
    # ml_dtypes' own types know no complex; float128 and complex fit into complex128 as far as finiteness goes.
    return np.asarray(np.isfinite(array.astype(np.complex128)))


def _strings(array: Array, where: str) -> Array:
    if array.dtype.kind not in "OSU":
        remedy = "give strings, or name another tensor as input."
        raise UsageError(where, "string", f"{dtype_name(array)}{list(array.shape)}", remedy)
    encoded = np.empty(array.size, dtype=object)
    for position, item in enumerate(array.ravel().tolist()):
        try:
            encoded[position] = item.encode() if isinstance(item, str) else bytes(item)
        except UnicodeEncodeError:
            at = f"{where}{_at(position, array.shape)}"
            raise UsageError(at, "text", "half a surrogate pair", "write bytes as {'b64': '…'}.") from None
    return encoded.reshape(array.shape)


def _numeric(dtype: np.dtype[Any]) -> bool:
    # ml_dtypes' types (bfloat16) are of kind V, like raw bytes, which numpy makes of them on disk.
    return dtype.kind in "biufc" or (dtype.kind == "V" and dtype.type is not np.void)


def _misfit(
    where: str, position: int, shape: tuple[int, ...], dtype: str, item: Any, source: str | None = None
) -> UsageError:
    found = _shown(item) + (f" ({source})" if source else "")
    remedies = "give values that this dtype holds" + (
        f", or round them first: `array.astype({dtype!r})`" if source else ""
    )
    return UsageError(f"{where}{_at(position, shape)}", f"a {dtype}", found, f"{remedies}.")


def _at(position: int, shape: tuple[int, ...]) -> str:
    if not shape or 0 in shape:
        return ""
    index = [int(i) for i in np.unravel_index(position, shape)]
    return f", row {index[0]}" + (f", element {index[1:]}" if len(index) > 1 else "")


def _shown(item: Any) -> str:
    if isinstance(item, (str, bytes)):
        return repr(item[:60])
    if item is None:
        return "null"
    if isinstance(item, int) and not isinstance(item, bool) and abs(item) >= 2**1023:
        return "an integer beyond every dtype"
    return str(item)[:60]
