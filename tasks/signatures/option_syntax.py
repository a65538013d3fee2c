"""Syntax of tensors on the command line: `--input [ALIAS=]NAME[:shape[:dtype]]`, `--output [ALIAS=]NAME`, `--pin NAME=VALUE`.

NAME is a tensor (`x:0`) or an operation (`x`, its first output). A shape is `?,784`, `[None,784]` or, for a scalar, `[]`;
one bare number after a name is an output's index, so a vector's shape is `[3]` or `3,`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from tasks.errors import UsageError
from tasks.graphs import graph as graphs
from tasks.graphs.tensor_specs import PLACEHOLDERS, Specs
from tasks.records.signature import TensorSpec
from tasks.tensors import tensor_file
from tasks.tensors.tensor_type import Shape, agree, written

_FORM = "[ALIAS=]NAME[:shape[:dtype]]"
_ALIAS = re.compile(r"\w[\w.-]*")
_ANY = ("?", "None", "none", "-1", "*")


def named(specs: Specs, option: str, given: Iterable[str], stops: Collection[str] = ()) -> dict[str, TensorSpec]:
    """Return the tensors that `--input` or `--output` name, by alias, with the shapes that the user gave.

    `stops` are tensors whose values are given when these are computed.

    Raises:
        UsageError: there is no such tensor, it does not have that shape or dtype, or an alias is used twice.
    """
    found: dict[str, TensorSpec] = {}
    for text in given:
        alias, spec = _one(specs, option, text, stops)
        if alias and alias in found:
            raise UsageError(f"{option} {text}", "an alias of its own", f"{alias} twice", "choose another ALIAS=.")
        found[alias or alias_of(spec.tensor, found)] = spec
    return found


def alias_of(tensor: str, taken: Mapping[str, Any]) -> str:
    """Return the last part of an operation's name, made unique."""
    name, _, position = tensor.partition(":")
    name = name.removesuffix("/read")  # a variable is read under that name
    base = name.rpartition("/")[2] + (f"_{position}" if position not in ("", "0") else "")
    alias, number = base, 0
    while alias in taken:
        number += 1
        alias = f"{base}_{number}"
    return alias


def tensor(specs: Specs, option: str, text: str) -> str:
    """Return the tensor that an option names. Raises UsageError."""
    return _read(specs, f"{option} {text}", text)[1]


def _read(specs: Specs, where: str, text: str) -> tuple[str, str, list[str]]:
    """Return the alias, the tensor, and what follows its name."""
    alias, equals, rest = text.rpartition("=")
    if equals and not _ALIAS.fullmatch(alias):
        raise UsageError(where, f"{_FORM}, an ALIAS of letters and digits", repr(alias), "choose a simple ALIAS.")
    name, *parts = (part.strip() for part in rest.split(":"))
    if parts and parts[0].isdigit():
        name = f"{name}:{parts.pop(0)}"
    if len(parts) > 2 or not name:
        raise UsageError(where, _FORM, text, "for example: --input x=Placeholder:0:?,784:float32.")
    return alias, specs.named(name, where), parts


def _one(specs: Specs, option: str, text: str, stops: Collection[str]) -> tuple[str, TensorSpec]:
    where = f"{option} {text}"
    alias, tensor, parts = _read(specs, where, text)
    if option == "--input":
        _require_no_variable(specs, text, tensor, where)
    specs.infer([tensor], stops)
    spec = specs.spec(tensor)
    if len(parts) == 1 and _is_dtype(parts[0]):
        parts = ["", parts[0]]
    if len(parts) == 2 and parts[1] and parts[1] != spec.dtype:
        remedy = "leave the dtype out: it is the graph's to say."
        raise UsageError(where, f"{tensor}'s own dtype, {spec.dtype}", parts[1], remedy)
    if parts and parts[0]:
        shape = _shape(where, parts[0])
        if not agree(shape, spec.shape):
            remedy = "give a shape that the graph's own allows, or leave it out."
            raise UsageError(where, f"a shape that agrees with {written(spec.shape)}", written(shape), remedy)
        spec = spec.model_copy(update={"shape": _narrowed(shape, spec.shape)})
    return alias, spec


