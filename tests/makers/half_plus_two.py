"""The smallest SavedModel with a variable: y = x / 2 + 2, by TensorFlow alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def write_half_plus_two(folder: Path) -> None:
    """In a child."""
    import tensorflow as tf

    class HalfPlusTwo(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            self.a, self.b = tf.Variable(0.5), tf.Variable(2.0)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])  # type: ignore[untyped-decorator]
        def predict(self, x: Any) -> Any:
            return {"y": self.a * x + self.b}

    module = HalfPlusTwo()
    tf.saved_model.save(module, str(folder), signatures=module.predict)
