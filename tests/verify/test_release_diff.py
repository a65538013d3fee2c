"""What changed between two releases is told: ops, signatures, values, outputs; and nothing where nothing did."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.artifact_views import Exported
from tasks.records.adoption import ProbeSource
from tasks.verify.release_diff import ReleaseDiff, diff
from tests.makers.exported import a_run, exported


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """SavedModels by name."""
    with a_run(tmp_path_factory.mktemp("store")):
        made = {
            "2 x": exported("Scaled", factor=2.0),
            "3 x": exported("Scaled", factor=3.0),
            "20 x": exported("Baked"),
            "renamed": exported("Renamed"),
        }
        yield {name: Exported(chain[0].path).model for name, chain in made.items()}


def between(models: dict[str, Path], before: str, after: str) -> ReleaseDiff:
    return diff(models[before], models[after], ProbeSource())


def test_a_model_and_itself_are_the_same(models: dict[str, Path]) -> None:
    found = between(models, "2 x", "2 x")
    assert found.equal and found.outputs and found.files.same_tensors == 1
    assert not (found.files.ops or found.files.signatures or found.files.tensors)


def test_a_changed_weight_is_told_by_its_norm_and_by_the_outputs(models: dict[str, Path]) -> None:
    found = between(models, "2 x", "3 x")
    assert not found.equal and not found.files.ops and not found.files.signatures
    (change,) = found.files.tensors
    assert (change.name, change.norm_before, change.norm_after, change.distance) == ("factor", 2.0, 3.0, 1.0)
    (row,) = found.outputs
    assert row.output == "y" and row.mismatched and row.max_abs > 0


def test_changed_ops_are_counted_and_a_tensor_that_only_one_has_is_named(models: dict[str, Path]) -> None:
    found = between(models, "2 x", "20 x")
    assert found.files.ops["Sum"] == (0, 1)
    assert {(one.name, one.before, one.after) for one in found.files.tensors} == {
        ("a", "none", "float32 []"),
        ("factor", "float32 []", "none"),
    }
    assert not found.files.signatures


def test_a_renamed_input_is_a_change_although_the_answers_are_the_same(models: dict[str, Path]) -> None:
    found = between(models, "2 x", "renamed")
    assert found.files.signatures == (
        "serving_default: input x float32 [?], now none",
        "serving_default: input z none, now float32 [?]",
    )
    assert found.outputs and not any(row.mismatched for row in found.outputs) and not found.equal
