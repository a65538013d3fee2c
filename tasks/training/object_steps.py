"""Training steps of live objects: one update, one evaluation, and the state that training goes on from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tasks.errors import PipelineError
from tasks.training.multi_worker import Workers
from tasks.user_code.model import Objects


def step_of(built: Objects, workers: Workers | None = None) -> Any:
    """What takes a batch and trains, or None; on all of the `workers` at once where there are several."""
    if built.train_step is not None:
        return workers.step(built.train_step) if workers else built.train_step
    if not _compiled(built.module):
        return None
    if workers is None:
        return _keras_step(built.module, lambda batch: built.module.train_on_batch(**batch, return_dict=True))
    shared = workers.step(lambda batch: built.module.train_step(_in_order(batch)))

    def step(batch: Mapping[str, Any]) -> Mapping[str, Any]:
        said = shared(batch)
        # Of metrics that are no mean over rows, the mean over workers is not the value: their sums come from all.
        return {**said, **{name: value for name, value in built.module.get_metrics_result().items() if name in said}}

    return _keras_step(built.module, step)


def evaluation_of(built: Objects, workers: Workers | None = None) -> Any:
    """What takes the validation batch and measures, or None; every one of the `workers` measures the whole."""
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
    """Everything that training goes on from, by name: the module, optimisers, and Keras' random and metric state."""
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
            # An optimiser makes its slots at its first step, which after a restore would be too late.
            if not one.built and getattr(built.module, "trainable_variables", None):
                one.build(built.module.trainable_variables)
            found[f"{name}_state"] = [variable.value for variable in one.variables]
    return found


def _compiled(module: Any) -> bool:
    import keras

    return isinstance(module, keras.Model) and bool(module.compiled)


def _in_order(batch: Mapping[str, Any]) -> tuple[Any, ...]:
    """A batch as Keras' own steps take it."""
    return batch["x"], batch.get("y"), batch.get("sample_weight")


def _keras_step(module: Any, take: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Any:
    def step(batch: Mapping[str, Any]) -> Mapping[str, Any]:
        if set(batch) - {"x", "y", "sample_weight"} or "x" not in batch:
            raise PipelineError(
                "batches()", "x, y and sample_weight, as Keras calls them", ", ".join(batch), "or give a train_step."
            )
        module.reset_metrics()  # a batch's own, and not an average since the last reset
        return take(batch)

    return step
