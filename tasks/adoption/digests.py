"""Digests of a source model's files: what the keys of `adopt` and of `train --from` depend on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tasks.artifacts.hashes import NONE, Hashes
from tasks.errors import EnvironmentFailure
from tasks.records.adoption import Found


def digests(found: Found, options: Sequence[Path | None], hashes: Hashes = NONE) -> dict[str, object]:
    """The contents of a source model and of the files that its options name, wherever they lie.

    Raises:
        EnvironmentFailure: a file cannot be read.
    """
    base = found.path if found.path.is_dir() else found.path.parent
    return {
        "form": found.form.value,
        "chosen": found.path.name,
        "files": {str(path.relative_to(base)): _hash(path, hashes) for path in found.files},
        "given": [_hash(path, hashes) for path in _files(options)],
        "given as": [path is not None for path in options],
    }


def _files(paths: Iterable[Path | None]) -> list[Path]:
    """The files among `paths`, and those in the folders among them (a SavedModel named by --graph)."""
    named = [path for path in paths if path is not None]
    return [
        file for path in named for file in (sorted(path.rglob("*")) if path.is_dir() else [path]) if not file.is_dir()
    ]


def _hash(path: Path, hashes: Hashes) -> str:
    try:
        return hashes.of_source(path)
    except OSError as error:
        raise EnvironmentFailure.from_os(error, str(path)) from None
