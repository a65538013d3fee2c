"""`tfship init` writes a configuration that works, or says what is missing."""

from __future__ import annotations

import shlex
from pathlib import Path

import yaml

from flows.config import PipelineConfig
from tasks import isolate
from tests.flows.cli.process import tfship
from tests.makers import inspected_files, odd_models


def test_a_cut_file_is_no_model_to_configure(folder: Path) -> None:
    isolate.call(inspected_files.graph_file, folder / "graph.pb")
    content = (folder / "graph.pb").read_bytes()
    (folder / "graph.pb").write_bytes(content[: len(content) // 2])
    answer = tfship("init", "graph.pb")
    assert answer.code == 3 and "expected a complete model" in answer.err and "Remedy: " in answer.err
    assert answer.out == "" and not (folder / "tfship.yaml").exists()


def test_several_meta_graphs_are_listed_and_the_next_command_takes_one(folder: Path) -> None:
    isolate.call(odd_models.tagged, folder / "model", [["train"], ["serve", "gpu"]])
    looked = tfship("inspect", "model")
    assert looked.code == 0 and "where there are " in looked.out
    assert "gpu,serve; train" in looked.out or "train; gpu,serve" in looked.out
    following = shlex.split(looked.out.splitlines()[-1])
    assert following == ["next", "tfship", "run", "model", "--tags", "gpu,serve"]
    assert tfship("adopt", *following[3:], "--no-server").code == 0
    written = tfship("init", "model")
    assert written.code == 0, written.err
    text = (folder / "tfship.yaml").read_text()
    assert "module:Model" not in text and "gpu,serve" in text
    assert PipelineConfig.model_validate(yaml.safe_load(text)).given.tags is None, "a guess is a comment"
    chosen = PipelineConfig.model_validate(yaml.safe_load(text.replace("# given:", "given:")))
    assert chosen.given.tags == ("gpu", "serve")


def test_a_step_that_measures_no_quality_takes_no_labelled_rows(folder: Path) -> None:
    for step in ("train", "adopt", "checkpoint"):
        answer = tfship(step, "model", "--evaluate", "rows.npz")
        assert answer.code == 2 and "--evaluate" in answer.err, step
