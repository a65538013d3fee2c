"""Which Keras builds a file: Keras 3, or Keras 2 as the package `tf_keras`, as which it lives on. Runs in a child.

The two have classes of the same names that differ: an LSTM's weights, a DepthwiseConv2D's arguments, wrappers of
TensorFlow's functions. So a file is built by the Keras that wrote it, by the version in the file.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from tasks.forms.keras import archive_check


def of_file(path: Path) -> Any:
    """Return the module of the Keras that builds a file: `keras`, or `tf_keras` for what Keras 1 or 2 wrote."""
    return keras_3() if archive_check.version(path).startswith("3") else keras_2()


def keras_3() -> Any:
    """Import Keras 3."""
    import keras

    return keras


def keras_2() -> Any:
    """Import Keras 2, which then is `tf.keras` too: for a process that opens no other Keras model."""
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import tf_keras

    return tf_keras


def of_object(model: Any) -> Any | None:
    """Return the module of the Keras whose layer or model an object is; None if it is none."""
    for name in ("keras", "tf_keras"):
        library = sys.modules.get(name)
        if library is not None and isinstance(model, library.layers.Layer):
            return library
    return None


def weights_of(layer: Any) -> list[tuple[str, Any]]:
    """Return the weights of a layer or model with their names, as tf.Variables. Vocabularies of Keras 2 are none."""
    import tensorflow as tf

    if of_object(layer) is sys.modules.get("tf_keras"):
        return [(one.name.removesuffix(":0"), one) for one in layer.weights if isinstance(one, tf.Variable)]
    return [(one.path, one.value) for one in layer.weights]


def described(library: Any) -> str:
    """Return the name and version of a Keras, for a message: `Keras 2 (tf_keras 2.21.0)`."""
    return (
        f"Keras {library.__version__}" if library.__name__ == "keras" else f"Keras 2 (tf_keras {library.__version__})"
    )
