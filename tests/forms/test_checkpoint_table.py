"""What a checkpoint's tables declare is held against the files before TensorFlow sees it."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import isolate
from tasks.errors import DamagedError, UsageError
from tasks.forms import checkpoint_table, detect, snappy
from tasks.inspection import inspect
from tasks.isolate import Limits
from tasks.records.adoption import ModelOptions
from tasks.records.forms import Form
from tests.conftest import MakeOnce
from tests.makers import checkpoint_tables, inspected_files

FLOAT, STRING, VARIANT = 1, 7, 21


@pytest.fixture(scope="session")
def all_types(made_once: MakeOnce) -> Path:
    def make(folder: Path) -> None:
        keys = isolate.call(checkpoint_tables.write_all_types, folder / "model.ckpt-3")
        (folder / "keys").write_text("\n".join(keys))

    return made_once("checkpoint_of_all_types", make)


def test_an_index_of_every_type_is_read_as_tensorflow_reads_it(all_types: Path) -> None:
    keys = {key for key in checkpoint_table.keys(all_types / "model.ckpt-3.index") if key[0] != "\0"}
    assert sorted(keys) == (all_types / "keys").read_text().splitlines()
    assert len(keys) > 20


@pytest.mark.parametrize("folder", ["TFSHIP_CORPUS", "TFSHIP_GOLDEN"])
def test_every_index_of_others_is_read(folder: str) -> None:
    """Those of TensorFlow Serving's own models are compressed."""
    if folder not in os.environ:
        pytest.skip(f"{folder} names no folder")
    indexes = sorted(Path(os.environ[folder]).rglob("*.index"))
    assert len(indexes) > 3
    for index in indexes:
        assert checkpoint_table.keys(index)
        assert checkpoint_table.is_index(index)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        pytest.param(checkpoint_tables.entry(FLOAT, (-2, -2), 16), "a shape that a tensor can have", id="negative"),
        pytest.param(checkpoint_tables.entry(FLOAT, (2**40, 2**40), 16), "a shape that a tensor can", id="overflow"),
        pytest.param(checkpoint_tables.entry(FLOAT, (2**40, 2**40, 0), 0), "a shape that a tensor can", id="hidden"),
        pytest.param(checkpoint_tables.entry(FLOAT, (1,) * 300, 4), "at most 254 dimensions, found 300", id="rank"),
        pytest.param(
            checkpoint_tables.field(1, FLOAT) + checkpoint_tables.field(2, checkpoint_tables.field(3, 1)),
            "a shape that a tensor can have",
            id="no-rank",
        ),
        pytest.param(checkpoint_tables.entry(STRING, (2**28,), 16), "at least 268435456 bytes", id="strings"),
        pytest.param(checkpoint_tables.entry(VARIANT, (2**28,), 16), "at least 268435456 bytes", id="variants"),
        pytest.param(checkpoint_tables.entry(FLOAT, (2, 2), 12), "expected 16 bytes for the shape [2, 2]", id="size"),
        pytest.param(checkpoint_tables.entry(FLOAT, (2, 2), 16, offset=8), "a place in its data file", id="behind"),
        pytest.param(checkpoint_tables.entry(FLOAT, (2, 2), 16, offset=-8), "a place in its data file", id="before"),
        pytest.param(b"\xff\xff", "an entry of an index", id="no-entry"),
    ],
)
def test_an_entry_that_cannot_be_is_damage(tmp_path: Path, entry: bytes, words: str) -> None:
    good = checkpoint_tables.entry(FLOAT, (2, 2), 16)
    checkpoint_tables.write_index(tmp_path / "m", {b"good": good}, bytes(16))
    assert detect.detect(tmp_path).form is Form.SAVER_V2
    checkpoint_tables.write_index(tmp_path / "m", {b"good": good, b"layer/bad": entry}, bytes(16))
    with pytest.raises(DamagedError) as refused:
        detect.detect(tmp_path)
    assert words in str(refused.value) and "tensor 'layer/bad'" in str(refused.value)


def test_a_damaged_index_is_inspected_without_the_memory_that_it_declares(tmp_path: Path) -> None:
    good = checkpoint_tables.entry(FLOAT, (2, 2), 16)
    entries = {b"good": good, b"layer/bad": checkpoint_tables.entry(STRING, (2**28,), 16)}
    checkpoint_tables.write_index(tmp_path / "m", entries, bytes(16))
    with isolate.limits(Limits(seconds=60.0, memory=2 * 2**30)):
        found = isolate.call(inspect.inspect, tmp_path, ModelOptions(), None, read=True, values=False)
    assert [row.name for row in found.variables] == ["good", "layer/bad"]
    assert found.whole is False and "'layer/bad'" in found.damage[0]


