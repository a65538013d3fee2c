"""What every look at a model's files needs: the files, damaged or not, a Keras configuration, the role of a tensor.

Nothing here imports TensorFlow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.errors import DamagedError, UsageError
from tasks.forms import checkpoint_files, detect
from tasks.forms.keras import archive_check
from tasks.records.adoption import Found
from tasks.records.forms import Form
from tasks.records.inspection import KerasFound

_SLOT = re.compile(
    r".*(/(Adam|Adamax|RMSProp|Momentum|Adagrad|Adadelta|Ftrl|Nadam|LazyAdam|ExponentialMovingAverage)(_\d+)?"
    r"|\.OPTIMIZER_SLOT/.*)"
)
_OPTIMIZER = re.compile(
    r"(.*/)?beta[12]_power(_\d+)?|(.*/)?_?optimizer(s|_weights)?/.*|(.*/)?(Adam|SGD|RMSprop)/(iter|decay|learning_rate|beta_[12])(/.*)?"
)
_BOOKKEEPING = re.compile(r"_CHECKPOINTABLE_OBJECT_GRAPH|save_counter(/.*)?")
_OBJECT_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


def found_at(path: Path, step: int | None, damage: list[str]) -> Found | None:
    """Return the model at a path, a damaged one too, as far as it can be listed; what is wrong is added to `damage`.

    Raises:
        UsageError: there is nothing, or there are several models and none is selected.
        UnsafeGraph: a link in it leads out of its folder.
        EnvironmentFailure: it cannot be read.
    """
    try:
        return detect.detect(path, step)
    except DamagedError as error:
        damage.append(said(error))
        return _despite(path, step)


def _despite(path: Path, step: int | None) -> Found | None:
    """Return what can still be listed of a damaged model: the index of a checkpoint lists its tensors without its shards."""
    near = path if path.is_dir() else path.parent
    prefixes = [path, path.with_suffix(""), *([path / "variables" / "variables"] if path.is_dir() else [])]
    if near.is_dir():
        named = [one for one in detect.prefixes(near) if step is None or checkpoint_files.step_of(one) == step]
        prefixes += named[-1:] if path.is_dir() else []
    for prefix in prefixes:
        index, files = prefix.with_name(f"{prefix.name}.index"), checkpoint_files.files(prefix)
        if index not in files or not all(file.is_file() for file in files):
            continue
        meta = checkpoint_files.meta_file(prefix)
        in_model = prefix.parent.name == "variables" and (prefix.parent.parent / "saved_model.pb").is_file()
        return Found(
            form=Form.SAVED_MODEL if in_model else Form.SAVER_V2,
            path=prefix.parent.parent if in_model else prefix,
            files=tuple(files),
            meta=meta if meta.is_file() else None,
        )
    return None


def of_keras(found: Found, damage: list[str]) -> dict[str, Any]:
    """Return what the configuration of a Keras file says; what is wrong is added to `damage`."""
    try:
        config = archive_check.configuration(found.path)
    except DamagedError as error:
        damage.append(said(error))
        return {}
    except UsageError as error:
        return {"needs": f"{error.found}: {error.remedy}"}
    layers = tuple(_layers(config))
    return {
        "keras": KerasFound(
            model_class=str(config.get("class_name", "")),
            layers=layers,
            lambdas=tuple(name for name, kind in layers if kind == "Lambda"),
            version=str(config.get("keras_version", "")),
        ),
        "notes": found.notes,
    }


def _layers(config: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, str]]:
    """Name and class of every layer, those of nested models by their path."""
    waiting: list[tuple[str, Any]] = [(within, config)]
    while waiting:
        scope, model = waiting.pop(0)
        inner = model.get("config") if isinstance(model, dict) else None
        held = inner.get("layers") if isinstance(inner, dict) else inner
        for layer in held if isinstance(held, list) else ():
            if not isinstance(layer, dict):
                continue
            settings = layer.get("config")
            name = layer.get("name") or (settings.get("name") if isinstance(settings, dict) else "") or "?"
            yield f"{scope}{name}", str(layer.get("class_name", "?"))
            waiting.append((f"{scope}{name}/", layer))


def role(name: str) -> str:
    """Return the role of a stored tensor, by its key."""
    key = name.removesuffix(_OBJECT_SUFFIX)
    if _BOOKKEEPING.fullmatch(key):
        return "bookkeeping"
    if _SLOT.fullmatch(name) or _OPTIMIZER.fullmatch(key.lstrip("/")):
        return "optimizer"
    return "step" if key.rpartition("/")[2] == "global_step" else "model"


def said(error: DamagedError) -> str:
    """Return a damage as one line."""
    return f"{error.where}: expected {error.expected}, found {error.found}"
