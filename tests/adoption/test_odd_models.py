"""Models saved in unusual ways are shipped with a note on what is unusual, or refused with the reason."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tasks import isolate
from tasks.adopt import adopt
from tasks.artifact_views import Pinned
from tasks.artifacts.store import Artifact
from tasks.baseline.training_run import TrainingRun
from tasks.checkpoint import checkpoint
from tasks.convert import convert
from tasks.errors import CoverageError, ParityError, UnsupportedGraph, UsageError
from tasks.export import export
from tasks.freeze import freeze
from tasks.records.adoption import ModelFiles, ModelOptions, ProbeSource
from tasks.records.forms import Target
from tasks.records.parity import ParityReport
from tasks.records.settings import Selection, SessionOptions
from tasks.restore_verify import restore_verify
from tasks.step import Run
from tasks.user_code.source import ModelSource
from tests.adoption.pipeline import Shipyard
from tests.makers import odd_models, one_network_in_every_form
from tests.makers.tolerance import DECLARED

XY = ModelOptions(inputs=("x=x:0",), outputs=("y=y:0",))


def made(folder: Path, way: Any, *arguments: Any, **options: Any) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "model"
    if way.__module__ == odd_models.__name__ and "SavedModel" not in (way.__doc__ or ""):
        path.mkdir(exist_ok=True)
    isolate.call(way, path, *arguments, **options)
    return path


def adopted(path: Path, given: ModelOptions = XY, step: int | None = None) -> Artifact:
    return adopt(ModelFiles(name="m", path=path, step=step), given, ProbeSource(rows=5), SessionOptions(), None)


def notes(run: Artifact) -> str:
    found = TrainingRun(run.path).adopted()
    assert found is not None
    return "\n".join(found.notes)


def candidates(run: Artifact) -> set[str]:
    """Every form in which it was written and proved equal."""
    pin = checkpoint(run, Selection())
    verified = restore_verify(pin, run, DECLARED)
    written = [form(pin, verified, run, DECLARED) for form in (freeze, export)]
    reports = [
        ParityReport.model_validate_json((one.path / "parity.json").read_bytes()) for one in (verified, *written)
    ]
    rows = [row for report in reports for row in report.rows]
    assert [row for row in rows if row.passed is False] == []
    return {row.candidate for row in rows if row.output == "y" and row.passed}


EVERY = {"checkpoint", "frozen_graph", "saved_model (v1 loader)", "saved_model (v2 loader)"}


@pytest.mark.parametrize("step", [1, 2])
def test_a_checkpoint_is_chosen_by_its_name_whatever_its_global_step(run: Run, tmp_path: Path, step: int) -> None:
    taken = adopted(made(tmp_path, odd_models.epochs), step=step)
    pin = Pinned(checkpoint(taken, Selection(which=step)).path).record()
    assert pin.step == 500 * step and f"model.ckpt-{500 * step}" == pin.prefix
    assert pin.chosen == "the one that was adopted"


@pytest.mark.parametrize("resource", [False, True], ids=["reference", "resource"])
def test_a_variable_of_open_shape_takes_the_checkpoints(run: Run, tmp_path: Path, resource: bool) -> None:
    assert candidates(adopted(made(tmp_path, odd_models.open_shapes, resource=resource))) == EVERY


def test_a_modules_variable_of_open_shape_ships_too(run: Run, tmp_path: Path) -> None:
    assert candidates(adopted(made(tmp_path, odd_models.open_module), ModelOptions())) >= EVERY - {"frozen_graph"}


@pytest.mark.parametrize(("rows", "columns", "whole"), [(5, 2, True), (3, 4, False), (2, 3, False)])
def test_what_is_known_of_an_open_shape_must_hold(
    run: Run, tmp_path: Path, rows: int, columns: int, whole: bool
) -> None:
    path = made(tmp_path, odd_models.open_shapes, resource=True)
    isolate.call(odd_models.another_shape, path, rows, columns)
    with pytest.raises((CoverageError, UsageError)) as refused:
        adopted(path)
    # Of five rows the variable may be; the graph that reads it says three.
    assert isinstance(refused.value, UsageError if whole else CoverageError)
    if not whole:
        assert "w, which the outputs need: expected a tensor float32[?, 2]" in str(refused.value)


def test_a_wrong_shape_of_a_known_one_is_refused(run: Run, tmp_path: Path) -> None:
    path = made(tmp_path, odd_models.not_a_number)
    isolate.call(odd_models.another_shape, path, 5, 2)
    with pytest.raises(CoverageError, match=r"variable w, .*float32\[3, 2\].*found float32\[5, 2\]"):
        adopted(path)


@pytest.mark.parametrize(("dtype", "held"), [("bfloat16", False), ("half", False), ("float64", True)])
def test_what_format_v1_cannot_hold_is_a_row_that_says_so(run: Run, tmp_path: Path, dtype: str, held: bool) -> None:
    taken = adopted(made(tmp_path, odd_models.of_dtype, dtype))
    pin = checkpoint(taken, Selection())
    verified = restore_verify(pin, taken, DECLARED)
    asked = {"targets": (Target.SAVER_V1,), "files": None, "code": None, "tolerance": DECLARED}
    written = convert(pin, verified, taken, **asked)
    rows = ParityReport.model_validate_json((written.path / "parity.json").read_bytes()).rows
    spelled = {"half": "float16"}.get(dtype, dtype)
    said = [row.note for row in rows if row.passed is None]
    assert said == ([] if held else [f"not made: format V1 cannot hold {spelled}"])


def test_nan_of_a_brought_model_has_a_remedy_for_who_did_not_train_it(run: Run, tmp_path: Path) -> None:
    path = made(tmp_path, odd_models.not_a_number)
    with pytest.raises(ParityError, match=r"--probe FILE(.|\n)*allow_nonfinite") as refused:
        adopted(path)
    assert "train again" not in str(refused.value)
    assert adopted(path, XY.model_copy(update={"allow_nonfinite": True})).path.is_dir()


def test_batch_statistics_in_what_ships_are_told(run: Run, tmp_path: Path) -> None:
    taken = adopted(made(tmp_path, odd_models.batch_statistics))
    assert "may compute as in training" in notes(taken) and "bn" in notes(taken)
    assert "training" not in notes(adopted(made(tmp_path / "plain", odd_models.epochs), step=1))


def test_the_tags_of_what_ships_and_of_what_does_not_are_told(run: Run, tmp_path: Path) -> None:
    alone = notes(adopted(made(tmp_path / "a", odd_models.tagged, [["train"]]), ModelOptions()))
    assert "its MetaGraph has the tags train, where a server looks for serve" in alone
    beside = notes(adopted(made(tmp_path / "b", odd_models.tagged, [["serve"], ["train"]]), ModelOptions()))
    assert beside == "MetaGraphs of other tags are left out: train"
    asked = notes(adopted(tmp_path / "b" / "model", ModelOptions(tags=("train",))))
    assert "has the tags train" in asked and "left out: serve" in asked
    assert notes(adopted(made(tmp_path / "c", odd_models.tagged, [["serve"]]), ModelOptions())) == ""


def test_an_unknown_op_that_no_output_reaches_is_left_out_of_a_saved_model(run: Run, tmp_path: Path) -> None:
    taken = adopted(made(tmp_path, odd_models.unknown_op, "nothing"), ModelOptions())
    assert "SentencepieceTokenizeOp" in notes(taken)
    assert candidates(taken) == EVERY


def test_an_unknown_op_that_loading_needs_is_named_with_its_library(run: Run, tmp_path: Path) -> None:
    path = made(tmp_path, odd_models.unknown_op, "load")
    with pytest.raises(UnsupportedGraph, match=r"odd \(SentencepieceTokenizeOp\), without which(.|\n)*tensorflow.text"):
        adopted(path, ModelOptions())


def test_an_input_that_was_optional_is_told(run: Run, tmp_path: Path) -> None:
    taken = adopted(made(tmp_path, odd_models.optional_input), ModelOptions())
    assert "signature serving_default: optional inputs become required: scale" in notes(taken)


def test_the_table_of_a_frozen_graph_is_filled_by_its_own_operation(run: Run, tmp_path: Path) -> None:
    named = ModelOptions(inputs=("words",), outputs=("ids",))
    for filled in (True, False):
        isolate.call(odd_models.frozen_with_a_table, tmp_path / f"{filled}.pb", filled)
    assert adopted(tmp_path / "True.pb", named).path.is_dir()
    with pytest.raises(CoverageError, match=r"lookup table hash_table(.|\n)*tables_initializer"):
        adopted(tmp_path / "False.pb", named)


def test_no_guess_lies_within_a_loop_and_none_can_be_named(run: Run, tmp_path: Path) -> None:
    isolate.call(odd_models.loop_of_tensorflow_1, tmp_path / "model.ckpt")
    with pytest.raises(UsageError) as guessed:
        adopted(tmp_path, ModelOptions())
    said = str(guessed.value)
    assert (
        "--input x:0 --input lengths:0 --output probs:0" in said
        or "--input lengths:0 --input x:0 --output probs:0" in said
    )
    assert re.findall(r"while/(?!Exit)\S+", said) == []
    assert "labels:0  int64 [?]  a label" in said and "lengths:0  int32 [?]  a placeholder" in said
    within = ModelOptions(inputs=("x", "lengths"), outputs=("while/Tanh",))
    with pytest.raises(
        UsageError, match=r"while/Tanh:0, which has one in each iteration of a loop(.|\n)*while/Exit_1:0"
    ):
        adopted(tmp_path, within)
    assert adopted(tmp_path, ModelOptions(inputs=("x", "lengths"), outputs=("probs",))).path.is_dir()


def test_the_op_that_takes_no_such_input_is_named(run: Run, tmp_path: Path) -> None:
    isolate.call(odd_models.asserting, tmp_path / "graph.pb")
    named = ModelOptions(inputs=("x",), outputs=("y",))
    with pytest.raises(UsageError, match=r"found Assert must_be_even.*: .*x must be even(.|\n)*tfship probe PATH"):
        adopted(tmp_path / "graph.pb", named)


def test_moving_averages_that_the_outputs_do_not_read_are_told(run: Run, tmp_path: Path) -> None:
    said = notes(adopted(made(tmp_path, odd_models.averages_unused), XY))
    assert "the outputs read w, not its moving average w/ExponentialMovingAverage, which was saved: --var-map" in said
    assert "the outputs read moments/mean, not its moving average moments/mean/ExponentialMovingAverage" in said
    assert "loss/ExponentialMovingAverage" not in said


@pytest.mark.parametrize("name", ["code", "json"])
def test_a_module_of_the_users_wins_over_one_of_pythons(run: Run, tmp_path: Path, name: str) -> None:
    isolate.call(one_network_in_every_form.without_meta, tmp_path)
    (tmp_path / "mine.py").rename(tmp_path / f"{name}.py")
    code = ModelSource(name="mine", module=name, attribute="Mine", folder=tmp_path)
    files = ModelFiles(name="m", path=tmp_path / "model.ckpt-7")
    assert adopt(files, ModelOptions(), ProbeSource(rows=5), SessionOptions(), code).path.is_dir()


def test_one_tensor_as_two_inputs_is_asked_about(run: Run, tmp_path: Path) -> None:
    path = made(tmp_path, odd_models.one_tensor_twice)
    with pytest.raises(UsageError, match=r"x and z, which are both x:0(.|\n)*name each tensor once"):
        adopted(path, ModelOptions())
    assert adopted(path, XY).path.is_dir()


def test_a_regress_signature_of_floats_is_called_by_predict_and_complex_outputs_ship(
    yard: Shipyard, tmp_path: Path
) -> None:
    shipped = yard.ship(made(tmp_path, odd_models.regresses_floats), "floats")
    served = {(row.candidate, row.signature) for row in shipped.summary.parity if row.passed and row.test == "served"}
    assert {("served (gRPC)", key) for key in ("serving_default", "floats", "complex")} <= served
    assert {("served (REST)", key) for key in ("serving_default", "floats")} <= served
    assert shipped.promoted.is_dir()
