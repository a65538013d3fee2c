"""Safety check of Keras files, from their configuration and structure, before anything is built.

A `.keras` file is a zip of config.json, metadata.json, model.weights.h5 and assets/ (keras/src/saving/saving_lib.py); an
HDF5 file holds the configuration in the attribute `model_config` (keras/src/legacy/saving/legacy_h5_format.py).
Keras' safe mode refuses Lambda layers too; this says which and why, before Keras sees the file.
"""

from __future__ import annotations

import errno
import json
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from tasks.errors import DamagedError, EnvironmentFailure, PipelineError, UnsafeGraph, UsageError
from tasks.forms.keras import allowed_classes

CONFIG, WEIGHTS, METADATA = "config.json", "model.weights.h5", "metadata.json"
_CONFIG_LIMIT = 256 * 2**20
_SLACK = 2**30  # what a file may hold beyond _RATIO times its own size
_RATIO = 20


def require_safe(path: Path) -> None:
    """Refuse what must not be opened. Nothing of the file is executed or built.

    Raises:
        UnsafeGraph: a Lambda layer or other Python code, a member or link that leads out of the file.
        UnsupportedGraph: a Python class that is not Keras' own.
        DamagedError: the file is cut, its checksums fail, it holds no configuration.
        UsageError: it holds weights and no model.
    """
    config = configuration(path)
    allowed_classes.require_known(str(path), config, legacy=not version(path).startswith("3"))


def version(path: Path) -> str:
    """Return the version of the Keras that wrote a file; empty where it does not say. Raises as `require_safe`."""
    import h5py

    with _reading(path):
        if zipped(path):
            with zipfile.ZipFile(path) as archive:
                if METADATA not in archive.namelist() or archive.getinfo(METADATA).file_size > _CONFIG_LIMIT:
                    return ""
                metadata = json.loads(archive.read(METADATA))
            return str(metadata.get("keras_version", "")) if isinstance(metadata, dict) else ""
        with h5py.File(path, "r") as file:
            said = file.attrs.get("keras_version", "")
            return said.decode(errors="replace") if isinstance(said, bytes) else str(said)


def configuration(path: Path) -> Any:
    """Return the configuration of the model in a file whose structure is harmless. Raises as `require_safe`."""
    with _reading(path), path.open("rb") as stream:
        zipped = stream.read(4).startswith(b"PK")
        return _of_archive(path) if zipped else _of_hdf5(stream, path)


def require_contained(path: Path) -> None:
    """Refuse an HDF5 file whose structure is not harmless. Raises UnsafeGraph, DamagedError."""
    with _reading(path), path.open("rb") as stream:
        _require_contained(stream, path, path.stat().st_size)


def zipped(path: Path) -> bool:
    """Return True if a Keras file is an archive and not HDF5, whatever its name."""
    with path.open("rb") as stream:
        return stream.read(4).startswith(b"PK")


def described(path: Path) -> Any:
    """Return the configuration of a file as Keras 3 writes it; None for weights alone and for older files.

    Raises:
        UnsafeGraph, DamagedError: as `require_safe`.
    """
    import h5py

    if not zipped(path):
        require_contained(path)
        with _reading(path), h5py.File(path, "r") as file:
            if "model_config" not in file.attrs or not str(file.attrs.get("keras_version", "")).startswith("3"):
                return None
    return configuration(path)


def assets(path: Path) -> list[str]:
    """Return the files of an archive that layers read in addition to weights: vocabularies. HDF5 has none."""
    if not zipped(path):
        return []
    with _reading(path), zipfile.ZipFile(path) as archive:
        return [name for name in archive.namelist() if name.startswith("assets/") and not name.endswith("/")]


def empty_vocabularies(path: Path) -> list[str]:
    """Return the layers of an archive whose vocabulary has no word but those for the unknown and for padding."""
    vocabularies = [name for name in assets(path) if name.endswith("/vocabulary.txt")]
    found = []
    for name in vocabularies:
        with _reading(path), zipfile.ZipFile(path) as archive, archive.open(name) as stream:
            if not set(stream.read(1024).split()) - {b"[UNK]"}:
                found.append(name.removeprefix("assets/layers/").removesuffix("/vocabulary.txt"))
    return found


def by_layers(path: Path) -> bool:
    """Return True if HDF5 holds weights alone as Keras 3 writes them, not as Keras 2 does, nor an entire model."""
    import h5py

    with _reading(path), h5py.File(path, "r") as file:
        return "layer_names" not in file.attrs and "model_weights" not in file


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what the zip and HDF5 libraries raise on a truncated or changed file into our errors."""
    try:
        yield
    except PipelineError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise _damaged(path, "a complete Keras archive", error) from None
    except OSError as error:
        # h5py's own have no number; a zip's directory may name a place before the file's beginning.
        if error.errno in (None, errno.EINVAL) or not path.is_file():
            raise _damaged(path, "a complete HDF5 file", error) from None
        raise EnvironmentFailure.from_os(error, str(path)) from None
    # h5py maps what the library finds wrong to whatever class is nearest.
    except (KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        raise _damaged(path, "a complete Keras file", error) from None


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
    """Yield everything in an HDF5 file, each object once; links out of it are yielded as links and not followed."""
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


def _damaged(path: Path, expected: str, error: Exception | str) -> DamagedError:
    found = (
        error
        if isinstance(error, str)
        else f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
    )
    return DamagedError(str(path), expected, found, "copy or save the file again; it is cut or changed.")
