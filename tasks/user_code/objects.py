"""Live objects from user code: the check for them, their construction, and the predictor that answers for them."""

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
    """Return True if `build` returns Objects, and so must run eagerly: by its annotation, or because it names the class."""
    annotation = inspect.signature(model.build).return_annotation
    spelled = str(getattr(annotation, "__name__", annotation)).strip("'\"").rpartition(".")[2]
    code = getattr(model.build, "__code__", None)
    return spelled == Objects.__name__ or (code is not None and Objects.__name__ in code.co_names)


def build(model: Any, hyperparameters: HyperParameters) -> Objects:
    """Call `build`.

    Raises:
        PipelineError: it returns something else, no signature, or a signature key with a slash.
    """
    import keras

    built = model.build(hyperparameters)
    if not isinstance(built, Objects):
        remedy = "return Objects(module, signatures), or change the annotation of build() to Graph."
        raise PipelineError("build()", "Objects", type(built).__name__, remedy)
    if not built.signatures and not isinstance(built.module, keras.Model):
        remedy = "name a tf.function: `signatures={'serving_default': module.serve}`."
        raise PipelineError("build()", "Objects with at least one signature", "none", remedy)
    if slashed := [key for key in built.signatures if "/" in key or not key]:
        raise PipelineError("build()", "signature keys without a slash", repr(slashed[0]), "rename it.")
    return built


def live(built: Objects, form: str = LIVE_OBJECT) -> LivePredictor:
    """Return a predictor over built objects, by the functions that would be exported."""
    signatures = built.signatures or {DEFAULT_KEY: None}
    functions = {
        key: keras_form.signature_of(built.module)
        if signatures[key] is None
        else live_object.of_function(key, signatures[key])
        for key in sorted(signatures, key=lambda key: (key != DEFAULT_KEY, key))
    }
    return LivePredictor(form, functions, built.module, built.allow_nonfinite)
