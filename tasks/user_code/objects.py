"""A user's live objects: whether his code makes any, what they must say, and the predictor that answers for them."""

from __future__ import annotations

import inspect
from typing import Any

from tasks.errors import PipelineError
from tasks.forms import live_object
from tasks.forms.keras import model as keras_form
from tasks.forms.live_object import LivePredictor
from tasks.records.forms import LIVE_OBJECT
from tasks.records.signature import DEFAULT_KEY
from tasks.user_code.model import HyperParameters, Objects


def expected(model: Any) -> bool:
    """Whether `build` makes Objects, and so must run eagerly: by its annotation, or because it names the class."""
    annotation = inspect.signature(model.build).return_annotation
    spelled = str(getattr(annotation, "__name__", annotation)).strip("'\"").rpartition(".")[2]
    code = getattr(model.build, "__code__", None)
    return spelled == Objects.__name__ or (code is not None and Objects.__name__ in code.co_names)


def build(model: Any, hyperparameters: HyperParameters) -> Objects:
    """What the model's code makes, with its signatures. Raises PipelineError where it is something else."""
    import keras

    built = model.build(hyperparameters)
    if not isinstance(built, Objects):
        remedy = "return Objects(module, signatures), or Graph(…) from a build that is annotated so."
        raise PipelineError("build()", "Objects", type(built).__name__, remedy)
    if not built.signatures and not isinstance(built.module, keras.Model):
        remedy = "say what goes in and out: `signatures={'serving_default': module.serve}`, a tf.function."
        raise PipelineError("build()", "Objects with at least one signature", "none", remedy)
    if slashed := [key for key in built.signatures if "/" in key or not key]:
        raise PipelineError("build()", "signature keys without a slash", repr(slashed[0]), "name it otherwise.")
    return built


def live(built: Objects, form: str = LIVE_OBJECT) -> LivePredictor:
    """The predictor over built objects, through the functions that would be exported."""
    given = built.signatures or {DEFAULT_KEY: None}
    functions = {
        key: keras_form.signature_of(built.module) if given[key] is None else live_object.of_function(key, given[key])
        for key in sorted(given, key=lambda key: (key != DEFAULT_KEY, key))
    }
    return LivePredictor(form, functions, built.module, built.allow_nonfinite)
