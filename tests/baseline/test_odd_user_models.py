"""State outside variables, constants and batch-dependent outputs are examined or refused, never skipped in silence."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks import isolate
from tasks.artifact_views import model_at
from tasks.artifacts.hashes import NONE
from tasks.artifacts.store import Artifact
from tasks.checkpoint import checkpoint
from tasks.errors import ChildFailed, CoverageError, ParityError, PipelineError, SmokeRefused, UsageError
from tasks.export import export
from tasks.freeze import freeze
from tasks.promote import require_blessing
from tasks.records.parity import ParityReport, Tolerance
from tasks.records.settings import Release, Selection, Serving, Training
from tasks.restore_verify import restore_verify
from tasks.serving.checks import lifecycle
from tasks.serving.runtimes.embedded import EmbeddedRuntime
from tasks.smoke_test import smoke_test
from tasks.step import Run
from tasks.train import train
from tasks.user_code.source import ModelSource
from tests.makers.tolerance import DECLARED
from tests.training import calls

TOLERANCE = DECLARED
SERVING = Serving.model_validate({"runtime": "embedded", "latency_requests": 2})


def trained(name: str) -> tuple[Artifact, Artifact]:
    source = ModelSource(
        name=name.lower(), module="odd_user_models", attribute=name, folder=Path(__file__).parents[1] / "makers"
    )
    run = train(source, Training())
    return run, checkpoint(run, Selection())


def frozen_rows(name: str) -> ParityReport:
    run, pinned = trained(name)
    made = freeze(pinned, restore_verify(pinned, run, TOLERANCE), run, TOLERANCE)
    return ParityReport.model_validate_json((made.path / "parity.json").read_bytes())


def exported(name: str) -> tuple[Artifact, Artifact, Artifact, Artifact]:
    run, pinned = trained(name)
    verified = restore_verify(pinned, run, TOLERANCE)
    return run, pinned, export(pinned, verified, run, TOLERANCE), freeze(pinned, verified, run, TOLERANCE)


def test_state_that_no_restore_brings_back_is_refused(run: Run) -> None:
    made, pinned = trained("Learned")
    with pytest.raises(CoverageError, match="MutableHashTable"):
        restore_verify(pinned, made, TOLERANCE)


def test_a_constant_is_a_weight_too(run: Run, tmp_path: Path) -> None:
    made, pinned, model, frozen = exported("Baked")
    assert smoke_test(model, pinned, made, frozen, SERVING, TOLERANCE).refusal() is None
    recipe = export.recipe(pinned, restore_verify(pinned, made, TOLERANCE), made, Tolerance(absolute=2e-5))[0]

    def spoil(out: Path) -> None:
        shutil.copytree(model.path, out, dirs_exist_ok=True)
        (out / "manifest.json").unlink()
        isolate.call(calls.change_constant, out / "saved_model", "baked", [1.0, 2.0, 4.0, 3.0])  # the same sum

    spoiled = run.store.build(recipe, spoil)
    with pytest.raises(ParityError, match="baked"):
        smoke_test(spoiled, pinned, made, frozen, SERVING, TOLERANCE)


def test_an_answer_that_depends_on_the_batch_is_compared_with_the_same_batch(run: Run) -> None:
    made, pinned, model, frozen = exported("Centred")
    assert smoke_test(model, pinned, made, frozen, SERVING, TOLERANCE).refusal() is None


def test_tf1_control_flow_freezes(run: Run) -> None:
    assert frozen_rows("OldLoop").passed


def test_what_cannot_be_folded_is_a_row_that_says_why_and_the_run_goes_on(run: Run) -> None:
    (row,) = frozen_rows("Gathered").rows
    assert row.passed is None
    assert row.note.startswith("not made: ")
    assert "ResourceGather" in row.note


@pytest.mark.parametrize(("name", "said"), [("NoRows", "at least one row"), ("Slashed", "without a slash")])
def test_a_model_that_cannot_be_looked_at_is_not_trained(run: Run, name: str, said: str) -> None:
    with pytest.raises(PipelineError, match=said):
        trained(name)


def test_a_class_that_lacks_a_member_is_refused_by_its_name(run: Run) -> None:
    with pytest.raises(UsageError, match="a class with build, probe, found no probe"):
        trained("Unfinished")


def test_a_proof_of_something_else_is_no_proof(run: Run) -> None:
    made, pinned, model, frozen = exported("Centred")
    for step in (freeze, export):
        with pytest.raises(UsageError, match="verified"):
            step(pinned, pinned, made, Tolerance(absolute=3e-5))
    blessed = smoke_test(model, pinned, made, frozen, SERVING, TOLERANCE)
    release = Release(serving_root=run.store.root, name="m")
    assert require_blessing(model, blessed, pinned, made, release).passed
    for others in [(model, blessed, made, made), (model, blessed, pinned, pinned), (pinned, blessed, pinned, made)]:
        with pytest.raises(SmokeRefused, match="a blessing of"):
            require_blessing(*others, release)


@pytest.fixture
def served(run: Run, tmp_path: Path) -> tuple[EmbeddedRuntime, Callable[[int], None]]:
    """A server with a model loaded, and a way to end it."""
    _, _, model, _ = exported("Baked")
    for source, target in model_at(model, tmp_path / "base" / "1"):
        NONE.bring(source, target)
    runtime = EmbeddedRuntime()

    def end(number: int) -> None:
        import os
        import time

        with lifecycle.serving(runtime, "model", tmp_path / "base", 1, 60.0):
            assert runtime.pid is not None
            os.kill(runtime.pid, number)
            until = time.monotonic() + 20
            while runtime.exited() is None and time.monotonic() < until:
                time.sleep(0.05)
            lifecycle.require_alive(runtime)

    return runtime, end


@pytest.mark.parametrize("number", [9, 15])
def test_a_server_that_somebody_ended_says_nothing_about_the_model(
    served: tuple[EmbeddedRuntime, Callable[[int], None]], number: int
) -> None:
    with pytest.raises(ChildFailed, match="killed by signal"):
        served[1](number)


def test_a_server_that_crashes_does(served: tuple[EmbeddedRuntime, Callable[[int], None]]) -> None:
    with pytest.raises(SmokeRefused, match="died during the test"):
        served[1](11)
