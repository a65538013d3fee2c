"""What TensorFlow itself answers for a written model. Imported in children too: it needs nothing of the flow, nor Prefect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def answers_in(written: Path) -> dict[str, Any]:
    """What TensorFlow's own session answered when it wrote the model."""
    with np.load(written / "answers.npz") as held:
        return {name.replace("|", "/"): held[name] for name in held.files}


def answers_of_saved_model(folder: Path, probe: Path, out: Path) -> None:
    """In a child: what a SavedModel answers by TensorFlow's own loader, as `answers.npz` has it."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(folder))
    answers: dict[str, Any] = {}
    with np.load(probe / "probe.npz") as held:
        given = {name: held[name] for name in held.files}
    for key, function in loaded.signatures.items():
        inputs = {name: given.get(f"{key}/{name}", given.get(name)) for name in function.structured_input_signature[1]}
        found = function(**{name: tf.constant(rows) for name, rows in inputs.items()})
        answers |= {f"{key}|{name}": tensor.numpy() for name, tensor in found.items()}
    np.savez(out / "answers.npz", **answers)
