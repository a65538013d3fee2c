"""tf.Examples as TensorFlow Serving's REST API writes them for classify and regress, serialized. Runs in a child."""

from __future__ import annotations

from typing import Any

from tasks.errors import UsageError
from tasks.probe.tfrecords import objects
from tasks.tensors.tensor_file import Array


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
