"""What a path holds, where something in it is no file at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tasks import isolate
from tasks.errors import PipelineError, UsageError
from tasks.forms import inspection
from tasks.forms.detect import detect
from tasks.isolate import Limits
from tasks.records.adoption import Given
from tests.forms import looked_at


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    isolate.call(looked_at.checkpoint, folder / "checkpoint" / "model.ckpt")
    isolate.call(looked_at.saved_model, folder / "model")
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
            isolate.call(inspection.inspect, asked, Given(), None, read=True, values=False)
        except UsageError as error:
            assert "a pipe" in str(error)


def test_a_pipe_beside_damage_is_not_waited_for_either(saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved / "checkpoint", tmp_path / "copied"))
    os.mkfifo(folder / "model.ckpt-7.data-00001-of-00003")
    with isolate.limits(Limits(seconds=20.0)):
        found = isolate.call(inspection.inspect, folder, Given(), None, read=True, values=False)
    assert found.whole is False and "is missing" in found.damage[0]


def test_a_device_is_no_model() -> None:
    with pytest.raises(UsageError, match="a device"):
        detect(Path("/dev/zero"))