def _require_no_variable(specs: Specs, text: str, tensor: str, where: str) -> None:
    """Raise UsageError for a variable itself, whose value `tensor` is: an input in its place is rarely what is meant."""
    named = text.rpartition("=")[2].partition(":")[0].strip()
    if specs.nodes[named].op in graphs.VARIABLE_OPS:
        remedy = f"name what reads it: {tensor}." if tensor != f"{named}:0" else "name the tensor after it."
        raise UsageError(where, "a tensor", f"{named}, a variable itself", remedy)


def _is_dtype(text: str) -> bool:
    import tensorflow as tf

    try:
        tf.dtypes.as_dtype(text)
    except TypeError:
        return False
    return True


def _shape(where: str, text: str) -> tuple[int | None, ...]:
    inner = text.strip().removeprefix("[").removesuffix("]").removeprefix("(").removesuffix(")")
    sizes = [size.strip() for size in inner.split(",") if size.strip()]
    if any(size not in _ANY and not size.isdigit() for size in sizes):
        remedy = "write sizes with commas, `?` where any goes: ?,784 or [None,784]; [] for a scalar."
        raise UsageError(where, "a shape", repr(text), remedy)
    return tuple(None if size in _ANY else int(size) for size in sizes)


def _narrowed(given: tuple[int | None, ...], own: Shape) -> Shape:
    """Return the user's shape with the sizes that the graph fixes."""
    return given if own is None else tuple(b if a is None else a for a, b in zip(given, own, strict=True))


def pinned(specs: Specs, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of `--pin` by tensor, in the graph's dtype: numbers, booleans, text, or lists of them.

    Raises:
        UsageError: there is no such placeholder, or it cannot take the value.
    """
    found: dict[str, Any] = {}
    for name, value in given.items():
        where = f"--pin {name}={value}"
        tensor = specs.named(name, where)
        op = specs.nodes[tensor.partition(":")[0]].op
        if op not in (*PLACEHOLDERS, "PlaceholderWithDefault"):
            raise UsageError(where, "a placeholder", f"{tensor}, a {op}", "pin placeholders only.")
        if tensor in found:
            raise UsageError(where, "one value for each placeholder", f"two for {tensor}", "leave one out.")
        specs.infer([tensor])
        spec = specs.spec(tensor)
        array = _value(where, value, spec)
        if not agree(array.shape, spec.shape):
            shapes = f"a value of the shape {written(spec.shape)}"
            raise UsageError(where, shapes, written(array.shape), "write lists as JSON: --pin NAME=[1.0,2.0].")
        found[tensor] = array.tolist()
    return found


def _value(where: str, value: Any, spec: TensorSpec) -> Any:
    if isinstance(value, str) and spec.dtype != "string":
        lowered = value.strip().lower()
        try:
            value = json.loads(lowered)
        except ValueError:
            value = {"yes": True, "no": False, "on": True, "off": False}.get(lowered, value)
        if (
            isinstance(value, str)
            and spec.dtype != "bool"
            and re.fullmatch(r"[+-]?(\.\d+|\d+\.)([eE][+-]?\d+)?|\+\d.*", lowered)
        ):
            value = float(lowered)
    kinds = {"bool": "b", "string": "U"}.get(spec.dtype, "iu" if "int" in spec.dtype else "iuf")
    try:
        array = np.asarray(value)
        if spec.dtype == "bool" and array.dtype.kind in "iu" and np.isin(array, (0, 1)).all():
            array = array.astype(bool)
        right = array.dtype.kind in kinds
        if right and spec.dtype not in ("bool", "string"):
            narrow = array.astype(tensor_file.numpy_dtype(spec.dtype))
            right = "int" not in spec.dtype or bool((narrow.astype(object) == array.astype(object)).all())
    except (ValueError, TypeError, OverflowError):
        right = False
    if not right:
        raise UsageError(
            where, f"a {spec.dtype} for {spec.tensor}", repr(value), "give a value of the placeholder's dtype."
        )
    return array
