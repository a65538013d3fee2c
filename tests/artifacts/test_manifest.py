"""A manifest is read as it was written, or refused; a digest identifies the contents of a directory."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.artifacts import manifest as manifests
from tasks.artifacts.hashes import NONE
from tasks.artifacts.manifest import FileEntry, Manifest
from tasks.errors import DamagedError
from tests.artifacts.disk import writing
from tests.makers.special_files import SPECIAL

FILES = {"graph.pb": b"graph", "variables/index": b"index", "variables/data": b""}

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=8)
paths = st.lists(names.filter(lambda name: name not in (".", "..")), min_size=1, max_size=3).map("/".join)


def manifest_of(files: tuple[FileEntry, ...], params: dict[str, Any]) -> Manifest:
    return Manifest(
        step="freeze",
        step_version=1,
        key="0123",
        digest=manifests.digest_of(files),
        files=files,
        inputs={"checkpoint": "ab"},
        params=params,
        versions={"python": "3.11"},
        built_at="2026-01-01T00:00:00Z",
        seconds=0.25,
    ).sealed()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A folder with FILES."""
    folder = tmp_path / "directory"
    writing(FILES)(folder)
    return folder


@pytest.fixture(scope="session")
def committed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A folder with a manifest, and the manifest's bytes."""
    folder = tmp_path_factory.mktemp("committed")
    writing(FILES)(folder)
    files = manifests.entries(folder)
    params = {"tolerance": 1e-5, "names": ["a", "ü"], "facts": {"big": 2**70, "deep": [[{}]], "none": None}}
    content = manifest_of(files, params).model_dump_json(indent=1).encode()
    (folder / manifests.NAME).write_bytes(content)
    return folder, content


def read_or_refused(folder: Path, content: bytes) -> Manifest | None:
    (folder / manifests.NAME).write_bytes(content)
    try:
        return Manifest.read(folder)
    except DamagedError:
        return None


@given(st.binary(max_size=300))
@example(b"")
@example(b"[" * 100_000)
@example(b'{"step": 1}')
@example(b"9" * 5000)
def test_random_bytes_are_refused(committed: tuple[Path, bytes], content: bytes) -> None:
    assert read_or_refused(committed[0], content) is None


@given(st.data())
def test_a_flipped_byte_is_refused_unless_it_changes_nothing(
    committed: tuple[Path, bytes], data: st.DataObject
) -> None:
    folder, content = committed
    at = data.draw(st.integers(0, len(content) - 1))
    flipped = content[:at] + bytes([content[at] ^ data.draw(st.integers(1, 255))]) + content[at + 1 :]
    found = read_or_refused(folder, flipped)
    assert found is None or found == read_or_refused(folder, content)


@given(st.data())
def test_a_cut_end_is_refused(committed: tuple[Path, bytes], data: st.DataObject) -> None:
    folder, content = committed
    assert read_or_refused(folder, content[: data.draw(st.integers(0, len(content) - 1))]) is None


def test_every_edited_field_is_refused(committed: tuple[Path, bytes]) -> None:
    folder, content = committed
    fields = json.loads(content)
    assert read_or_refused(folder, content) is not None
    for name, value in fields.items():
        edited: Any = (
            value + 1 if isinstance(value, (int, float)) else value * 2 if isinstance(value, (str, list)) else {}
        )
        assert read_or_refused(folder, json.dumps(fields | {name: edited}).encode()) is None, name
        rest = {other: kept for other, kept in fields.items() if other != name}
        assert read_or_refused(folder, json.dumps(rest).encode()) is None, name
    assert read_or_refused(folder, json.dumps(fields | {"another": 1}).encode()) is None


@given(st.dictionaries(text, json_values, max_size=3))
@example({"a": float("nan"), "b": [float("inf"), -0.0, 1e16, 5e-324, 2**64]})
def test_what_was_written_is_read_whatever_the_parameters(
    committed: tuple[Path, bytes], params: dict[str, Any]
) -> None:
    folder, _ = committed
    written = manifest_of(manifests.entries(folder), params)
    found = read_or_refused(folder, written.model_dump_json(indent=1).encode())
    assert found is not None
    assert json.dumps(found.params, sort_keys=True) == json.dumps(params, sort_keys=True)


@pytest.mark.parametrize("lost", ["manifest", "directory"])
def test_a_missing_manifest_is_refused(directory: Path, lost: str) -> None:
    with pytest.raises(DamagedError, match=r"manifest\.json is missing"):
        Manifest.read(directory if lost == "manifest" else directory / "nowhere")


def test_something_else_in_the_manifests_place_is_refused(directory: Path) -> None:
    with pytest.raises(DamagedError):
        Manifest.read(directory / "graph.pb")
    (directory / manifests.NAME).mkdir()
    with pytest.raises(DamagedError):
        Manifest.read(directory)


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../outside", "a/../../outside", "a//b", "./a", "a/.", "a\0b"])
def test_a_manifest_cannot_name_what_is_not_below_it(path: str) -> None:
    with pytest.raises(ValueError, match="not a path below"):
        FileEntry(path=path, size=0, sha256="")


file_sets = st.dictionaries(paths, st.binary(max_size=4), max_size=4)


@given(file_sets, file_sets, st.randoms())
def test_a_digest_is_equal_exactly_where_paths_and_contents_are(
    one: dict[str, bytes], other: dict[str, bytes], random: Any
) -> None:
    import hashlib

    def digest(files: dict[str, bytes]) -> str:
        entries = [
            FileEntry(path=name, size=len(content), sha256=hashlib.sha256(content).hexdigest())
            for name, content in files.items()
        ]
        random.shuffle(entries)
        return manifests.digest_of(entries)

    assert (digest(one) == digest(other)) == (one == other)
    assert digest(one) == digest(one)


def test_a_digest_does_not_depend_on_times_modes_or_place(directory: Path, tmp_path: Path) -> None:
    before = manifests.digest_of(manifests.entries(directory))
    (directory / "graph.pb").chmod(0o400)
    os.utime(directory / "graph.pb", (1, 1))
    moved = directory.rename(tmp_path / "moved")
    assert manifests.digest_of(manifests.entries(moved)) == before
    (moved / "graph.pb").rename(moved / "graph2.pb")
    assert manifests.digest_of(manifests.entries(moved)) != before


@pytest.mark.parametrize("make", SPECIAL)
@pytest.mark.parametrize("folder", [".", "variables"])
def test_what_is_no_regular_file_is_refused(directory: Path, make: Callable[[Path], None], folder: str) -> None:
    if folder == "variables":
        writing({"graph.pb": b"", "variables/x": b""})(directory / folder)
    make(directory / folder / "special")
    with pytest.raises(DamagedError, match=r"not a regular file|not UTF-8"):
        manifests.walk(directory)


def test_bring_verified_brings_what_is_listed_and_nothing_else(directory: Path, tmp_path: Path) -> None:
    listed = manifests.entries(directory)
    writing({"added": b"later"})(directory)
    manifests.bring_verified(directory, tmp_path / "copy", listed, NONE)
    assert manifests.entries(tmp_path / "copy") == listed


def test_bring_verified_refuses_what_has_changed(directory: Path, tmp_path: Path) -> None:
    listed = manifests.entries(directory)
    writing({"variables/index": b"xndei"})(directory)
    with pytest.raises(DamagedError, match="variables/index has changed"):
        manifests.bring_verified(directory, tmp_path / "copy", listed, NONE)
    (directory / "variables/index").unlink()
    with pytest.raises(DamagedError, match="variables/index is missing"):
        manifests.bring_verified(directory, tmp_path / "copy", listed, NONE)
