"""The classes that a Keras model's configuration may name: classes of Keras that compute, and no Python code.

An object is `{"module": …, "class_name": …, "config": …, "registered_name": …}` (keras/src/saving/serialization_lib.py);
Keras 2 wrote no module.
"""

from __future__ import annotations

from typing import Any

from tasks.errors import DamagedError, UnsafeGraph, UnsupportedGraph

# Modules of Keras whose classes do nothing but compute. `keras.utils.get_file` is a function of Keras, too.
_MODULES = frozenset(
    {
        "layers",
        "models",
        "activations",
        "initializers",
        "regularizers",
        "constraints",
        "losses",
        "metrics",
        "optimizers",
        "ops",
        "random",
        "dtype_policies",
        "quantizers",
        "backend",
        "applications",
    }
)
_IN_CONFIG_ONLY = frozenset(
    {
        "__tensor__",
        "__numpy__",
        "__bytes__",
        "__ellipsis__",
        "__tuple__",
        "__typespec__",
        "__keras_tensor__",
        "__complex__",
        "__none__",
    }
)
# Layers that are a way to something else (keras/src/export/tfsm_layer.py, keras/src/utils/torch_utils.py).
_OF_OTHERS = {"TFSMLayer": "a SavedModel of another place", "TorchModuleWrapper": "a pickled module of PyTorch"}
_WITH_WORDS = "save the model again with the Keras of this machine, which keeps the words in the file."
_OF_THE_OWN_CODE = "keep the model's code: give it with --model module:Model, or export a SavedModel from it."
_WITHOUT_LAMBDA = (
    "replace it by a layer that Keras has, or by a class of your own given with --model module:Model; "
    "it is refused because a Lambda is Python code that the file brings along."
)


def require_known(where: str, config: dict[str, Any]) -> None:
    """Refuse code and foreign classes anywhere in a configuration, except in how the model was compiled: not loaded.

    Raises:
        UnsafeGraph: a Lambda layer, a pickled function, or what is no layer.
        UnsupportedGraph: a Python class that is not Keras' own, or none of Keras 3.
        DamagedError: a class that has no name.
    """
    root = {name: value for name, value in config.items() if name != "compile_config"}
    waiting: list[tuple[str, Any]] = [("", root)]
    while waiting:
        layer, node = waiting.pop()
        if isinstance(node, list):
            waiting.extend((layer, item) for item in node)
        if not isinstance(node, dict):
            continue
        inner = node.get("config")
        if isinstance(inner, dict) and isinstance(inner.get("name"), str):
            layer = f"{layer}/{inner['name']}".lstrip("/")
        if isinstance(inner, dict) and isinstance(inner.get("vocabulary"), str):
            found = f"a vocabulary in a file of this machine, {inner['vocabulary']}"
            raise UnsafeGraph(f"{where}, layer {layer!r}", "a model that brings all it needs", found, _WITH_WORDS)
        if "class_name" in node:
            _require_known(f"{where}, {f'layer {layer!r}' if layer else 'the model'}", node)
        for key in node.keys() & {"function_type", "output_shape_type", "mask_type"}:
            if node[key] == "lambda":
                found = f"a pickled Python lambda ({key})"
                raise UnsafeGraph(f"{where}, layer {layer!r}", "layers without code", found, _WITHOUT_LAMBDA)
        waiting.extend((layer, value) for value in node.values())


def _require_known(where: str, node: dict[str, Any]) -> None:
    """Refuse one object of a configuration unless it is Keras' own."""
    name, module, registered = node["class_name"], node.get("module"), node.get("registered_name")
    spelled = f"{module}.{name}" if module else str(name)
    if not isinstance(name, str) or not isinstance(module, (str, type(None))):
        raise DamagedError(where, "names of classes", repr(spelled)[:100], "save the model again.")
    if name in ("Lambda", "__lambda__"):
        found = "a Lambda layer" if name == "Lambda" else "a pickled Python lambda"
        raise UnsafeGraph(where, "layers without Python code of their own", found, _WITHOUT_LAMBDA)
    if name in _OF_OTHERS:
        found = f"{name}, which brings {_OF_OTHERS[name]}"
        raise UnsafeGraph(where, "layers that Keras itself computes", found, _OF_THE_OWN_CODE)
    if name in _IN_CONFIG_ONLY:
        return
    if name in ("TensorFlowOpLayer", "TFOpLambda", "SlicingOpLambda"):
        found = f"{name}, Keras 2's wrapper of a TensorFlow function, which Keras 3 does not have"
        raise UnsupportedGraph(where, "layers of Keras 3", found, "export a SavedModel with the Keras that wrote it.")
    if module is not None and not _of_keras(module):
        if name == "function" and module == "builtins":
            spelled = f"function {node.get('config')}"
        elif module.partition(".")[0] in ("keras", "builtins", "os", "sys", "subprocess", "tensorflow", "numpy"):
            found = f"{spelled}, which is no layer"
            raise UnsafeGraph(where, "layers and what they are made of", found, "do not use this file.")
        raise _unknown(where, spelled)
    if registered is not None and registered != name and not str(registered).startswith("keras"):
        raise _unknown(where, f"{registered}")
    if module is None and not _built_in(name):
        raise _unknown(where, name)
    if module is not None and not _exists(module, name):
        raise _unknown(where, spelled)


def _unknown(where: str, name: str) -> UnsupportedGraph:
    return UnsupportedGraph(where, "classes that Keras itself has", f"Python class unknown: {name}", _OF_THE_OWN_CODE)


def _of_keras(module: str) -> bool:
    parts = module.split(".")
    if parts[:2] == ["keras", "src"]:
        parts = ["keras", *parts[2:]]
    return parts[0] == "keras" and (len(parts) == 1 or parts[1] in _MODULES)


def _exists(module: str, name: str) -> bool:
    """Return True if Keras has this class or function. Only modules of Keras are searched; all of them are loaded with it."""
    import sys

    import keras

    found: Any = keras
    if module.startswith("keras.src"):
        found = sys.modules.get(module)
    else:
        for part in module.split(".")[1:]:
            found = getattr(found, part, None)
    return hasattr(found, name) if found is not None else _built_in(name)


def _built_in(name: str) -> bool:
    """Return True if a class without a module, as Keras 2 wrote it, is one of Keras' own."""
    import keras

    places = (
        keras,
        keras.layers,
        keras.models,
        keras.initializers,
        keras.regularizers,
        keras.constraints,
        keras.dtype_policies,
        keras.optimizers,
        keras.losses,
        keras.metrics,
    )
    return name in ("Functional", "Policy") or any(hasattr(place, name) for place in places)
