"""Promises of freeze, export and restore-verify beyond equal numbers, each on a model that would show it broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tasks import isolate, restore_verify
from tasks.artifact_views import Compared, Exported, Pinned, Restored
from tasks.artifacts.store import Artifact
from tasks.baseline.training_run import TrainingRun
from tasks.checkpoint import checkpoint
from tasks.errors import CoverageError, ParityError
from tasks.export import export
from tasks.forms import frozen_graph
from tasks.freeze import freeze
from tasks.records.parity import ParityReport, Tolerance
from tasks.records.settings import LabelledData, Selection, Training
from tasks.smoke_test import smoke_test
from tasks.step import Run
from tasks.train import train
from tasks.user_code.source import ModelSource
from tests.isolate.mount_namespace import can_hide
from tests.makers import promises, saved_model_faults
from tests.makers.chain import SERVING, TOLERANCE, Chain

STATEFUL = {"VarHandleOp", "ReadVariableOp", "AssignVariableOp", "ResourceGather", "VariableV2", "Variable", "Assign"}


def trained(name: str) -> tuple[Artifact, Artifact]:
    source = ModelSource(
        name=name.lower(), module="promises", attribute=name, folder=Path(__file__).parents[1] / "makers"
    )
    run = train(source, Training())
    return run, checkpoint(run, Selection())


def verified(name: str) -> tuple[Artifact, Artifact, Artifact]:
    run, chosen = trained(name)
    return run, chosen, restore_verify.restore_verify(chosen, run, TOLERANCE)


def parity_of(artifact: Artifact) -> ParityReport:
    found = Compared(artifact.path).parity()
    assert found
    return found


# What is not finite ---------------------------------------------------------------------------------------------------


def test_a_model_of_nan_is_refused_though_its_answers_are_integers(run: Run) -> None:
    with pytest.raises(ParityError, match=r"w \(12 of 12 values\)") as refusal:
        verified("NanClass")
    assert "finite values in the variables that the outputs read" in str(refusal.value)
    assert [(row.output, row.test.value) for row in refusal.value.report.failures] == [("w", "values")]


def test_a_variable_may_hold_nan_only_where_every_signature_that_reads_it_says_so(run: Run) -> None:
    assert parity_of(verified("NanClassAllowed")[2]).passed
    assert parity_of(verified("OneAllowed")[2]).passed
    with pytest.raises(ParityError, match=r"bad \(1 of 3 values\)"):
        verified("OtherAllowed")


def test_infinities_in_a_constant_and_in_a_variable_that_nothing_reads_are_no_matter(run: Run) -> None:
    assert parity_of(verified("InfinitePlaces")[2]).passed


def test_answers_that_may_be_nan_go_all_the_way(run: Run) -> None:
    made, chosen, proven = verified("NanAnswers")
    folded, model = (
        freeze(chosen, proven, made, TOLERANCE),
        export(chosen, proven, made, TOLERANCE),
    )
    for artifact in (proven, folded, model):
        assert parity_of(artifact).passed
    blessed = smoke_test(model, chosen, made, folded, SERVING, TOLERANCE)
    assert blessed.refusal() is None
    reference = TrainingRun(made.path).names()
    assert reference.signatures[0].allow_nonfinite


# What a frozen graph holds --------------------------------------------------------------------------------------------


def test_a_graph_too_large_for_one_message_is_said_not_to_be_made(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    made, chosen, proven = verified("Placed")
    monkeypatch.setattr(frozen_graph, "write", promises.freeze_limited)
    report = parity_of(freeze(chosen, proven, made, TOLERANCE))
    (row,) = report.rows
    assert row.passed is None and not report.passed
    assert row.note.startswith("not made: ") and row.note.endswith(" GiB > 2 GiB")


def test_what_the_converter_refuses_is_said_not_to_be_made(run: Run) -> None:
    made, chosen, proven = verified("BatchGather")
    (row,) = parity_of(freeze(chosen, proven, made, TOLERANCE)).rows
    assert row.passed is None and row.note.startswith("not made: TensorFlow cannot fold") and "batch_dims" in row.note


@pytest.mark.parametrize("error", ["ValueError", "KeyError", "TypeError"])
def test_a_mistake_of_ours_is_not_called_not_made(chain: Chain, tmp_path: Path, error: str) -> None:
    folder, pin = chain.pinned.path, Pinned(chain.pinned.path).record()
    names = TrainingRun(chain.trained.path).names()
    said = isolate.call(promises.freeze_with_a_bug, error, folder, folder / pin.prefix, names, tmp_path)
    assert said == f"raised {error}"


def test_neither_devices_nor_variables_are_left_in_graph_or_library(run: Run) -> None:
    made, chosen, proven = verified("Placed")
    placed = isolate.call(promises.devices_of_meta, made.path / "graph.meta")
    assert {"/device:GPU:0", "/device:CPU:0"} <= set(placed)  # there is something to clear
    folded, model = freeze(chosen, proven, made, TOLERANCE), export(chosen, proven, made, TOLERANCE)
    found = isolate.call(promises.devices, folded.path, Exported(model.path).model)
    (frozen_devices, frozen_ops), (saved_devices, saved_ops) = found["frozen"], found["saved_model"]
    assert frozen_devices == [] and saved_devices == []
    assert "ReadVariableOp" in saved_ops  # the functions do read variables
    assert frozen_ops and not STATEFUL & set(frozen_ops)


# What a restore shows -------------------------------------------------------------------------------------------------


def test_the_original_is_out_of_reach_in_an_ordinary_run(chain: Chain, tmp_path: Path) -> None:
    report = Restored(chain.verified.path).report()
    assert report
    assert report.hidden is can_hide(tmp_path)
    assert report.train_op and report.hyperparameters["steps"] and report.one_more_step == "passed"
    assert (report.parity.notes == ()) is report.hidden


def test_a_restore_with_the_original_in_reach_says_so_where_its_verdict_is(
    chain: Chain, in_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore_verify, "verify", promises.verify_in_sight)
    made = restore_verify.restore_verify(chain.pinned, chain.trained, Tolerance(absolute=3e-5), LabelledData())
    assert parity_of(made).notes == (restore_verify.NOT_HIDDEN,)
    report = Restored(made.path).report()
    assert report and report.hidden is False


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (saved_model_faults.meta_without_hyperparameters, "the hyper-parameters: expected"),
        (
            saved_model_faults.meta_of_another_rate,
            "the hyper-parameters: expected learning_rate 0.01, found learning_rate 0.5",
        ),
        (
            saved_model_faults.meta_without_train_op,
            "expected the train op 'train_op', which the training run recorded, found none",
        ),
        (
            saved_model_faults.meta_without_loss,
            "expected the loss 'loss:0', which the training run recorded, found none",
        ),
        (
            saved_model_faults.meta_without_global_step,
            "expected the global step 'global_step:0', which the training run recorded, found none",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_the_run_recorded_of_its_graph_is_there_after_a_restore(
    chain: Chain, in_run: Run, fault: Callable[[Path], None], said: str
) -> None:
    prefix = Pinned(chain.pinned.path).record().prefix
    spoiled = chain.spoiled(chain.pinned, lambda out: out / f"{prefix}.meta", fault)
    with pytest.raises(CoverageError) as refusal:
        restore_verify.restore_verify(spoiled, chain.trained, TOLERANCE)
    assert said in str(refusal.value)
