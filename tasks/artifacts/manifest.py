"""Manifests of committed directories: files, inputs, parameters and versions.

A digest identifies the contents of a directory: it depends on the files' paths, sizes and contents and on nothing else,
so a moved store keeps its digests. The seal covers the rest of the manifest, so that an edited manifest is detected too.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError, field_validator

from tasks.artifacts.hashes import Hashes, hash_file
from tasks.errors import DamagedError
from tasks.records.base import Record

NAME = "manifest.json"


class FileEntry(Record):
    """One file: its path relative to the directory with forward slashes, its size in bytes, its sha256 in hex."""

    path: str
    size: int
    sha256: str

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, path: str) -> str:
        """Reject paths that leave the directory: a manifest may come from an untrusted place, and copies follow it."""
        if not path or "\0" in path or path.startswith("/") or {"", ".", ".."} & set(path.split("/")):
            raise ValueError(f"{path!r} is not a path below the directory")
        return path


class Manifest(Record):
    """The record of a committed directory. `inputs` holds the digests of the artifacts that it was made from."""

    step: str
    step_version: int
    key: str
    digest: str
    files: tuple[FileEntry, ...]
    inputs: dict[str, str]
    params: dict[str, Any]
    versions: dict[str, str]
    built_at: str
    seconds: float
    seal: str = ""

    @property
    def intact(self) -> bool:
        """Return True if its seal and its digest are those of what it holds."""
        return self.seal == self._seal() and self.digest == digest_of(self.files)

    def sealed(self) -> Manifest:
        """Return this manifest with its seal set."""
        return self.model_copy(update={"seal": self._seal()})

    def _seal(self) -> str:
        body = self.model_dump(mode="json", exclude={"seal"})
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """Read the manifest of a committed directory.

        Raises:
            DamagedError: it is missing, is not valid JSON, or was edited.
        """
        path = directory / NAME
        try:
            manifest = cls.model_validate_json(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            raise damaged(directory, [f"{NAME} is missing"]) from None
        except IsADirectoryError:
            raise damaged(directory, [f"{NAME} is a folder"]) from None
        except (ValidationError, UnicodeDecodeError) as error:
            raise damaged(directory, [f"{NAME} cannot be read ({type(error).__name__})"]) from None
        if not manifest.intact:
            raise damaged(directory, [f"{NAME} was edited"])
        return manifest


def damaged(directory: Path, problems: Iterable[str]) -> DamagedError:
    """Return the error for a directory that does not match its manifest."""
    found = "; ".join(problems)
    remedy = "run again: the step rebuilds the artifact, and the damaged one is set aside."
    return DamagedError(str(directory), "the files that its manifest lists", found, remedy)


def digest_of(files: Iterable[FileEntry]) -> str:
    """Return the digest of a set of files: sha256 over one line per file, sorted by path."""
    lines = sorted(f"{entry.path}\0{entry.size}\0{entry.sha256}\n" for entry in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def walk(directory: Path, *, without: str = NAME) -> list[str]:
    """Return the relative paths of all files below a directory, sorted, without its manifest. Empty folders do not count.

    Raises:
        DamagedError: there is a symbolic link or a special file, which cannot be moved or verified, or a name that is
            not UTF-8.
        OSError: a folder cannot be listed.
    """
    found = []
    for folder, folders, names in os.walk(directory, onerror=_raise):
        for name in (*folders, *names):
            path = Path(folder, name)
            relative = path.relative_to(directory).as_posix()
            if not _is_text(relative):
                raise damaged(directory, [f"the name {relative!r} is not UTF-8"])
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise damaged(directory, [f"{relative} is not a regular file"])
            if stat.S_ISREG(mode) and relative != without:
                found.append(relative)
    return sorted(found)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _raise(error: OSError) -> None:
    raise error


def entries(directory: Path) -> tuple[FileEntry, ...]:
    """List every file below a directory with its size and sha256. Each byte is read once."""
    return tuple(
        FileEntry(path=name, size=(directory / name).stat().st_size, sha256=hash_file(directory / name))
        for name in walk(directory)
    )


def bring_verified(source: Path, target: Path, files: Iterable[FileEntry], hashes: Hashes) -> None:
    """Bring the listed files to `target`, and sync every file. What is not known of a file is read.

    Raises:
        DamagedError: a listed file is missing or its contents differ from the list.
    """
    for entry in files:
        if not (source / entry.path).is_file():
            raise damaged(source, [f"{entry.path} is missing"])
        destination = target / entry.path
        found = hashes.bring(source / entry.path, destination) or hashes.of(destination)
        if found != entry.sha256:
            raise damaged(source, [f"{entry.path} has changed"])
        with destination.open("rb") as stream:
            os.fsync(stream.fileno())


def sync_tree(directory: Path) -> None:
    """fsync every folder at and below `directory`, the deepest first."""
    for folder, _, _ in os.walk(directory, topdown=False):
        sync_folder(Path(folder))


def sync_folder(folder: Path) -> None:
    """fsync one folder, so that a rename or a new name in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> Mapping[str, Any]:
    """Read a JSON object from a file."""
    value: Mapping[str, Any] = json.loads(path.read_bytes())
    return value
