"""A path's form is detected by structure, also where entries of it are no regular files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tasks import isolate
from tasks.errors import DamagedError, PipelineError, UsageError
from tasks.forms.detect import detect, sniff
from tasks.inspection import inspect
from tasks.isolate import Limits
from tasks.records.adoption import ModelOptions
from tasks.records.forms import Form
from tests.forms import bytes_read
from tests.makers import checkpoint_tables, inspected_files


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    isolate.call(inspected_files.checkpoint, folder / "checkpoint" / "model.ckpt")
    isolate.call(inspected_files.saved_model, folder / "model")
    return folder


@pytest.mark.parametrize(
    "pipe",
    [
        "graph.pb",
        "checkpoint/model.ckpt-7.index",
        "checkpoint/model.ckpt-7.data-00000-of-00001",
        "checkpoint/assets/words.txt",
        "model/variables/variables.data-00000-of-00001",
        "model/assets/words.txt",
        "model/saved_model.pb",
    ],
)
def test_a_pipe_is_refused_and_not_waited_for(saved: Path, tmp_path: Path, pipe: str) -> None:
    folder = tmp_path / "copied"
    shutil.copytree(saved, folder)
    path = folder / pipe
    if pipe.endswith(".pb"):
        shutil.copyfile(folder / "model" / "saved_model.pb", folder / "model" / "saved_model.pbtxt")
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    os.mkfifo(path)
    asked = path if pipe == "graph.pb" else folder / Path(pipe).parts[0]
    with isolate.limits(Limits(seconds=20.0)):
        if ".index" in pipe:
            with pytest.raises(PipelineError, match="index"):
                isolate.call(detect, asked)
        else:
            with pytest.raises(UsageError, match="a pipe, a socket or a device"):
                isolate.call(detect, asked)
        try:
            isolate.call(inspect.inspect, asked, ModelOptions(), None, read=True, values=False)
        except UsageError as error:
            assert "a pipe" in str(error)


def test_a_pipe_beside_damage_is_not_waited_for_either(saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved / "checkpoint", tmp_path / "copied"))
    os.mkfifo(folder / "model.ckpt-7.data-00001-of-00003")
    with isolate.limits(Limits(seconds=20.0)):
        found = isolate.call(inspect.inspect, folder, ModelOptions(), None, read=True, values=False)
    assert found.whole is False and "is missing" in found.damage[0]


def test_a_device_is_no_model() -> None:
    with pytest.raises(UsageError, match="a device"):
        detect(Path("/dev/zero"))


@pytest.mark.parametrize("file", ["model.ckpt-7.index", "checkpoint", "model.keras"])
def test_a_file_that_is_large_is_not_read_whole(saved: Path, tmp_path: Path, file: str) -> None:
    """detect runs in the flow's own process, too, which no watchdog ends."""
    folder = Path(shutil.copytree(saved / "checkpoint", tmp_path / "copied"))
    if file == "model.keras":
        members = 200 * 2**20  # of a list of members that says so, and is not there
        end = b"PK\5\6" + bytes(8) + members.to_bytes(4, "little") + bytes(4) + bytes(2)
        (folder / file).write_bytes(b"PK\3\4" + bytes(60))
        os.truncate(folder / file, members + 64)
        with (folder / file).open("ab") as stream:
            stream.write(end)
    else:
        content = (folder / file).read_bytes()
        footer = content[-48:]  # an index ends as a table does
        (folder / file).write_bytes(content)
        os.truncate(folder / file, 400 * 2**20)
        with (folder / file).open("ab") as stream:
            stream.write(footer)
    with isolate.limits(Limits(seconds=60.0)):
        grown, said = isolate.call(bytes_read.grown_by_detecting, folder / file if file == "model.keras" else folder)
    assert grown < 64 * 2**20, said


def test_an_index_beyond_any_models_is_damage(saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved / "checkpoint", tmp_path / "copied"))
    footer = (folder / "model.ckpt-7.index").read_bytes()[-48:]
    os.truncate(folder / "model.ckpt-7.index", 2**28)
    with (folder / "model.ckpt-7.index").open("ab") as stream:
        stream.write(footer)
    with pytest.raises(DamagedError, match="an index of at most 256 MiB"):
        detect(folder)


def test_an_object_graphs_key_makes_an_object_checkpoint(tmp_path: Path) -> None:
    tensor = checkpoint_tables.entry(1, (2, 2), 16)
    checkpoint_tables.write_index(tmp_path / "m", {b"_CHECKPOINT": tensor}, bytes(16))
    assert detect(tmp_path).form is Form.SAVER_V2
    graph = checkpoint_tables.entry(7, (), 12)
    entries = {b"_CHECKPOINT": tensor, b"_CHECKPOINTABLE_OBJECT_GRAPH": graph}
    checkpoint_tables.write_index(tmp_path / "m", entries, bytes(16))
    assert detect(tmp_path).form is Form.OBJECT_CHECKPOINT


@pytest.mark.parametrize(
    "text",
    ["\nperson\nbicycle\ncar\nmotorcycle\nairplane", "\nlabel\nother\n", "\ncat\ndog\n", "\n\n", "\n\tx\n", "a\nb\n"],
)
def test_a_text_is_no_graph(tmp_path: Path, text: str) -> None:
    """An empty line is the key of a message's first field."""
    (tmp_path / "labels.txt").write_text(text)
    assert sniff(tmp_path / "labels.txt") is None
    shutil.copyfile(tmp_path / "labels.txt", tmp_path / "longer.txt")
    (tmp_path / "longer.txt").write_text(text + "word\n" * 40)
    assert sniff(tmp_path / "longer.txt") is None
