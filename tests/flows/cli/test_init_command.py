"""`tfship init` writes a configuration that works, or says what is missing."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml

from flows.config import PipelineConfig
from tasks import isolate
from tests.flows.cli.process import tfship
from tests.makers import cli_models, inspected_files, odd_models


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


@pytest.mark.parametrize("declared", [True, False])
def test_names_write_no_settings_and_nothing_over_the_terminal(folder: Path, declared: bool) -> None:
    isolate.call(cli_models.evil_names, folder / "model", declared=declared)
    path = "model" if declared else "model/graph.pb"
    answers = [tfship(command, path) for command in ("init", "inspect", "adopt")]
    answers.append(tfship("inspect", path, "--json"))
    assert answers[0].code == 0, answers[0].err
    text = (folder / "tfship.yaml").read_text()
    for shown in (text, *(said for answer in answers for said in (answer.out, answer.err))):
        assert not set(shown) & {"\x1b", "\u202e"}
        assert not any(line.startswith(("name: evil", "serving_root:")) for line in shown.splitlines())
    guessed = text.replace("# given:", "given:").replace("#   ", "  ").replace("#     ", "    ")
    if not declared:
        assert yaml.safe_load(guessed)["given"]["inputs"] == [f"{cli_models.EVIL_NODE}:0"]
    assert "evil" in text and set(yaml.safe_load(text)) <= PipelineConfig.model_fields.keys()
    assert yaml.safe_load(text)["name"] != "evil"


def test_a_step_that_measures_no_quality_takes_no_labelled_rows(folder: Path) -> None:
    for step in ("train", "adopt", "checkpoint"):
        answer = tfship(step, "model", "--evaluate", "rows.npz")
        assert answer.code == 2 and "--evaluate" in answer.err, step
