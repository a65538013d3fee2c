"""Training continues a checkpoint in its own graph, or initialises a new graph from its variables."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import isolate
from tasks.artifacts.store import Artifact
from tasks.checkpoint import checkpoint
from tasks.errors import CoverageError, PipelineError, UnsafeGraph, UsageError
from tasks.export import export
from tasks.forms import checkpoint_files, saver
from tasks.freeze import freeze
from tasks.records.adoption import ModelOptions
from tasks.records.checkpoint import RestoreReport
from tasks.records.settings import SaverPolicy, Selection, Training
from tasks.records.start import StartedFrom
from tasks.restore_verify import restore_verify
from tasks.step import Run
from tasks.train import train
from tasks.user_code.source import ModelSource
from tests.makers import hostile_training, training_script
from tests.makers.tolerance import DECLARED

HERE = Path(__file__).parents[1] / "makers"
TUNED = ModelSource(name="tuned", module="fine_tuning_script", attribute="Classifier", folder=HERE)
OBJECTS = ModelSource(name="line", module="module_line", attribute="Line", folder=HERE)
GIVEN = ModelOptions(inputs=("x",), outputs=("y",), pins={"keep": 1.0})
POLICY = SaverPolicy(every_steps=10)


class Script:
    """What the script left, by kind of graph, written once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = training_script.rows(folder / "rows.npz")

    def left(self, kind: str = "", leave_out: str = "") -> Path:
        out = self.folder / f"{kind}-{leave_out}"
        if not out.exists():
            out.mkdir()
            isolate.call(training_script.script, out, self.rows, [30, 60], kind, leave_out)
        return out


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Script:
    return Script(tmp_path_factory.mktemp("script"))


def elsewhere(script: Script, to: Path, kind: str = "", leave_out: str = "") -> Path:
    """The checkpoint of step 30 alone, in another folder."""
    to.mkdir()
    for path in script.left(kind, leave_out).glob("model.ckpt-30.*"):
        shutil.copyfile(path, to / path.name)
    return to / "model.ckpt-30"


def settings(start: Path, script: Script, **more: Any) -> Training:
    told = {"start": start, "steps": 60, "batches": script.rows, "batch_size": training_script.BATCH, "saver": POLICY}
    return Training.model_validate(told | more)


def table(prefix: Path) -> list[Any]:
    return isolate.call(saver.tensor_table, prefix)


def last(artifact: Artifact, step: int = 60) -> Path:
    return artifact.path / "checkpoints" / f"model.ckpt-{step}"


def started(folder: Path) -> StartedFrom:
    return StartedFrom.model_validate_json((folder / "started_from.json").read_bytes())


def verified(artifact: Artifact) -> RestoreReport:
    found = checkpoint(artifact, Selection())
    path = restore_verify(found, artifact, DECLARED).path
    return RestoreReport.model_validate_json((path / "restore.json").read_bytes())


def told(run: Run) -> list[str]:
    """What was said of where training began."""
    shown = [what for event, what in run.observer.shown if event == "progress"]  # type: ignore[attr-defined]
    return [facts["started"] for _, facts in shown if "started" in facts]


def killed_at(run: Run, step: int, work: Callable[[], Artifact]) -> None:
    """Do the work and kill its child once it has said that it is at `step`."""

    class KilledError(Exception):
        pass

    def kill(name: str, facts: Any) -> None:
        if facts.get("step", 0) >= step:
            raise KilledError

    shown = run.observer.progress
    run.observer.progress = kill  # type: ignore[method-assign]
    with pytest.raises(KilledError):
        work()
    run.observer.progress = shown  # type: ignore[method-assign]


