"""A quick look tells what the full one tells, from indexes and headers, and imports neither TensorFlow nor Prefect."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import isolate
from tasks.errors import ChildFailed, PipelineError
from tasks.inspection import inspect
from tasks.inspection.quick import quick
from tasks.isolate import Limits
from tasks.records.adoption import ModelOptions
from tasks.records.forms import Form
from tests.makers import inspected_files


def v1(folder: Path) -> None:
    inspected_files.checkpoint(folder / "model.ckpt", 1)


def v2(folder: Path) -> None:
    inspected_files.checkpoint(folder / "model.ckpt")


def exported(folder: Path) -> None:
    inspected_files.saved_model(folder / "model")


def keras(folder: Path) -> None:
    inspected_files.keras_file(folder / "model.keras")


def graph(folder: Path) -> None:
    inspected_files.graph_file(folder / "graph.pb")


@pytest.mark.parametrize("make", [v1, v2, exported, keras, graph], ids=lambda make: make.__name__)
def test_it_tells_what_the_full_look_tells(tmp_path: Path, make: Callable[[Path], None]) -> None:
    isolate.call(make, tmp_path)
    found = isolate.forked(quick, tmp_path, None)
    full = isolate.call(inspect.inspect, tmp_path, ModelOptions(), None, read=False, values=False)
    assert (found.form, found.path, found.whole, found.damage) == (full.form, full.path, None, ())
    if found.form is not Form.GRAPH_DEF:  # whose constants are looked at in full alone
        rows, others = ([(row.name, row.dtype, row.shape, row.role) for row in one.variables] for one in (found, full))
        assert rows == others and rows
        sizes = {row.name: row.bytes for row in full.variables}
        assert [row.name for row in found.variables if row.dtype != "string" and row.bytes != sizes[row.name]] == []
    assert (found.written_by, found.producer, found.collections) == (full.written_by, full.producer, full.collections)
    assert (found.hyperparameters, found.keras) == (full.hyperparameters, full.keras)
    declared = [one.proposal.declared if one.proposal else () for one in (found, full)]
    assert declared[0] == declared[1]


@pytest.mark.parametrize("command", ["--help", "releases m --serving-root serving", "inspect --quick model.ckpt-7"])
def test_neither_tensorflow_nor_prefect_is_imported(tmp_path: Path, command: str) -> None:
    isolate.call(v2, tmp_path)
    (tmp_path / "serving" / "m" / "1").mkdir(parents=True)
    told = subprocess.run(
        [sys.executable, "-m", "flows.cli", *command.split()],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPROFILEIMPORTTIME": "1"},
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr[-500:]
    imported = {line.rpartition("|")[2].strip() for line in told.stderr.splitlines() if line.startswith("import time:")}
    assert "typer" in imported
    assert not [name for name in imported if name.startswith(("tensorflow.python", "prefect", "keras"))]
    if command != "--help":
        assert not {"tensorflow", "numpy.linalg"} & imported or "inspect" in command


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_flipped_byte_ends_it(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp() / "quick"
    if not folder.exists():
        folder.mkdir()
        isolate.call(v2, folder)
    file = folder / data.draw(st.sampled_from(sorted(path.name for path in folder.iterdir())))
    content = file.read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    file.write_bytes(content[:at] + bytes([content[at] ^ (1 << data.draw(st.integers(0, 7)))]) + content[at + 1 :])
    try:
        isolate.forked(quick, folder, None)
    except PipelineError as error:
        assert not isinstance(error, ChildFailed), error
    finally:
        file.write_bytes(content)


def endless() -> int:
    """Count for ever."""
    number = 0
    while True:
        number += 1


def greedy() -> int:
    """Take a gigabyte."""
    return len(bytearray(1 << 30))


def lost() -> int:
    """End without an answer."""
    os._exit(7)


def test_a_fork_is_held_to_limits_and_its_end_is_told() -> None:
    with isolate.limits(Limits(seconds=1)), pytest.raises(ChildFailed, match="within 1 s"):
        isolate.forked(endless)
    with (
        isolate.limits(Limits(memory=900 << 20)),
        pytest.raises(ChildFailed, match=r"at most 900 MiB.*\n.*limits\.memory"),
    ):
        isolate.forked(greedy)
    with pytest.raises(ChildFailed, match="exit code 7"):
        isolate.forked(lost)
