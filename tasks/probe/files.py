"""Files of inputs, read by what they hold and not by what they are called: npz, npy, JSON, CSV, TFRecord.

Nothing is unpickled. JSON has the shapes of TensorFlow Serving's REST API (tensorflow_serving/g3doc/api_rest.md).
"""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tasks.errors import UsageError
from tasks.probe import tfrecords
from tasks.probe.fit import Held, Nested, Rows, Value
from tasks.probe.tfrecords import objects
from tasks.records.signature import OutputRef
from tasks.tensors.tensor_file import Array

_KINDS = "npz, npy, JSON, CSV with a header, or a TFRecord of tf.Example, PredictRequest or PredictionLog"
_REST = {"signature_name", "instances", "inputs", "examples", "context"}


def held(file: Path) -> Held:
    """Read a file of inputs.

    Raises:
        UsageError: there is no such file, its format is unknown, or it is broken.
    """
    where = file.name
    if not file.is_file():
        found = "a folder" if file.is_dir() else "none"
        raise UsageError(str(file), f"a file of inputs: {_KINDS}", found, "give the path of a file.")
    with file.open("rb") as stream:
        head = stream.read(16)
    if not head:
        raise UsageError(where, f"a file of inputs: {_KINDS}", "an empty file", "give a file with at least one row.")
    if head.startswith(b"PK\x03\x04"):
        return _npz(file, where)
    if head.startswith(b"\x93NUMPY"):
        return Held("npy", {}, {None: _numpy(lambda: np.load(file, allow_pickle=False), where)})
    if tfrecords.looks_like_records(head, file.stat().st_size):
        return tfrecords.held(file, where)
    return _text(file.read_bytes(), where)


def _npz(file: Path, where: str) -> Held:
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise _broken(where, error) from None
    with archive:
        names = [name for name in archive.namelist() if name.endswith(".npy")]
        if not names:
            found = ", ".join(archive.namelist()[:5]) or "nothing"
            raise UsageError(where, "arrays, as numpy.savez writes them", f"a zip archive with {found}", _remedy())
        arrays: dict[str, Array] = {}
        for name in names:
            arrays[name.removesuffix(".npy")] = _numpy(partial(_member, archive, name), f"{where}, {name}")
    if list(arrays) == ["arr_0"]:  # savez's name for an array without one
        return Held("npz", {}, {None: arrays["arr_0"]})
    return Held("npz", arrays)


def _member(archive: zipfile.ZipFile, name: str) -> Any:
    with archive.open(name) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def _numpy(load: Callable[[], Any], where: str) -> Array:
    try:
        array: Array = load()
    # numpy and zipfile raise what the bytes provoke: TokenError, zlib.error, RecursionError, NotImplementedError, …
    except Exception as error:
        if "pickle" in str(error) or "Object arrays" in str(error):
            remedy = "save arrays of numbers, or strings as dtype `S` or `U`: pickles can run code and are never read."
            raise UsageError(where, "an array of numbers or strings", "pickled Python objects", remedy) from None
        raise _broken(where, error) from None
    return array


def _text(content: bytes, where: str) -> Held:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        found = f"bytes that begin with {content[:8].hex(' ')}"
        raise UsageError(where, f"a file of inputs: {_KINDS}", found, _remedy()) from None
    if text.lstrip()[:1] in ("{", "["):
        try:
            return _json(json.loads(text, object_hook=_bytes), where)
        except (ValueError, RecursionError) as error:
            found = f"{type(error).__name__}: {str(error)[:200]}"
            raise UsageError(where, "JSON", found, "correct the file at that place.") from None
    return _csv(text, where)


def _bytes(decoded: dict[str, Any]) -> Any:
    """Bytes where JSON says `{"b64": "…"}`."""
    if decoded.keys() == {"b64"} and isinstance(decoded["b64"], str):
        return base64.b64decode(decoded["b64"], validate=True)
    return decoded


def _json(document: Any, where: str) -> Held:
    if isinstance(document, list):
        return _instances(document, None, where)
    if isinstance(document, bytes):
        raise UsageError(where, "rows", "one string", 'write a list of rows: [{"b64": "…"}].')
    if document.keys() <= _REST and document.keys() & {"instances", "inputs", "examples"}:
        return _request(document, where)
    named: dict[str, Value] = {}
    alone: dict[str | None, Value] = {}
    for key, value in document.items():
        if isinstance(value, dict) and value.keys() == {"examples"} and _are_features(value["examples"]):
            alone[key] = serialized(value["examples"], None, f"{where}, {key}")
        elif isinstance(value, dict):
            named |= {str(OutputRef(key, name)): Nested(inner) for name, inner in value.items()}
        else:
            named[key] = Nested(value)
    return Held("JSON", named, alone)


def _are_features(rows: Any) -> bool:
    return isinstance(rows, list) and bool(rows) and all(isinstance(row, dict) for row in rows)


