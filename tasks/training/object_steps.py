"""Training steps of live objects: one update, one evaluation, and the state from which training resumes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tasks.errors import PipelineError
from tasks.training.multi_worker import Workers
from tasks.user_code.model import Objects


def step_of(built: Objects, workers: Workers | None = None) -> Any:
    """Return the function that trains on a batch, or None; with `workers`, it trains on all of them together."""
    if built.train_step is not None:
        return workers.step(built.train_step) if workers else built.train_step
    if not _compiled(built.module):
        return None
    if workers is None:
        return _keras_step(built.module, lambda batch: built.module.train_on_batch(**batch, return_dict=True))
    shared = workers.step(lambda batch: built.module.train_step(_in_order(batch)))

    def step(batch: Mapping[str, Any]) -> Mapping[str, Any]:
        reported = shared(batch)
        # A metric need not be a mean over rows, and so not a mean over workers: Keras sums its state over all of them.
        metrics = built.module.get_metrics_result()
        return {**reported, **{name: value for name, value in metrics.items() if name in reported}}

    return _keras_step(built.module, step)


def evaluation_of(built: Objects, workers: Workers | None = None) -> Any:
    """Return the function that evaluates the validation batch, or None; each of the `workers` evaluates all of it."""
    import tensorflow as tf

    if built.evaluate is not None:
        return workers.evaluation(built.evaluate) if workers else built.evaluate
    if not _compiled(built.module):
        return None
    if workers is None:
        return _keras_step(built.module, lambda batch: built.module.test_on_batch(**batch, return_dict=True))
    tested = tf.function(lambda batch: built.module.test_step(_in_order(batch)))
    return _keras_step(built.module, workers.evaluation(tested))


def state(built: Objects) -> dict[str, Any]:
    """Return the state from which training resumes, by name: module, optimisers, Keras' random and metric state."""
    import keras

    found: dict[str, Any] = {f"trackable_{name}": one for name, one in built.trackables.items()}
    if built.module is not None:
        found["module"] = built.module
    if isinstance(built.module, keras.Model):
        found["keras_state"] = [variable.value for variable in built.module.variables]
        if _compiled(built.module):
            found["optimizer"] = built.module.optimizer
    for name, one in list(found.items()):
        if isinstance(one, keras.optimizers.Optimizer):
            # An optimiser creates its slots at its first step: after a restore, that is too late.
            if not one.built and getattr(built.module, "trainable_variables", None):
                one.build(built.module.trainable_variables)
            found[f"{name}_state"] = [variable.value for variable in one.variables]
    return found


def _compiled(module: Any) -> bool:
    import keras

    return isinstance(module, keras.Model) and bool(module.compiled)


def _in_order(batch: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return a batch in the order of Keras' own steps."""
    return batch["x"], batch.get("y"), batch.get("sample_weight")


def _keras_step(module: Any, take: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Any:
    def step(batch: Mapping[str, Any]) -> Mapping[str, Any]:
        if set(batch) - {"x", "y", "sample_weight"} or "x" not in batch:
            raise PipelineError(
                "batches()",
                "x, y and sample_weight, as in Keras",
                ", ".join(batch),
                "rename them, or give a train_step.",
            )
        module.reset_metrics()  # the metrics of this batch, not an average since the last reset
        return take(batch)

    return step
