"""Adoption of models with one unusual property each: shipped unchanged, or refused with the reason."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tasks import isolate
from tasks.adopt import adopt
from tasks.artifacts.store import Artifact
from tasks.baseline.training_run import TrainingRun
from tasks.checkpoint import checkpoint
from tasks.errors import DamagedError, UnsupportedGraph, UsageError
from tasks.export import export
from tasks.freeze import freeze
from tasks.records.adoption import ModelFiles, ModelOptions, ProbeSource
from tasks.records.parity import ParityReport
from tasks.records.settings import Selection, SessionOptions
from tasks.restore_verify import restore_verify
from tasks.step import Run
from tasks.tensors import tensor_file
from tasks.user_code.source import ModelSource
from tests.makers import trainable_checkpoints
from tests.makers.tolerance import DECLARED

GIVEN = ModelOptions()


def adopted(path: Path, given: ModelOptions = GIVEN, code: ModelSource | None = None) -> Artifact:
    return adopt(ModelFiles(name="m", path=path), given, ProbeSource(), SessionOptions(), code)


def saved(folder: Path, name: str, *arguments: str) -> Path:
    isolate.call(trainable_checkpoints.save, folder / "model", name, *arguments)
    return folder / "model"


def candidates(made: Artifact) -> set[str]:
    """Every form of a run written and proved; which were compared, and passed."""
    pinned = checkpoint(made, Selection())
    verified = restore_verify(pinned, made, DECLARED)
    written = [form(pinned, verified, made, DECLARED) for form in (freeze, export)]
    rows = [
        row
        for artifact in (verified, *written)
        for row in ParityReport.model_validate_json((artifact.path / "parity.json").read_bytes()).rows
    ]
    assert [row for row in rows if row.passed is False] == []
    return {row.candidate for row in rows if row.output == "y" and row.passed}


def notes(made: Artifact) -> tuple[str, ...]:
    found = TrainingRun(made.path).adopted()
    assert found is not None
    return found.notes


def test_an_input_that_no_output_needs_is_there_in_every_form(run: Run, tmp_path: Path) -> None:
    made = adopted(saved(tmp_path, "unused_input"))
    assert candidates(made) == {
        "checkpoint", "frozen_graph", "saved_model (v1 loader)", "saved_model (v2 loader)",
    }  # fmt: skip
    (signature,) = TrainingRun(made.path).names().signatures
    assert signature.inputs.keys() == {"x", "u"}


def test_a_shape_that_one_signature_declares_does_not_narrow_another(run: Run, tmp_path: Path) -> None:
    path = saved(tmp_path, "shared_placeholder")
    isolate.call(trainable_checkpoints.declare_rows, path, ["b"], 1)
    made = adopted(path)
    assert {one.key: one.inputs["x"].shape for one in TrainingRun(made.path).names().signatures} == {
        "a": (None, 3),
        "b": (None, 3),
    }
    assert notes(made) == ("input x of b takes [?,3], where [1,3] is declared",)
    rows = tensor_file.read_tensors(made.path / "probe.tensors")
    assert rows["a/x"].shape == rows["b/x"].shape == (50, 3)


def test_a_shape_that_is_declared_narrower_than_the_graph_ships_as_declared_and_is_noted(
    run: Run, tmp_path: Path
) -> None:
    path = saved(tmp_path, "shared_placeholder")
    isolate.call(trainable_checkpoints.declare_rows, path, ["b"], 1)
    made = adopted(path, ModelOptions(signature="b"))
    assert set(notes(made)) == {
        "left out by --signature b, and so neither proven nor served: a",
        "input x of b takes [1,3] only, as declared; the graph's own takes [?,3]",
    }
    assert tensor_file.read_tensors(made.path / "probe.tensors")["b/x"].shape == (1, 3)


def test_a_shape_that_is_declared_wider_than_the_graph_stays_the_graphs_own(run: Run, tmp_path: Path) -> None:
    path = saved(tmp_path, "one_row")
    isolate.call(trainable_checkpoints.declare_rows, path, ["serving_default"], -1)
    made = adopted(path)
    assert notes(made) == ("input x of serving_default takes [1,3], where [?,3] is declared",)
    assert tensor_file.read_tensors(made.path / "probe.tensors")["serving_default/x"].shape == (1, 3)


def test_what_one_signature_is_fed_and_another_computes_ships_as_both(run: Run, tmp_path: Path) -> None:
    made = adopted(saved(tmp_path, "inner_input"))
    assert {"checkpoint", "frozen_graph", "saved_model (v2 loader)"} <= candidates(made)
    rows = tensor_file.read_tensors(made.path / "probe.tensors")
    (recorded,) = (made.path / "baselines").glob("*.tensors")
    answers = tensor_file.read_tensors(recorded)
    np.testing.assert_allclose(answers["whole/y"], (rows["whole/x"] + 1.0) * 2.0)
    np.testing.assert_allclose(answers["whole/h"], rows["whole/x"] + 1.0)
    np.testing.assert_allclose(answers["second/y"], rows["second/h"] * 2.0)


def test_a_graph_that_was_frozen_here_says_its_own_signatures(run: Run, tmp_path: Path) -> None:
    first = adopted(saved(tmp_path, "inner_input"))
    pinned = checkpoint(first, Selection())
    frozen = freeze(pinned, restore_verify(pinned, first, DECLARED), first, DECLARED)
    again = adopted(frozen.path)
    names = [TrainingRun(made.path).names() for made in (first, again)]
    assert [{one.key: set(one.inputs) for one in found.signatures} for found in names] == [
        {"second": {"h"}, "whole": {"x"}}
    ] * 2
    copy = tmp_path / "copy"
    shutil.copytree(frozen.path, copy)
    (copy / "signature.json").chmod(0o644)
    (copy / "signature.json").write_text('{"signatures": 3}')
    with pytest.raises(DamagedError, match=r"signature\.json"):
        adopted(copy)


@pytest.mark.parametrize(
    ("name", "said"),
    [("counting", r"AssignAdd\), with w"), ("counting_in_a_function", r"AssignAddVariableOp\), with w")],
)
def test_a_main_op_that_writes_what_the_outputs_read_is_refused(run: Run, tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(UnsupportedGraph, match=said):
        adopted(saved(tmp_path, name))


def test_a_main_op_may_write_what_no_output_reads(run: Run, tmp_path: Path) -> None:
    made = adopted(saved(tmp_path, "beside_the_weights"))
    assert "saved_model (v1 loader)" in candidates(made)


@pytest.mark.parametrize("key", ["", "a%2Fb"])
def test_a_signature_key_that_no_name_can_follow_is_refused(run: Run, tmp_path: Path, key: str) -> None:
    path = saved(tmp_path, "twice", key)
    with pytest.raises(UsageError, match="keys that are not empty and have no %2F") as raised:
        adopted(path)
    assert repr(key) in str(raised.value)
    made = adopted(path, ModelOptions(inputs=("x:0",), outputs=("y=mul:0",)))
    assert [one.key for one in TrainingRun(made.path).names().signatures] == ["serving_default"]


def test_rows_that_the_code_beside_a_checkpoint_does_not_give_are_asked_for(run: Run, tmp_path: Path) -> None:
    isolate.call(trainable_checkpoints.checkpoint_of_two_signatures, tmp_path)
    code = ModelSource(
        name="two",
        module="trainable_checkpoints",
        attribute="TwoSignatures",
        folder=Path(__file__).parents[1] / "makers",
    )
    with pytest.raises(UsageError, match=r"probe\(\): expected rows for a/x, b/x, found none for b/x"):
        adopted(tmp_path / "model.ckpt", code=code)
    made = adopted(tmp_path / "model.ckpt", ModelOptions(signature="a"), code)
    assert "left out by --signature a, and so neither proven nor served: b" in notes(made)
    np.testing.assert_array_equal(
        tensor_file.read_tensors(made.path / "baselines" / "0.tensors")["a/y"], np.full((4, 3), 2)
    )