@pytest.mark.parametrize("sizes", [(-1,), (2**62, 4), (1,) * 300])
def test_a_v1_file_with_a_shape_that_cannot_be_is_damage(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    checkpoint_tables.write_v1(tmp_path / "model-3", b"layer/good", (2, 3))
    assert detect.detect(tmp_path).form is Form.SAVER_V1
    checkpoint_tables.write_v1(tmp_path / "model-3", b"layer/bad", sizes)
    with pytest.raises(DamagedError, match="tensor 'layer/bad'"):
        detect.detect(tmp_path)


@given(at=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_index_is_read_or_refused(
    all_types: Path, tmp_path_factory: pytest.TempPathFactory, at: float, byte: int, cut: bool
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    index = bytearray((all_types / "model.ckpt-3.index").read_bytes())
    position = int(at * len(index))
    index[position] = byte
    (folder / "m.index").write_bytes(index[:position] if cut else index)
    shutil.copyfile(all_types / "model.ckpt-3.data-00000-of-00001", folder / "m.data-00000-of-00001")
    try:
        checkpoint_table.keys(folder / "m.index")
    except DamagedError as error:
        assert str(folder / "m.index") in str(error)


@pytest.mark.parametrize("name", ["model.ckpt-7.INDEX", "model.ckpt-7.index (1)", "index", "model"])
def test_an_index_under_another_name_is_no_v1_checkpoint(tmp_path: Path, name: str) -> None:
    isolate.call(inspected_files.checkpoint, tmp_path / "checkpoint" / "model.ckpt")
    folder = tmp_path / "checkpoint"
    shutil.copyfile(folder / "model.ckpt-7.index", folder / name)
    assert detect.detect(folder).form is Form.SAVER_V2, "a copy beside the checkpoint"
    (folder / "model.ckpt-7.index").unlink()
    with pytest.raises(UsageError, match=r"under their own names") as refused:
        detect.detect(folder / name)
    assert "rename it to" in refused.value.remedy
    with pytest.raises((UsageError, DamagedError)):
        detect.detect(folder)


def test_blocks_that_overlap_are_read_once(tmp_path: Path) -> None:
    """One block that every handle names would be read as often as there are handles."""
    data = checkpoint_tables.table({b"a": b""})
    assert checkpoint_table.is_table(tmp_path / "none") is False
    handle = checkpoint_tables.varint(0) + checkpoint_tables.varint(12)
    entries = b"".join(bytes([0, 1, len(handle)]) + key + handle for key in (b"a", b"b"))
    index = entries + bytes(4) + (1).to_bytes(4, "little")
    footer = (
        checkpoint_tables.varint(0) * 2 + checkpoint_tables.varint(len(data)) + checkpoint_tables.varint(len(index))
    )
    (tmp_path / "m.index").write_bytes(data + index + bytes(5) + footer.ljust(40, b"\0") + checkpoint_table.MAGIC)
    with pytest.raises(DamagedError, match="overlap"):
        checkpoint_table.keys(tmp_path / "m.index")


# Snappy, after the examples of its format description


@pytest.mark.parametrize(
    ("compressed", "plain"),
    [
        pytest.param(b"\x00", b"", id="nothing"),
        pytest.param(b"\x05\x10hello", b"hello", id="literal"),
        pytest.param(b"\x46\xf0\x45" + b"x" * 70, b"x" * 70, id="long literal"),
        pytest.param(b"\x0a\x04ab\x11\x02", b"ab" * 5, id="overlapping copy"),
        pytest.param(b"\x08\x0cabcd\x0e\x04\x00", b"abcd" * 2, id="copy of two bytes' distance"),
        pytest.param(b"\x08\x0cabcd\x0f\x04\x00\x00\x00", b"abcd" * 2, id="copy of four bytes' distance"),
    ],
)
def test_snappy(compressed: bytes, plain: bytes) -> None:
    assert snappy.decompress(compressed, 100) == plain
    for length in range(len(compressed)):
        with pytest.raises(ValueError):
            snappy.decompress(compressed[:length], 100)
    with pytest.raises(ValueError):
        snappy.decompress(compressed + b"\x00", 100)


@given(st.binary(max_size=200))
def test_snappy_of_anything_is_bounded(compressed: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert len(snappy.decompress(compressed, 1000)) <= 1000
