"""Whether a Keras file may be opened at all, decided from its configuration and its structure without building anything.

A `.keras` file is a zip of config.json, metadata.json, model.weights.h5 and assets/ (keras/src/saving/saving_lib.py); an
HDF5 file holds the configuration in the attribute `model_config` (keras/src/legacy/saving/legacy_h5_format.py).
Keras' safe mode refuses Lambda layers, too; this says which and why, before Keras sees the file.
"""

from __future__ import annotations

import json
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from tasks.errors import DamagedError, EnvironmentFailure, PipelineError, UnsafeGraph, UnsupportedGraph, UsageError

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
_CONFIG_LIMIT = 256 * 2**20
_SLACK = 2**30  # what a file may hold beyond _RATIO times its own size
_RATIO = 20
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
_OF_THE_OWN_CODE = "keep the model's code: give it with --model module:Model, or export a SavedModel from it."
_WITHOUT_LAMBDA = (
    "replace it by a layer that Keras has, or by a class of your own given with --model module:Model; "
    "it is refused because a Lambda is Python code that the file brings along."
)


def require_safe(path: Path) -> None:
    """Refuse what must not be opened. Nothing of the file is executed or built.

    Raises:
        UnsafeGraph: a Lambda layer or other Python code, a member or link that leads out of the file.
        UnsupportedGraph: a Python class that is not Keras' own.
        DamagedError: the file is cut, its checksums fail, it holds no configuration.
        UsageError: it holds weights and no model.
    """
    _require_config(str(path), configuration(path))


def configuration(path: Path) -> Any:
    """The configuration of the model in a file whose structure is found harmless. Raises as `require_safe`."""
    try:
        with path.open("rb") as stream:
            zipped = stream.read(4).startswith(b"PK")
        if zipped:
            return _of_archive(path)
        with path.open("rb") as stream:
            return _of_hdf5(stream, path)
    except PipelineError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise _damaged(path, "a whole Keras archive", error) from None
    except OSError as error:
        if error.errno is None or not path.is_file():  # h5py's own have none
            raise _damaged(path, "a whole HDF5 file", error) from None
        raise EnvironmentFailure.from_os(error, str(path)) from None
    # h5py maps what the library finds wrong to whatever class is nearest.
    except (KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        raise _damaged(path, "a whole Keras file", error) from None


def _of_archive(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        names = [member.filename for member in members]
        for member in members:
            _require_member(path, member, names)
        size = sum(member.file_size for member in members)
        _require_size(path, size, path.stat().st_size)
        if (broken := archive.testzip()) is not None:
            raise _damaged(path, "members that match their checksums", f"{broken} does not")
        if CONFIG not in names:
            remedy = "give a `.keras` file as `model.save` writes it."
            raise DamagedError(str(path), f"a Keras archive with {CONFIG}", ", ".join(names[:5]) or "nothing", remedy)
        if archive.getinfo(CONFIG).file_size > _CONFIG_LIMIT:
            raise UnsafeGraph(
                str(path), "a configuration of a few kilobytes", "hundreds of megabytes", "do not use it."
            )
        for name in names:
            if name.endswith((".h5", ".hdf5")):
                with archive.open(name) as stream:
                    _require_contained(stream, path, archive.getinfo(name).file_size)
        return _parsed(path, archive.read(CONFIG))


def _require_member(path: Path, member: zipfile.ZipInfo, names: list[str]) -> None:
    parts = PurePosixPath(member.filename.replace("\\", "/"))
    faults = {
        "leads out of the archive": parts.is_absolute() or ".." in parts.parts or ":" in member.filename,
        "is a link": stat.S_ISLNK(member.external_attr >> 16),
        "is there twice": names.count(member.filename) > 1,
        "is encrypted": bool(member.flag_bits & 1),
    }
    for fault, present in faults.items():
        if present:
            remedy = "do not use this file: Keras writes no such member."
            raise UnsafeGraph(str(path), "plain members of their own names", f"{member.filename!r} {fault}", remedy)


def _of_hdf5(stream: IO[bytes], path: Path) -> Any:
    import h5py

    _require_contained(stream, path, path.stat().st_size)
    with h5py.File(stream, "r") as file:
        config = file.attrs.get("model_config")
        if config is None:
            remedy = "the Python code is needed: give it with --model module:Model, or save with `model.save`."
            raise UsageError(str(path), "a model", "weights without a model's configuration", remedy)
        return _parsed(path, config)


def _require_contained(stream: IO[bytes], path: Path, size: int) -> None:
    """Refuse what makes HDF5 read another file, or makes much of little.

    Raises UnsafeGraph; what h5py raises on a damaged file.
    """
    import h5py

    declared = 0
    with h5py.File(stream, "r") as file:
        for name, item in items(file):
            fault = ""
            if isinstance(item, h5py.ExternalLink):
                fault = f"is a link into {item.filename!r}"
            elif isinstance(item, h5py.Dataset):
                declared += item.size * item.dtype.itemsize if item.shape is not None else 0
                if item.external or item.is_virtual:
                    fault = "has its values in another file"
            if fault:
                remedy = "do not use this file: Keras writes no such thing."
                raise UnsafeGraph(str(path), "HDF5 that holds all its values", f"{name} {fault}", remedy)
    _require_size(path, declared, size)


def items(group: Any) -> Iterator[tuple[str, Any]]:
    """Everything in an HDF5 file, each object once; links out of it come as links, and are not followed."""
    import h5py

    seen = {h5py.h5o.get_info(group.id).addr}
    waiting = [group]
    while waiting:
        here = waiting.pop()
        for name in here:
            link = here.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                yield f"{here.name}/{name}", link
                continue
            if isinstance(link, h5py.SoftLink):
                continue  # where it leads is met by its own name
            item = here[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                continue
            seen.add(address)
            yield item.name, item
            if isinstance(item, h5py.Group):
                waiting.append(item)


def _require_size(path: Path, declared: int, size: int) -> None:
    if declared > _RATIO * size + _SLACK:
        found = f"{declared / 2**30:.1f} GiB in a file of {size / 2**20:.1f} MiB"
        raise UnsafeGraph(
            str(path), "about as many bytes inside as outside", found, "do not use it: save the model again."
        )


def _parsed(path: Path, text: Any) -> Any:
    try:
        config = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise _damaged(path, "a configuration in JSON", error) from None
    if not isinstance(config, dict) or "class_name" not in config:
        raise _damaged(path, "a model's configuration", "JSON of another kind")
    return config


def _require_config(where: str, config: dict[str, Any]) -> None:
    """Refuse code and foreign classes anywhere in a configuration, except in how the model was compiled: not loaded."""
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
    """Whether Keras has this class or function. Only modules of Keras are asked, all of them loaded with it."""
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
    """Whether a class without a module, as Keras 2 wrote it, is one of Keras' own."""
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


def _damaged(path: Path, expected: str, error: Exception | str) -> DamagedError:
    found = (
        error
        if isinstance(error, str)
        else f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
    )
    return DamagedError(str(path), expected, found, "copy or save the file again; it is cut or changed.")