def _request(document: Mapping[str, Any], where: str) -> Held:
    key = document.get("signature_name")
    if key is not None and not isinstance(key, str):
        raise UsageError(f"{where}, signature_name", "a string", type(key).__name__, "name a signature.")
    bodies = [name for name in ("instances", "inputs", "examples") if name in document]
    if len(bodies) > 1:
        raise UsageError(where, "one of instances, inputs, examples", ", ".join(bodies), "keep one of them.")
    body = document[bodies[0]]
    if bodies == ["inputs"]:
        if isinstance(body, dict):
            return Held("JSON", {_under(key, name): Nested(value) for name, value in body.items()})
        return Held("JSON", {}, {key: Nested(body)})
    if not isinstance(body, list):
        raise UsageError(f"{where}, {bodies[0]}", "a list of rows", type(body).__name__, "write one item for each row.")
    if bodies == ["instances"]:
        return _instances(body, key, where)
    return Held("JSON", {}, {key: serialized(body, document.get("context"), where)})


def _instances(rows: list[Any], key: str | None, where: str) -> Held:
    if not rows:
        raise UsageError(where, "at least one row", "an empty list", "give a file with at least one row.")
    if not any(isinstance(row, dict) for row in rows):
        return Held("JSON", {}, {key: Nested(rows)})
    names = list(rows[0]) if isinstance(rows[0], dict) else []
    for position, row in enumerate(rows):
        if not isinstance(row, dict) or row.keys() != set(names):
            got = ", ".join(map(repr, row)) if isinstance(row, dict) else f"a {type(row).__name__}"
            expected = f"an object with {', '.join(map(repr, names))}" if names else "a value, as in the first row"
            remedy = "give every row the same names: nothing is filled in."
            raise UsageError(f"{where}, row {position}", expected, got or "no names", remedy)
    return Held("JSON", {_under(key, name): Nested([row[name] for row in rows]) for name in names})


def _under(key: str | None, name: str) -> str:
    return name if key is None else str(OutputRef(key, name))


def _csv(text: str, where: str) -> Held:
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(",;\t", key=first.count)
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if row]
    except csv.Error as error:
        raise UsageError(where, "CSV", str(error), "correct the quotes, or write another kind of file.") from None
    if len(rows) < 2:
        raise UsageError(where, f"a file of inputs: {_KINDS}", f"{len(rows)} lines of text", _remedy())
    header = [name.strip() for name in rows[0]]
    if len(set(header)) != len(header) or not all(header):
        found = "a name twice, or none, in the first line"
        raise UsageError(f"{where}, header", "one name for each column", found, "name the columns in the first line.")
    for position, row in enumerate(rows[1:]):
        if len(row) != len(header):
            expected = f"{len(header)} cells, as in the header"
            raise UsageError(f"{where}, row {position}", expected, str(len(row)), "complete the row.")
    columns = {name: Rows([[row[index]] for row in rows[1:]], text=True) for index, name in enumerate(header)}
    return Held("CSV", _gathered(columns, where), table=True)


def _gathered(columns: dict[str, Rows], where: str) -> dict[str, Rows]:
    """Columns `x.0`, `x.1`, … made one input `x`, in the order of their numbers."""
    parts: dict[str, dict[int, Rows]] = {}
    named: dict[str, Rows] = {}
    for name, column in columns.items():
        match = re.fullmatch(r"(.+)\.(\d{1,9})", name, re.ASCII)
        if match:
            parts.setdefault(match[1], {})[int(match[2])] = column
        else:
            named[name] = column
    for name, numbered in parts.items():
        if sorted(numbered) != list(range(len(numbered))) or name in named:
            expected = f"columns {name}.0 to {name}.{len(numbered) - 1}"
            found = ", ".join(f"{name}.{number}" for number in sorted(numbered)[:8])
            remedy = "number an input's columns from 0, without gaps."
            raise UsageError(f"{where}, header", expected, found + (f", {name}" if name in named else ""), remedy)
        ordered = [numbered[number].rows for number in range(len(numbered))]
        named[name] = Rows([[cell for (cell,) in cells] for cells in zip(*ordered, strict=True)], text=True)
    return named


def _broken(where: str, error: Exception) -> UsageError:
    found = f"{type(error).__name__}: {str(error)[:200]}"
    return UsageError(where, "a complete array, as numpy writes it", found, "write the file again.")


def _remedy() -> str:
    return "write the inputs with numpy.savez(file, NAME=array, …), or in one of the other kinds."


def serialized(rows: list[Any], context: Any, where: str) -> Array:
    """Serialized tf.Examples of one object of features a row, with the features of `context` in each. Raises UsageError."""
    import tensorflow as tf

    encoded = []
    for position, row in enumerate(rows):
        at = f"{where}, row {position}"
        if not isinstance(row, dict) or not isinstance(context, (dict, type(None))):
            raise UsageError(at, "an object of features", type(row).__name__, 'write {"feature": [values], …}.')
        features = {name: _feature(value, f"{at}, {name}") for name, value in ((context or {}) | row).items()}
        encoded.append(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    return objects(encoded)


def _feature(value: Any, where: str) -> Any:
    import tensorflow as tf

    values = value if isinstance(value, list) else [value]
    try:
        if all(isinstance(item, (str, bytes)) for item in values):
            texts = [item.encode() if isinstance(item, str) else item for item in values]
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=texts))
        if all(isinstance(item, int) and not isinstance(item, bool) for item in values):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        if all(isinstance(item, (int, float)) and not isinstance(item, bool) for item in values):
            return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    except (ValueError, OverflowError, TypeError) as error:
        raise UsageError(where, "values of a feature", str(error)[:200], "give values that fit.") from None
    found = ", ".join(sorted({type(item).__name__ for item in values}))
    raise UsageError(where, "strings, or integers, or floats", found, "give one kind of value in a feature.")
