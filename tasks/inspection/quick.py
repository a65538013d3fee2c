"""A quick look at what TensorFlow saved: from indexes, protos and headers alone, without TensorFlow.

What only TensorFlow's registry of ops can tell is left to `inspect`: guesses of inputs and outputs, and whether ops are
known, harmless and have kernels. No tensor is read. Runs in a fork.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.errors import DamagedError
from tasks.forms import checkpoint_table, detect
from tasks.graphs import protos
from tasks.inspection import collections
from tasks.inspection.files import found_at, of_keras, role, said
from tasks.records.adoption import Found, Proposal
from tasks.records.forms import Form
from tasks.records.inspection import Inspection, TensorRow
from tasks.records.signature import Method, Signature, TensorSpec

_MOST_BYTES = 64 * 2**20  # of a graph: larger ones hold constants, not headers
_NAMES = {"float": "float32", "double": "float64", "half": "float16"}
_REFERENCE = 100  # DT_FLOAT_REF = DT_FLOAT + 100 (tensorflow/core/framework/types.proto)


def quick(path: Path, step: int | None) -> Inspection:
    """Return what a quick look shows. Raises as `inspect.inspect`."""
    damage: list[str] = []
    found = found_at(path, step, damage)
    if found is None:
        return Inspection(path=str(path), form=None, whole=False, damage=tuple(damage))
    protos.import_alone()
    looked: dict[str, Any] = {"notes": found.notes}
    try:
        looked |= of_keras(found, damage) if found.form.of_keras else _of_graph(found)
    except DamagedError as error:
        damage.append(said(error))
    rows: list[TensorRow] = []
    try:
        rows += _tensors(found)
    except DamagedError as error:
        damage += [one for one in (said(error),) if one not in damage]
    return Inspection(
        path=str(found.path),
        form=found.form,
        chosen=found.chosen,
        available=found.available,
        files=found.files,
        variables=tuple(sorted(rows, key=lambda row: row.name)),
        damage=tuple(damage),
        whole=False if damage else None,
        **looked,
    )


def _tensors(found: Found) -> Iterator[TensorRow]:
    if found.form.of_keras:
        from tasks.inspection import stored_tensors

        yield from stored_tensors.of_keras(found.path, found.form, read=False, values=False).rows
        return
    prefix = found.path / "variables" / "variables" if found.form is Form.SAVED_MODEL else found.path
    index = prefix.with_name(f"{prefix.name}.index")
    if index.is_file():
        shards = checkpoint_table.shard_sizes(index)
        for key, entry in checkpoint_table.entries(index):
            checkpoint_table.require_bytes(index, key, entry, shards)
            yield _row(key, entry.dtype, entry.shape, None if entry.sliced else entry.size)
    elif found.form is Form.SAVER_V1:
        for table in found.files:
            if checkpoint_table.is_table(table):
                for key, dtype, shape in checkpoint_table.v1_tensors(table):
                    size = checkpoint_table.ITEM_BYTES.get(dtype)
                    yield _row(key, dtype, shape, size and size * math.prod(shape))


def _row(key: str, dtype: int, shape: tuple[int, ...], size: int | None) -> TensorRow:
    return TensorRow(name=key, dtype=_dtype(dtype), shape=shape, bytes=size, role=role(key))


def _dtype(number: int) -> str:
    """Return TensorFlow's name of a DataType."""
    from tensorflow.core.framework import types_pb2

    try:
        name = types_pb2.DataType.Name(number % _REFERENCE).removeprefix("DT_").lower()
    except ValueError:
        return f"dtype {number}"
    return _NAMES.get(name, str(name))


def _of_graph(found: Found) -> dict[str, Any]:
    file = found.meta if found.form.of_saver else found.path
    if found.form is Form.SAVED_MODEL:
        file = next((found.path / name for name in detect.SAVED_MODEL if (found.path / name).is_file()), None)
    if file is None or found.form is Form.OBJECT_CHECKPOINT:
        return {}
    if (size := file.stat().st_size) > _MOST_BYTES:
        note = f"{file.name} has {size >> 20} MiB: it is looked at without --quick"
        return {"notes": (*found.notes, note)}
    metas = _parsed(file, found.form)
    if metas is None:
        return {"notes": (*found.notes, f"{file.name} is in text form: it is looked at without --quick")}
    if not metas:
        raise DamagedError(str(file), "a graph", "none", "restore it from a backup.")
    meta = next((one for one in metas if set(one.meta_info_def.tags) == {"serve"}), metas[0])
    told: dict[str, Any] = {
        "written_by": meta.meta_info_def.tensorflow_version,
        "producer": meta.graph_def.versions.producer,
        "collections": {
            key: tuple(collections.entries(key, held)) for key, held in sorted(meta.collection_def.items())
        },
        "hyperparameters": collections.hyperparameters(meta.collection_def),
    }
    if len(metas) > 1:
        tags = "; ".join(",".join(sorted(one.meta_info_def.tags)) or "-" for one in metas)
        told["notes"] = (*found.notes, f"{len(metas)} MetaGraphs: {tags}")
    declared = tuple(_signatures(meta.signature_def))
    return told | ({"proposal": Proposal(declared=declared)} if declared else {})


def _parsed(file: Path, form: Form) -> list[Any] | None:
    """Return the MetaGraphDefs in a file; None for one in text form."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.framework import graph_pb2
    from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

    content = file.read_bytes()
    try:
        if form is Form.SAVED_MODEL:
            return list(saved_model_pb2.SavedModel.FromString(content).meta_graphs)
        if form is Form.GRAPH_DEF:
            return [meta_graph_pb2.MetaGraphDef(graph_def=graph_pb2.GraphDef.FromString(content))]
        return [meta_graph_pb2.MetaGraphDef.FromString(content)]
    except DecodeError:
        if content[:1].isalpha() or content[:1] in (b"#", b"\n", b" "):
            return None
        raise DamagedError(str(file), "a graph", "bytes that do not parse", "restore it from a backup.") from None


def _signatures(definitions: Mapping[str, Any]) -> Iterator[Signature]:
    """Yield the signatures that are declared, as far as they are of dense tensors."""
    for key in sorted(definitions):
        one = definitions[key]
        infos = [*one.inputs.values(), *one.outputs.values()]
        if (
            key.startswith("__saved_model")
            or not one.outputs
            or any(info.WhichOneof("encoding") != "name" for info in infos)
        ):
            continue
        method = Method(one.method_name) if one.method_name in set(Method) else Method.PREDICT
        yield Signature(key=key, method=method, inputs=_specs(one.inputs), outputs=_specs(one.outputs))


def _specs(infos: Mapping[str, Any]) -> dict[str, TensorSpec]:
    def spec(info: Any) -> TensorSpec:
        shape = info.tensor_shape
        sizes = None if shape.unknown_rank else tuple(None if dim.size < 0 else dim.size for dim in shape.dim)
        return TensorSpec(tensor=info.name, dtype=_dtype(info.dtype), shape=sizes)

    return {name: spec(infos[name]) for name in sorted(infos)}
