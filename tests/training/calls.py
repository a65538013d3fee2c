"""Calls that tests make in children."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.forms import saver


def tensor(prefix: Path, key: str) -> list[float]:
    """One tensor of a checkpoint."""
    values: list[float] = saver.read(saver.reader(prefix), key, prefix).tolist()
    return values


def tensors(prefix: Path) -> dict[str, Any]:
    """Every tensor of a checkpoint."""
    reader = saver.reader(prefix)
    return {key: saver.read(reader, key, prefix).tolist() for key in reader.get_variable_to_shape_map()}


def change_constant(folder: Path, name: str, numbers: list[float]) -> None:
    """Give a constant of a SavedModel other numbers."""
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    path = folder / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    (node,) = [node for node in model.meta_graphs[0].graph_def.node if node.name == name]
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(numbers, dtype=tf.float32))
    path.unlink()
    path.write_bytes(model.SerializeToString(deterministic=True))
