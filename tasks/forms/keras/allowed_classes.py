"""The classes that a Keras model's configuration may name: classes of Keras that compute, and no Python code.

An object is `{"module": …, "class_name": …, "config": …, "registered_name": …}` (keras/src/saving/serialization_lib.py);
Keras 2 wrote no module before its version 2.12.
"""

from __future__ import annotations

import re
from typing import Any

from tasks.errors import DamagedError, UnsafeGraph, UnsupportedGraph
from tasks.graphs import op_policy

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
# Functions of TensorFlow that do nothing but compute, by their names in `tf`: a wrapper layer of Keras 2 names one.
_FUNCTIONS = re.compile(
    r"(compat\.v[12]\.)?("
    r"__operators__\.\w+|(bitwise|image|linalg|math|nn|signal|strings)(\.[a-z]\w*)+|io\.parse_\w+"
    r"|io\.(decode_(and_crop_jpeg|base64|bmp|compressed|csv|gif|image|jpeg|json_example|png|raw)|encode_(base64|jpeg|png))"
    r"|reduce_\w+|clip_by_\w+|scatter_nd|gather(_nd)?|tensor_scatter_nd_\w+|(ones|zeros)(_like)?|a?(cos|sin|tan)h?|atan2"
    r"|arg(max|min|sort)|logical_(and|not|or|xor)|(batch_to|space_to)_(batch|batch_nd|space)|(floor|real|truncate)?div"
    r"|(floor|truncate)?mod|(greater|less)(_equal)?|(not_)?equal|(saturate_)?cast|(un)?stack|reverse(_sequence)?"
    r"|abs|add|add_n|bitcast|boolean_mask|broadcast_to|ceil|complex|concat|convert_to_tensor|cumsum|divide|einsum|exp"
    r"|expand_dims|eye|fill|floor|identity|identity_n|linspace|matmul|maximum|meshgrid|minimum|multiply|negative|norm"
    r"|one_hot|pad|pow|range|rank|repeat|reshape|roll|round|scalar_mul|searchsorted|sequence_mask|shape|shape_n|sigmoid"
    r"|sign|size|slice|sort|split|sqrt|square|squeeze|stop_gradient|strided_slice|subtract|tensordot|tile|transpose"
    r"|truediv|where)"
)
_WITH_WORDS = "save the model again with the Keras of this machine, which keeps the words in the file."
_OF_THE_OWN_CODE = "keep the model's code: give it with --model module:Model, or export a SavedModel from it."
_WITHOUT_LAMBDA = (
    "replace it by a layer that Keras has, or by a class of your own given with --model module:Model; "
    "it is refused because a Lambda is Python code that the file brings along."
)


def require_known(where: str, config: dict[str, Any], *, legacy: bool) -> None:
    """Refuse code and foreign classes anywhere in a configuration, except in how the model was compiled: not loaded.

    `legacy` is True for what Keras 1 or 2 wrote and Keras 2 builds.

    Raises:
        UnsafeGraph: a Lambda layer, a pickled function, or what is no layer.
        UnsupportedGraph: a Python class that is not Keras' own, or a function of TensorFlow that is not known as harmless.
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
            _require_known(f"{where}, {f'layer {layer!r}' if layer else 'the model'}", node, legacy)
        for key in node.keys() & {"function_type", "output_shape_type", "mask_type"}:
            if node[key] == "lambda":
                found = f"a pickled Python lambda ({key})"
                raise UnsafeGraph(f"{where}, layer {layer!r}", "layers without code", found, _WITHOUT_LAMBDA)
        waiting.extend((layer, value) for value in node.values())


def _require_known(where: str, node: dict[str, Any], legacy: bool) -> None:
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
    if legacy and name in ("TensorFlowOpLayer", "TFOpLambda", "SlicingOpLambda"):
        _require_harmless(where, node.get("config"))
        return
    if module is not None and not _of_keras(module):
        if name == "function" and module == "builtins":
            spelled = f"function {node.get('config')}"
        elif module.partition(".")[0] in ("keras", "builtins", "os", "sys", "subprocess", "tensorflow", "numpy"):
            found = f"{spelled}, which is no layer"
            raise UnsafeGraph(where, "layers and what they are made of", found, "do not use this file.")
        raise _unknown(where, spelled)
    if registered is not None and registered != name and not str(registered).startswith("keras"):
        raise _unknown(where, f"{registered}")
    if not (_built_in(name, legacy) if module is None or legacy else _exists(module, name)):
        raise _unknown(where, spelled)


def _unknown(where: str, name: str) -> UnsupportedGraph:
    return UnsupportedGraph(where, "classes that Keras itself has", f"Python class unknown: {name}", _OF_THE_OWN_CODE)


def _require_harmless(where: str, config: Any) -> None:
    """Refuse a wrapper layer of Keras 2 whose function or op may do more than compute.

    (tf_keras/src/layers/core/tf_op_layer.py; the op of a TensorFlowOpLayer, as TensorFlow 2.0 to 2.3 wrote it, is a NodeDef.)
    """
    config = config if isinstance(config, dict) else {}
    node = config.get("node_def")
    name = config.get("function", node.get("op") if isinstance(node, dict) else None)
    harmless = _computes if isinstance(node, dict) else _FUNCTIONS.fullmatch
    if not isinstance(name, str) or not harmless(name):
        found = f"the op {name}" if isinstance(node, dict) else f"tf.{name}"
        raise UnsupportedGraph(where, "functions of TensorFlow that are known to be harmless", found, _OF_THE_OWN_CODE)


def _computes(op: str) -> bool:
    return op_policy.table().get(op) in (op_policy.Effect.PURE, op_policy.Effect.RANDOM)


def _of_keras(module: str) -> bool:
    parts = module.split(".")
    if parts[1:2] == ["src"]:
        parts = [parts[0], *parts[2:]]
    # Keras 2's models are in `engine`, and its package is `tf_keras` since 2.16.
    return parts[0] in ("keras", "tf_keras") and (len(parts) == 1 or parts[1] in _MODULES | {"engine"})


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


def _built_in(name: str, legacy: bool = False) -> bool:
    """Return True if a class without a module, as Keras 2 wrote it, is one of Keras' own."""
    from tasks.forms.keras import library

    keras = library.keras_2() if legacy else library.keras_3()
    places = [
        "layers",
        "models",
        "initializers",
        "regularizers",
        "constraints",
        "dtype_policies",
        "optimizers",
        "losses",
    ]
    where = [keras, *(getattr(keras, place) for place in (*places, "metrics") if hasattr(keras, place))]
    if legacy:  # whose experimental layers were such for years
        where += [keras.layers.experimental.preprocessing, keras.layers.experimental, keras.mixed_precision]
        return name == "Functional" or any(isinstance(getattr(place, name, None), type) for place in where)
    return name in ("Functional", "Policy") or any(hasattr(place, name) for place in where)
