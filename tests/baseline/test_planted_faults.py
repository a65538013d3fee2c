"""A fault planted in a form is refused and named: a checkpoint's by the restore, a frozen graph's by the smoke test, a
SavedModel's by either loader; harmless changes pass. What the smoke test says of a SavedModel's: serving/checks/test_mutants.

Each spoiled artifact is committed with a correct manifest: hashing is not what finds the fault. Tensor bundles are
written anew, with the spoiled tensors' own checksums.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tasks import isolate
from tasks.artifact_views import Pinned
from tasks.artifacts.store import Artifact
from tasks.baseline import reference
from tasks.errors import CoverageError, ParityError, PipelineError
from tasks.forms import checkpoint_files, saver
from tasks.records.parity import ParityTest
from tasks.restore_verify import restore_verify
from tasks.smoke_test import smoke_test
from tasks.step import Run
from tests.makers import saved_model_faults
from tests.makers.chain import SERVING, TOLERANCE, Chain


def in_saved_model(out: Path) -> Path:
    return out / "saved_model"


def smoke(chain: Chain, exported: Artifact, frozen: Artifact | None = None) -> Artifact:
    return smoke_test(exported, chain.pinned, chain.trained, frozen or chain.frozen, SERVING, TOLERANCE)


@pytest.mark.parametrize(
    ("fault", "form"),
    [
        (saved_model_faults.dropout_left_on, "saved_model (v1 loader)"),
        (saved_model_faults.dropout_left_on, "saved_model (v2 loader)"),
        (saved_model_faults.batch_norm_in_training_mode, "saved_model (v1 loader)"),
        (saved_model_faults.batch_norm_in_training_mode, "saved_model (v2 loader)"),
        (saved_model_faults.outputs_swapped, "saved_model (v1 loader)"),
        (saved_model_faults.outputs_swapped, "saved_model (v2 loader)"),
        (saved_model_faults.wrong_dtype, "saved_model (v1 loader)"),
        (saved_model_faults.wrong_dtype, "saved_model (v2 loader)"),
        (saved_model_faults.other_vocabulary, "saved_model (v2 loader)"),
        (saved_model_faults.variable_not_restored, "saved_model (v1 loader)"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_either_loader_shows_what_is_wrong_with_a_saved_model(
    chain: Chain, fault: Callable[[Path], None], form: str
) -> None:
    exported = chain.spoiled(chain.exported, in_saved_model, fault)
    report = isolate.call(
        reference.prove, form, exported.path / "saved_model", chain.trained.path, chain.step, TOLERANCE
    )
    assert not report.passed
    assert {row.candidate for row in report.failures} == {form}


@pytest.mark.parametrize(
    ("fault", "test", "named"),
    [
        (saved_model_faults.frozen_dropout_left_on, ParityTest.EXACT, "logits"),
        (saved_model_faults.frozen_batch_norm_in_training_mode, ParityTest.EXACT, "logits"),
        (saved_model_faults.frozen_weight_zeroed, ParityTest.VALUES, saved_model_faults.WEIGHT),
        (saved_model_faults.frozen_weight_moved, ParityTest.VALUES, saved_model_faults.WEIGHT),
        (saved_model_faults.frozen_all_nan, ParityTest.VALUES, saved_model_faults.WEIGHT),
        (saved_model_faults.frozen_wrong_dtype, ParityTest.EXACT, "class"),
        (saved_model_faults.frozen_outputs_swapped, ParityTest.EXACT, "logits"),
        (saved_model_faults.other_vocabulary, ParityTest.VALUES, "asset sundaynet_labels.txt"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_spoiled_frozen_graph_is_refused(
    chain: Chain, in_run: Run, fault: Callable[[Path], None], test: ParityTest, named: str
) -> None:
    spoiled = chain.spoiled(chain.frozen, lambda out: out, fault)
    report = isolate.call(reference.prove, "frozen_graph", spoiled.path, chain.trained.path, chain.step, TOLERANCE)
    assert not report.passed
    assert (test, named) in {(row.test, row.output) for row in report.failures}


def test_a_graph_frozen_from_an_older_checkpoint_is_refused_by_its_values(chain: Chain, tmp_path: Path) -> None:
    older = checkpoint_files.prefixes(chain.trained.path / "checkpoints")[0]
    assert checkpoint_files.step_of(older) != chain.step
    isolate.call(saved_model_faults.freeze_older, chain.trained.path, older, tmp_path)
    report = isolate.call(reference.prove, "frozen_graph", tmp_path, chain.trained.path, chain.step, TOLERANCE)
    assert saved_model_faults.WEIGHT in {row.output for row in report.failures if row.test is ParityTest.VALUES}


@pytest.mark.parametrize(
    ("fault", "error", "named"),
    [
        (saved_model_faults.one_weight_moved, ParityError, saved_model_faults.WEIGHT),
        (saved_model_faults.one_weight_zeroed, ParityError, saved_model_faults.WEIGHT),
        (saved_model_faults.all_nan, ParityError, "beta1_power, test values"),
        (saved_model_faults.variable_dropped, CoverageError, saved_model_faults.WEIGHT),
        (saved_model_faults.variable_of_other_shape, CoverageError, saved_model_faults.WEIGHT),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_spoiled_checkpoint_is_refused_by_the_restore(
    chain: Chain, in_run: Run, fault: Callable[[Path], None], error: type[PipelineError], named: str
) -> None:
    prefix = Pinned(chain.pinned.path).record().prefix

    def spoil(out: Path) -> Path:
        return out / prefix

    spoiled = chain.spoiled(chain.pinned, spoil, fault)
    with pytest.raises(error) as refusal:
        restore_verify(spoiled, chain.trained, TOLERANCE)
    assert named in str(refusal.value)
    if isinstance(refusal.value, ParityError):
        assert saved_model_faults.WEIGHT in {
            row.output for row in refusal.value.report.failures if row.test is ParityTest.VALUES
        }
    with pytest.raises(error) as again:  # the verdict is kept
        restore_verify(spoiled, chain.trained, TOLERANCE)
    assert str(again.value) == str(refusal.value)
    assert in_run.outcomes[-1].seconds < 0.5


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (saved_model_faults.meta_dropout_left_on, "serving_default/logits"),
        (saved_model_faults.meta_batch_norm_in_training_mode, "serving_default/logits"),
        (saved_model_faults.meta_outputs_swapped, "serving_default/logits"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_spoiled_graph_of_a_checkpoint_is_refused_by_the_restore(
    chain: Chain, in_run: Run, fault: Callable[[Path], None], named: str
) -> None:
    prefix = Pinned(chain.pinned.path).record().prefix
    spoiled = chain.spoiled(chain.pinned, lambda out: out / f"{prefix}{checkpoint_files.META}", fault)
    with pytest.raises(ParityError) as refusal:
        restore_verify(spoiled, chain.trained, TOLERANCE)
    report = refusal.value.report
    assert named in {f"{row.signature}/{row.output}" for row in report.failures if row.test is ParityTest.EXACT}
    assert {row.test for row in report.failures} <= {ParityTest.EXACT, ParityTest.STRUCTURE}  # every value is right


def test_the_table_of_tensors_is_of_the_files_that_lie_beside_it(chain: Chain) -> None:
    table = Pinned(chain.pinned.path).record().tensors
    assert list(table) == isolate.call(
        saver.tensor_table, chain.pinned.path / Pinned(chain.pinned.path).record().prefix
    )


@pytest.mark.parametrize("form", ["saved_model (v1 loader)", "saved_model (v2 loader)"])
def test_nodes_in_another_order_change_nothing(chain: Chain, form: str) -> None:
    exported = chain.spoiled(chain.exported, in_saved_model, saved_model_faults.nodes_in_other_order)
    report = isolate.call(
        reference.prove, form, exported.path / "saved_model", chain.trained.path, chain.step, TOLERANCE
    )
    assert report.passed, report.failures


def test_other_node_names_change_nothing(chain: Chain) -> None:
    spoiled = chain.spoiled(chain.frozen, lambda out: out, saved_model_faults.frozen_nodes_renamed)
    report = isolate.call(reference.prove, "frozen_graph", spoiled.path, chain.trained.path, chain.step, TOLERANCE)
    assert report.passed, report.failures


@pytest.mark.parametrize("rows", [1, 7])
def test_another_batch_size_is_equal_within_the_served_tolerance(chain: Chain, rows: int) -> None:
    report = isolate.call(saved_model_faults.in_batches_of, rows, chain.frozen.path, chain.trained.path, chain.step)
    assert report.passed, report.failures
    assert {row.test for row in report.rows} == {ParityTest.SERVED}