@pytest.mark.parametrize("kind", ["", "resource"])
def test_thirty_steps_and_thirty_elsewhere_are_sixty(run: Run, script: Script, tmp_path: Path, kind: str) -> None:
    made = train(None, settings(elsewhere(script, tmp_path / "moved", kind), script), GIVEN)
    assert table(last(made)) == table(script.left(kind) / "model.ckpt-60")
    lines = [json.loads(line) for line in (made.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [40, 50, 60]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert {path.name for path in made.path.iterdir()} - {"manifest.json"} == {
        "graph.meta", "graph.json", "checkpoints", "baselines", "probe.tensors", "batch.tensors", "metrics.jsonl",
        "started_from.json",
    }  # fmt: skip
    from_ = started(made.path)
    assert (from_.step, from_.initialised, from_.unused, from_.left_out) == (30, {}, ("unused",), ())
    assert from_.pins == {"keep:0": 1.0}
    assert {"body/w", "body/w/Adam", "global_step"} <= set(from_.restored)
    shown = told(run)
    assert len(shown) == 1
    assert "restored     body/w/Adam" in shown[0]


@pytest.mark.parametrize("kind", ["", "resource", "partitioned"])
def test_what_was_continued_goes_through_every_form(run: Run, script: Script, tmp_path: Path, kind: str) -> None:
    made = train(None, settings(elsewhere(script, tmp_path / "moved", kind), script, steps=40), GIVEN)
    report = verified(made)
    assert (report.one_more_step, report.global_step, report.parity.passed) == ("passed", 40, True)
    found = checkpoint(made, Selection())
    proof = restore_verify(found, made, DECLARED)
    assert freeze(found, proof, made, DECLARED).refusal() is None
    assert export(found, proof, made, DECLARED).refusal() is None


def test_killed_in_the_middle_and_run_again_is_the_same(run: Run, script: Script, tmp_path: Path) -> None:
    training = settings(elsewhere(script, tmp_path / "moved"), script, saver={"every_steps": 1})
    killed_at(run, 35, lambda: train(None, training, GIVEN))
    staging = run.store.staging("train", train.recipe(None, training, GIVEN)[0].key)
    assert run.store.artifacts("train") == []
    assert 35 <= (checkpoint_files.step_of(checkpoint_files.prefixes(staging / "checkpoints")[-1]) or 0) < 60
    (staging / "scratch-of-the-killed").mkdir()
    before = len(told(run))
    made = train(None, training, GIVEN)
    assert len(told(run)) == before  # the start was not restored again
    assert table(last(made)) == table(script.left() / "model.ckpt-60")
    lines = [json.loads(line)["step"] for line in (made.path / "metrics.jsonl").read_text().splitlines()]
    assert lines == list(range(31, 61))
    assert not list(made.path.glob("scratch-*"))


def test_what_was_continued_can_be_continued(run: Run, script: Script, tmp_path: Path) -> None:
    first = train(None, settings(elsewhere(script, tmp_path / "moved"), script, steps=45), GIVEN)
    pinned = checkpoint(first, Selection())
    second = train(None, settings(pinned.path, script), GIVEN.model_copy(update={"pins": {}}))  # it is in the graph now
    assert table(last(second)) == table(script.left() / "model.ckpt-60")


def test_the_saver_policy_holds(run: Run, script: Script, tmp_path: Path) -> None:
    policy = {"every_steps": 5, "max_to_keep": 2, "write_version": "V1"}
    made = train(None, settings(elsewhere(script, tmp_path / "moved"), script, saver=policy), GIVEN)
    assert [path.name for path in checkpoint_files.prefixes(made.path / "checkpoints")] == [
        "model.ckpt-55",
        "model.ckpt-60",
    ]
    assert sorted(path.stem for path in (made.path / "baselines").glob("*.json")) == ["55", "60"]
    assert verified(made).one_more_step == "passed"


@pytest.mark.parametrize(
    ("leave_out", "names"), [("Adam", "body/w/Adam"), ("power", "beta1_power"), ("step", "global_step")]
)
def test_what_training_needs_and_was_not_saved_is_refused(
    run: Run, script: Script, tmp_path: Path, leave_out: str, names: str
) -> None:
    start = elsewhere(script, tmp_path / "moved", leave_out=leave_out)
    with pytest.raises(CoverageError, match=names) as caught:
        train(None, settings(start, script), GIVEN)
    assert all(leave_out in name for name in caught.value.missing)


def refused(
    script: Script,
    tmp_path: Path,
    kind: str = "",
    given: ModelOptions = GIVEN,
    rows: dict[str, Any] | None = None,
    **more: Any,
) -> str:
    start = elsewhere(script, tmp_path / "moved", kind)
    if rows is not None:
        more["batches"] = training_script.rows(tmp_path / "changed.npz", **rows)
    with pytest.raises(UsageError) as caught:
        train(None, settings(start, script, **more), given)
    return str(caught.value)


@pytest.mark.parametrize(
    ("kind", "rows", "more", "said"),
    [
        ("", None, {"steps": 30}, "beyond 30"),
        ("", None, {"steps": None}, "beyond 30"),
        ("", None, {"batches": None}, "x:0 (feeds"),
        ("", {"target:0": None}, {}, "target:0 (feeds"),
        ("", {"keep": None}, {}, "keep:0 (feeds the train op, and is pinned"),
        ("", {"nobody": np.float32(1)}, {}, "none named nobody:0"),
        ("", {"target:0": np.zeros((49, 2), np.float32)}, {}, "x 50, target:0 49"),
        ("", {"target:0": np.zeros((0, 2), np.float32)}, {}, "at least one row"),
        ("", {"target:0": np.zeros((50, 3), np.float32)}, {}, "float32[8, 3] a step"),
        ("", {"target:0": np.full((50, 2), 0.1)}, {}, "a float32, found 0.1"),
        ("", {"x:0": np.zeros((50, 3), np.float32)}, {}, "x:0 once"),
        ("", {"x": np.array([{}] * 50)}, {}, "pickled"),
        ("two", None, {}, "2: Adam, second"),
        ("", None, {"train_op": "nobody"}, "none of that name"),
        ("", None, {"loss": "y"}, "a scalar"),
        ("double", None, {"steps": 90}, "from 60 to 61"),
        ("", None, {"restore": ("*",)}, "no setting for Python code"),
        ("", None, {"hyperparameters": {"rate": 1}}, "no setting for Python code"),
        ("", None, {"saver": {"var_list": ("body/w",)}}, "every variable that is trained"),
    ],
)  # fmt: skip
def test_what_cannot_be_continued_as_told_says_why(
    run: Run, script: Script, tmp_path: Path, kind: str, rows: dict[str, Any] | None, more: dict[str, Any], said: str
) -> None:
    assert said in refused(script, tmp_path, kind, rows=rows, **more)


def test_one_of_two_train_ops_is_named(run: Run, script: Script, tmp_path: Path) -> None:
    start = elsewhere(script, tmp_path / "moved", "two")
    made = train(None, settings(start, script, train_op="Adam"), GIVEN)
    assert table(last(made)) == table(script.left("two") / "model.ckpt-60")


def test_a_train_op_that_counts_no_steps_is_counted_for(run: Run, script: Script, tmp_path: Path) -> None:
    script.left("uncounted")
    start = elsewhere(script, tmp_path / "moved", "uncounted")
    made = train(None, settings(start, script), GIVEN)
    report = verified(made)
    assert (report.global_step, report.parity.passed) == (None, True)


def test_any_tensor_can_be_fed_by_its_alias_or_its_name(run: Run, script: Script, tmp_path: Path) -> None:
    held = np.load(script.rows)
    np.savez(tmp_path / "aliased.npz", features=held["x"], target=held["target:0"], keep=held["keep"])
    given = ModelOptions(inputs=("features=x",), outputs=("y",), pins={"keep": 1.0})
    start = elsewhere(script, tmp_path / "moved")
    made = train(None, settings(start, script, batches=tmp_path / "aliased.npz"), given)
    assert table(last(made)) == table(script.left() / "model.ckpt-60")


def test_a_train_op_that_touches_files_is_refused_before_it_runs(run: Run, script: Script, tmp_path: Path) -> None:
    start = elsewhere(script, tmp_path / "moved")
    isolate.call(hostile_training.spoil, start, tmp_path / "written")
    with pytest.raises(UnsafeGraph, match="WriteFile"):
        train(None, settings(start, script), GIVEN)
    assert not (tmp_path / "written").exists()


def test_the_key_is_of_what_files_hold_and_not_of_where_they_are(run: Run, script: Script, tmp_path: Path) -> None:
    start = elsewhere(script, tmp_path / "here")
    training = settings(start, script)

    def key(**changed: Any) -> str:
        return train.recipe(None, training.model_copy(update=changed), GIVEN)[0].key

    moved = shutil.copyfile(script.rows, tmp_path / "other.npz")
    assert key() == key(start=elsewhere(script, tmp_path / "there"), batches=moved)
    moved.write_bytes(moved.read_bytes()[:-1] + b"!")
    assert key() != key(batches=moved)
    assert key() != key(batches=None)
    for name in (".index", ".meta", ".data-00000-of-00001"):
        file = start.with_name(start.name + name)
        whole = file.read_bytes()
        before = key()
        file.write_bytes(whole[:5] + bytes([whole[5] ^ 1]) + whole[6:])
        assert key() != before
        file.write_bytes(whole)
    assert key() != key(batch_size=9)


# Fine-tuning ----------------------------------------------------------------------------------------------------------


def tuned(start: Path, steps: int = 0, restore: tuple[str, ...] | None = None, **hyperparameters: Any) -> Artifact:
    training = Training(start=start, steps=steps, restore=restore, hyperparameters=hyperparameters, saver=POLICY)
    return train(TUNED, training)


def test_a_new_head_on_an_old_body(run: Run, script: Script, tmp_path: Path) -> None:
    start = elsewhere(script, tmp_path / "moved")
    made = tuned(start)
    at = {name: isolate.call(training_script.values, prefix, ["body/w"])
          for name, prefix in (("there", start), ("here", last(made, 0)))}  # fmt: skip
    assert at["here"] == at["there"]
    assert np.any(at["here"]["body/w"])
    from_ = started(made.path)
    assert from_.restored == ("body/w",)
    assert from_.initialised["classes/out"] == "not in the checkpoint"
    assert from_.initialised["global_step"] == "fine-tuning counts its own steps"
    assert set(from_.initialised) >= {"classes/out/Adam", "classes/out/Adam_1", "beta1_power", "beta2_power"}
    assert {"head/out", "unused", "body/w/Adam"} <= set(from_.left_out)
    shown = told(run)
    assert len(shown) == 1
    assert "initialised  classes/out: not in the checkpoint" in shown[0]


def test_only_the_head_was_trained(run: Run, script: Script, tmp_path: Path) -> None:
    start = elsewhere(script, tmp_path / "moved")
    made = tuned(start, 20)
    found = isolate.call(training_script.values, last(made, 20), ["body/w", "classes/out"])
    assert found["body/w"] == isolate.call(training_script.values, start, ["body/w"])["body/w"]
    assert np.any(found["classes/out"])
    assert verified(made).one_more_step == "passed"


def test_fine_tuning_that_was_killed_never_restores_the_start_again(run: Run, script: Script, tmp_path: Path) -> None:
    start = elsewhere(script, tmp_path / "moved")
    training = Training(start=start, steps=40, restore=("body/*",), saver=POLICY, hyperparameters={"pause": 0.02})
    killed_at(run, 20, lambda: train(TUNED, training))
    made = train(TUNED, training)
    assert told(run) == []  # it was said before the kill
    assert table(last(made, 40)) == table(last(tuned(start, 40), 40))
    assert started(made.path).restored == ("body/w",)


def test_another_shape_is_refused_where_it_was_named_and_listed_where_not(
    run: Run, script: Script, tmp_path: Path
) -> None:
    start = elsewhere(script, tmp_path / "moved")
    with pytest.raises(CoverageError, match=r"body/w.*float32\[3, 5\].*float32\[3, 4\]"):
        tuned(start, restore=("body/*",), width=5)
    made = tuned(start, head="head")
    assert started(made.path).initialised["head/out"] == "the checkpoint holds float32[4, 2], not float32[4, 3]"
    with pytest.raises(UsageError, match="none of them"):
        tuned(start, width=5)


def test_what_restore_names_must_be_there(run: Run, script: Script, tmp_path: Path) -> None:
    start = elsewhere(script, tmp_path / "moved")
    with pytest.raises(UsageError, match="--restore bodi"):
        tuned(start, restore=("bodi/*",))
    with pytest.raises(CoverageError, match=r"classes/out.*found none"):
        tuned(start, restore=("*",))
    with pytest.raises(UsageError, match="global step"):
        tuned(start, restore=("global_step",))
    made = tuned(start, restore=("body/*", "glo*"))
    assert started(made.path).restored == ("body/w",)


def test_a_name_map_leads_to_other_keys(run: Run, script: Script, tmp_path: Path) -> None:
    start = elsewhere(script, tmp_path / "moved")
    (tmp_path / "map.yaml").write_text("body/w: body/w/Adam\n")
    training = Training(start=start, steps=0)
    made = train(TUNED, training, ModelOptions(var_map=tmp_path / "map.yaml"))
    here = isolate.call(training_script.values, last(made, 0), ["body/w"])["body/w"]
    assert here == isolate.call(training_script.values, start, ["body/w/Adam"])["body/w/Adam"]
    (tmp_path / "map.yaml").write_text("body/w: nowhere\n")
    with pytest.raises(UsageError, match="nowhere"):
        train(TUNED, training, ModelOptions(var_map=tmp_path / "map.yaml"))


def test_settings_of_the_other_way_are_refused(run: Run, script: Script, tmp_path: Path) -> None:
    start = elsewhere(script, tmp_path / "moved")
    for source, training in (
        (None, Training(steps=5)),
        (TUNED, Training(steps=5, batches=script.rows)),
        (TUNED, Training(steps=5, start=start, loss="loss")),
        (TUNED, Training(steps=5, restore=("body/w",))),
        (OBJECTS, Training(steps=5, start=start)),
    ):
        with pytest.raises(UsageError):
            train(source, training)


def test_other_forms_say_what_is_wanted(run: Run, script: Script, tmp_path: Path) -> None:
    start = elsewhere(script, tmp_path / "moved")
    meta = start.with_name(start.name + ".meta")
    alone = tmp_path / "alone.meta"
    meta.rename(alone)
    with pytest.raises(UsageError, match="Saver checkpoint with its graph"):
        train(None, settings(alone, script), GIVEN)
    with pytest.raises(PipelineError, match="a graph for the values"):
        train(None, settings(start, script), GIVEN)
