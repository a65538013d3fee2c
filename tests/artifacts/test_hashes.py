"""What is known of a file is what its bytes are: linked, cloned, copied or sealed, and never after a change."""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.artifacts import hashes
from tasks.artifacts.hashes import READ_ONLY, Hashes

CONTENT = bytes(range(256)) * 4096
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def known(tmp_path: Path) -> Hashes:
    (tmp_path / "known").mkdir()
    return Hashes(tmp_path / "known")


def sealed(known: Hashes, path: Path) -> Path:
    path.write_bytes(CONTENT)
    assert known.sealed(path) == SHA
    return path


def edited(path: Path) -> None:
    """Flip a bit in place, and give the file its times back."""
    before = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as stream:
        stream.write(bytes([CONTENT[0] ^ 1]))
    path.chmod(READ_ONLY)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_sealed_file_is_linked_and_not_read_again(known: Hashes, hashed: list[str], tmp_path: Path) -> None:
    source = sealed(known, tmp_path / "source")
    assert known.bring(source, tmp_path / "deep" / "target") is None
    assert (tmp_path / "deep" / "target").stat().st_ino == source.stat().st_ino
    assert hashed == ["source"]
    assert (
        known.of(source) == known.of(tmp_path / "deep" / "target") == known.sealed(tmp_path / "deep" / "target") == SHA
    )
    assert hashed == ["source"]


@pytest.mark.parametrize("mode", [0o644, 0o600, 0o440, 0o400, 0o555])
def test_a_file_that_somebody_may_write_or_not_everybody_reads_is_copied(
    known: Hashes, hashed: list[str], tmp_path: Path, mode: int
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(CONTENT)
    source.chmod(mode)
    assert known.bring(source, target) == SHA
    assert target.stat().st_ino != source.stat().st_ino and target.read_bytes() == CONTENT
    assert known.sealed(target) == SHA and stat.S_IMODE(target.stat().st_mode) == READ_ONLY
    assert hashed == [] and stat.S_IMODE(source.stat().st_mode) == mode


def test_a_symbolic_link_is_brought_as_the_file_behind_it(known: Hashes, tmp_path: Path) -> None:
    sealed(known, tmp_path / "source")
    (tmp_path / "link").symlink_to("source")
    known.bring(tmp_path / "link", tmp_path / "target")
    assert not (tmp_path / "target").is_symlink() and (tmp_path / "target").read_bytes() == CONTENT


def test_what_is_brought_for_a_while_costs_no_reading_later(known: Hashes, hashed: list[str], tmp_path: Path) -> None:
    source, target = sealed(known, tmp_path / "source"), tmp_path / "copy" / "target"
    with known.brought([(source, target)]):
        assert target.read_bytes() == CONTENT
    assert not target.exists() and known.of(source) == SHA and hashed == ["source"]


@pytest.mark.parametrize("through", ["source", "target"])
def test_a_change_while_it_is_brought_is_seen_afterwards(known: Hashes, tmp_path: Path, through: str) -> None:
    source, target = sealed(known, tmp_path / "source"), tmp_path / "target"
    with known.brought([(source, target)]):
        edited({"source": source, "target": target}[through])
    assert known.known(source) is None and known.of(source) != SHA


def test_damage_to_a_shared_file_is_seen_under_each_of_its_names(known: Hashes, tmp_path: Path) -> None:
    source = sealed(known, tmp_path / "source")
    known.bring(source, tmp_path / "target")
    edited(tmp_path / "target")
    assert known.known(source) is None and known.of(source) == known.of(tmp_path / "target") != SHA


@pytest.mark.parametrize("when", ["before it is sealed", "after"])
def test_what_was_hashed_while_it_was_written_is_read_again_after_a_change(
    known: Hashes, tmp_path: Path, when: str
) -> None:
    path = tmp_path / "written"
    path.write_bytes(CONTENT)
    known.keep(path, SHA)
    if when == "after":
        assert known.sealed(path) == SHA
    edited(path)
    assert known.sealed(path) == hashlib.sha256(path.read_bytes()).hexdigest() != SHA


def test_a_source_is_remembered_once_its_times_would_show_a_change(
    known: Hashes, hashed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    assert known.of_source(source) == known.of_source(source) == SHA
    assert hashed == ["source", "source"], "it was written just now: another write could leave the same times"
    monkeypatch.setattr(hashes, "SETTLED", -(10**12))
    assert known.of_source(source) == known.of_source(source) == SHA
    assert hashed == ["source"] * 3
    edited(source)
    assert known.of_source(source) != SHA


def test_without_a_folder_nothing_is_known_and_everything_is_right(tmp_path: Path) -> None:
    source = sealed(hashes.NONE, tmp_path / "source")
    hashes.NONE.bring(source, tmp_path / "target")
    assert hashes.NONE.known(source) is None and hashes.NONE.of(tmp_path / "target") == SHA


def test_a_clone_is_taken_where_the_file_system_makes_one(
    known: Hashes, hashed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cloning(target: int, request: int, source: int) -> int:
        assert request == 0x40049409
        os.pwrite(target, os.pread(source, len(CONTENT), 0), 0)
        return 0

    source = sealed(known, tmp_path / "source")
    monkeypatch.setattr(fcntl, "ioctl", cloning)
    assert known.bring(source, tmp_path / "target") is None
    assert (tmp_path / "target").stat().st_ino != source.stat().st_ino
    assert known.of(tmp_path / "target") == SHA and hashed == ["source"]


@pytest.mark.parametrize("spoil", [b"", b"null", b"[]", b'{"sha256": 1, "fields": 2}', b"\xff"])
def test_a_spoilt_side_file_says_nothing(known: Hashes, tmp_path: Path, spoil: bytes) -> None:
    source = sealed(known, tmp_path / "source")
    for side_file in (tmp_path / "known").iterdir():
        side_file.write_bytes(spoil)
    assert known.known(source) is None and known.of(source) == SHA == known.known(source)


@pytest.mark.parametrize("act", [Hashes.of, Hashes.of_source, Hashes.sealed], ids=lambda act: act.__name__)
def test_what_is_not_there_is_an_os_error(known: Hashes, tmp_path: Path, act: Callable[[Hashes, Path], str]) -> None:
    with pytest.raises(FileNotFoundError):
        act(known, tmp_path / "nothing")
