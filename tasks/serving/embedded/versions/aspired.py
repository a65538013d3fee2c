"""The aspired versions of a model, by its version policy and the children of its base path.

Source: tensorflow_serving/sources/storage_path/file_system_storage_path_source.cc.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tasks.serving.embedded import log
from tasks.serving.embedded.errors import invalid

# `safe_strto64` of the whole name: `+5`, `-6` and `00000005` are versions.
_NUMBER = re.compile(r"\s*[+-]?[0-9]+\s*", re.ASCII)


@dataclass(frozen=True)
class LatestVersions:
    """Serve the highest `count` versions."""

    count: int = 1


@dataclass(frozen=True)
class AllVersions:
    """Serve every version found."""


@dataclass(frozen=True)
class SpecificVersions:
    """Serve these versions, as far as they are found."""

    versions: frozenset[int]


VersionPolicy = LatestVersions | AllVersions | SpecificVersions


@dataclass(frozen=True)
class ServedModel:
    """One entry of the model configuration."""

    name: str
    base_path: Path
    policy: VersionPolicy = LatestVersions()


def aspired_versions(model: ServedModel) -> dict[int, Path]:
    """Return the versions that should be served now, with their directories, highest first.

    Raises:
        ServingError: the base path does not exist, which is no reason to unload anything.
    """
    if not model.base_path.exists():
        raise invalid(
            f"Could not find base path {model.base_path} for servable {model.name}"
            f" with error NOT_FOUND: {model.base_path} not found"
        )
    found = _by_number(child.name for child in model.base_path.iterdir())
    chosen = sorted(_chosen(model, set(found)), reverse=True)
    if not chosen:
        log.warning(
            f"No versions of servable {model.name} found under base path {model.base_path}."
            " Did you forget to name your leaf directory as a number (eg. '/1/')?"
        )
    return {version: model.base_path / found[version] for version in chosen}


def _by_number(names: Iterable[str]) -> dict[int, str]:
    found: dict[int, str] = {}
    for name in sorted(names):
        if _NUMBER.fullmatch(name) and -(2**63) <= int(name) < 2**63:
            found[int(name)] = name
    return found


def _chosen(model: ServedModel, found: set[int]) -> Iterable[int]:
    match model.policy:
        case LatestVersions(count):
            return sorted(found, reverse=True)[: max(count, 1)]
        case AllVersions():
            return found
        case SpecificVersions(versions):
            for version in sorted(versions - found):
                log.warning(
                    f"Version {version} of servable {model.name}, which was requested to be served as a 'specific'"
                    " version in the servable's version policy, was not found in the file system"
                )
            return versions & found
