"""A refusal is repeated from its folder by TensorFlow and numpy alone, and what agrees is not called different."""

from __future__ import annotations

import contextlib
import io
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tasks import isolate
from tasks.baseline.training_run import TrainingRun
from tasks.errors import ParityError
from tasks.records.adoption import ModelOptions, ProbeSource
from tasks.records.parity import Difference, ParityReport, ParityRow, ParityTest, Tolerance
from tasks.records.settings import SessionOptions
from tasks.report import reproduction as of_run
from tasks.serving.runtimes.embedded import EmbeddedRuntime
from tasks.step import Run
from tasks.tensors import tensor_file
from tasks.verify import compare_models, reproduction
from tests.makers import compared_models, saved_model_faults
from tests.makers.chain import Chain
from tests.serving.checks import gate

KEY = "serving_default"
# As in an environment without this project.
ALONE = "import runpy, sys; sys.modules['tasks'] = sys.modules['flows'] = None; sys.argv = sys.argv[1:]; "
ALONE += "runpy.run_path(sys.argv[0], run_name='__main__')"


def repeated(script: Path, *arguments: str) -> tuple[int, str]:
    """What a script says, in a process in which TensorFlow is imported, and this project is not."""
    code, said = isolate.call(run_script, script, list(arguments))
    return code, said


def run_script(script: Path, arguments: list[str]) -> tuple[int, str]:
    """In a child."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("tasks", "flows")]:
        if not name.startswith("tasks.isolate"):
            sys.modules[name] = None  # type: ignore[assignment]
    sys.argv, said = [str(script), *arguments], io.StringIO()
    os.chdir(script.parent.parent)
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    return int(str(ended.value.code)), said.getvalue()


def repeated_alone(script: Path, *arguments: str) -> tuple[int, str]:
    """What a script says, run by its user."""
    answer = subprocess.run(
        [sys.executable, "-c", ALONE, script, *arguments], cwd=script.parent.parent, capture_output=True, text=True
    )
    assert "Traceback" not in answer.stderr, answer.stderr
    return answer.returncode, answer.stdout


def differing(candidate: str, output: str, test: ParityTest, at: tuple[int, ...] = ()) -> ParityRow:
    signature = "" if test is ParityTest.VALUES else KEY
    worst = Difference(index=at, expected="1", got="2")
    return ParityRow(candidate=candidate, signature=signature, output=output, test=test, passed=False, worst=worst)


def written(chain: Chain, run: Run, row: ParityRow, out: Path) -> Path:
    for name, artifact in (("train", chain.trained), ("checkpoint", chain.pinned), ("freeze", chain.frozen)):
        run.artifacts[name] = artifact
    run.artifacts["export"] = chain.exported
    error = ParityError.of(ParityReport(baseline="live session", rows=(row,)))
    script = of_run(run, error, out / "reproduce", Tolerance())
    assert script is not None
    return script


@pytest.mark.parametrize("candidate", ["checkpoint", "frozen_graph", "saved_model (v1 loader)"])
def test_forms_that_agree_are_said_to_agree(chain: Chain, in_run: Run, tmp_path: Path, candidate: str) -> None:
    code, said = repeated(written(chain, in_run, differing(candidate, "logits", ParityTest.EXACT, (3, 1)), tmp_path))
    assert code == 0, said
    assert "row 3 alone" in said and "row 3 of all 50" in said and said.count("equal") == 2


def test_a_spoiled_form_differs_there_too(chain: Chain, in_run: Run, tmp_path: Path) -> None:
    script = written(chain, in_run, differing("saved_model (v1 loader)", "logits", ParityTest.EXACT, (3, 1)), tmp_path)
    isolate.call(gate.spoil, {"another activation": script.parent / "candidate" / "model"})
    code, said = repeated_alone(script)
    assert code == 1 and "live session:\n[" in said and "DIFFERS in 10 of 10" in said and "row 3 alone" in said


def test_a_weight_that_differs_is_shown(chain: Chain, in_run: Run, tmp_path: Path) -> None:
    row = differing("saved_model (files)", saved_model_faults.WEIGHT, ParityTest.VALUES)
    script = written(chain, in_run, row, tmp_path)
    assert repeated(script)[0] == 0
    isolate.call(gate.spoil, {"a weight zeroed": script.parent / "candidate" / "model"})
    code, said = repeated(script)
    assert code == 1 and "DIFFERS in 1 of" in said


def test_a_served_answer_is_asked_of_a_server(chain: Chain, in_run: Run, tmp_path: Path) -> None:
    script = written(chain, in_run, differing("served (REST)", "logits", ParityTest.SERVED, (3, 1)), tmp_path)
    code, said = repeated(script)
    assert code == 2 and "start a server with" in said
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "1").symlink_to(chain.exported.path / "saved_model")
    runtime = EmbeddedRuntime()
    try:
        endpoint = runtime.start("model", tmp_path / "model", deadline=60)
        isolate.call(wait_for, endpoint.rest)
        code, said = repeated(script, endpoint.rest)
    finally:
        runtime.stop()
    assert code == 0, said


def wait_for(address: str) -> None:
    """Return when a server answers for its model."""
    import time

    import httpx

    for _ in range(600):
        try:
            if "AVAILABLE" in httpx.get(f"{address}/v1/models/model").text:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise AssertionError("no server")


def test_texts_go_as_bytes(chain: Chain, in_run: Run, tmp_path: Path) -> None:
    row = differing("frozen_graph", "classes", ParityTest.EXACT, (0, 0)).model_copy(update={"signature": "classify"})
    script = written(chain, in_run, row, tmp_path)
    facts = json.loads(script.with_name("reproduce.json").read_text())
    held = tensor_file.read_tensors(TrainingRun(chain.trained.path).probe_file)["classify/inputs"]
    assert len(facts["strings"]["inputs"]) == len(held)
    assert repeated(script)[0] == 0


def test_what_no_answer_shows_has_no_folder(chain: Chain, in_run: Run, tmp_path: Path) -> None:
    row = differing("saved_model (files)", "(graph)", ParityTest.STRUCTURE)
    in_run.artifacts |= {"train": chain.trained, "checkpoint": chain.pinned, "export": chain.exported}
    error = ParityError.of(ParityReport(rows=(row,)))
    assert of_run(in_run, error, tmp_path / "reproduce", Tolerance()) is None
    assert not (tmp_path / "reproduce").exists()


def test_two_forms_of_verify(tmp_path: Path) -> None:
    forms = tmp_path / "forms"
    forms.mkdir()
    isolate.call(compared_models.written, forms)
    isolate.call(compared_models.spoiled, forms / "frozen.pb", "op changed", forms / "op changed.pb")
    given = ModelOptions(inputs=("x:0",), outputs=("logits:0", "probs:0"))
    for number, name in enumerate(("saved_model", "model.ckpt")):
        paths = forms / name, forms / "op changed.pb"
        again = tmp_path / f"again {number}"
        found = compare_models.compare(
            paths, given, None, SessionOptions(), ProbeSource(), Tolerance(), reproduce=again
        )
        assert found.reproduction == str(again / reproduction.SCRIPT)
        code, said = repeated(Path(found.reproduction))
        assert code == 1 and "op changed.pb" in said and "DIFFERS" in said
