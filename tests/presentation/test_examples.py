"""The report's examples run as they are printed, against a server of the exported model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tasks.artifact_views import model_at
from tasks.artifacts.hashes import NONE
from tasks.baseline.training_run import TrainingRun
from tasks.presentation import usage
from tasks.presentation.facts import FileFact, ReportFacts
from tasks.presentation.samples import sample
from tasks.records.run import StepOutcome, StepState
from tasks.serving.checks import lifecycle
from tasks.serving.runtimes.embedded import EmbeddedRuntime
from tasks.tensors import tensor_file
from tests.makers.chain import Chain


@pytest.fixture(scope="module")
def facts(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReportFacts]:
    """The facts of a report, with a server at the addresses that it names."""
    base = tmp_path_factory.mktemp("base")
    for source, target in model_at(chain.exported, base / "1"):
        NONE.bring(source, target)
    names = TrainingRun(chain.trained.path).names()
    probe = tensor_file.read_tensors(chain.trained.path / "probe.tensors")
    with lifecycle.serving(EmbeddedRuntime(), "sundaynet", base, 1, 60.0) as (endpoint, _):
        yield ReportFacts(
            run_id="r",
            name="sundaynet",
            created_at="now",
            tensorflow="2",
            steps=(StepOutcome(name="freeze", state=StepState.BUILT, seconds=1.0, artifact=str(chain.frozen.path)),),
            files=tuple(
                FileFact(step="freeze", path=entry.path, size=entry.size, sha256=entry.sha256)
                for entry in chain.frozen.manifest.files
            ),
            signatures=names.signatures,
            assets=names.assets,
            table_init=names.table_init,
            rest_url=endpoint.rest,
            grpc_address=endpoint.grpc,
            sample_inputs={s.key: sample(s, tensor_file.select(probe, s.key)) for s in names.signatures},
        )


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here to type the line with")
def test_the_curl_lines_answer_what_the_live_session_answered(chain: Chain, facts: ReportFacts) -> None:
    expected = tensor_file.read_tensors(chain.trained.path / "baselines" / f"{chain.step}.tensors")
    answers = {}
    for example in usage.examples(facts):
        ran = subprocess.run(example.curl, shell=True, capture_output=True, text=True, check=True)
        answers[example.signature] = json.loads(ran.stdout)
    assert set(answers) == {"serving_default", "classify"}
    (row,) = answers["serving_default"]["predictions"]
    np.testing.assert_allclose(row["logits"], expected["serving_default/logits"][0], rtol=1e-4, atol=1e-4)
    assert row["class"] == expected["serving_default/class"][0]


def test_the_python_snippets_run(facts: ReportFacts, tmp_path: Path) -> None:
    script = tmp_path / "snippets.py"
    script.write_text("\n".join(example.grpc for example in usage.examples(facts)))
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "logits" in ran.stdout
    assert "scores" in ran.stdout


def test_the_frozen_graphs_snippet_runs(facts: ReportFacts) -> None:
    ran = subprocess.run([sys.executable, "-c", usage.frozen(facts)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "logits" in ran.stdout
