"""Single steps, `convert`, `plan` and `init` from the command line, on a checkpoint written by TensorFlow's Saver."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from flows.cli import steps
from flows.config import PipelineConfig
from tasks import isolate
from tasks.errors import UsageError
from tasks.forms.detect import detect
from tasks.records.forms import Form, Target
from tests.flows.cli.process import tfship
from tests.makers import cli_models, inspected_files

NAMED = ("--input", "x:0", "--output", "y:0")


@pytest.fixture
def model(folder: Path) -> Path:
    isolate.call(inspected_files.checkpoint, folder / "model" / "model.ckpt")
    return Path("model")


def test_a_step_ends_with_what_it_made_and_the_next_goes_on_from_there(model: Path) -> None:
    pinned = tfship("checkpoint", model, *NAMED, "--no-server", "--json")
    assert pinned.code == 0, pinned.err
    assert pinned.states == {"adopt": "built", "checkpoint": "built", "report": "built"}
    frozen = tfship("freeze", model, *NAMED, "--no-server", "--json")
    assert frozen.states == {
        "adopt": "cached",
        "checkpoint": "cached",
        "restore_verify": "built",
        "freeze": "built",
        "report": "built",
    }
    assert frozen.document["adopted"]["form"] == "Saver checkpoint V2"
    assert all(row["passed"] for row in frozen.document["parity"])


@pytest.mark.parametrize(
    ("to", "form"),
    [
        ("saved_model", Form.SAVED_MODEL),
        ("frozen", Form.GRAPH_DEF),
        ("saver_v2", Form.SAVER_V2),
        ("saver_v1", Form.SAVER_V1),
    ],
)
def test_what_was_converted_is_that_form_and_adopts_again(folder: Path, model: Path, to: str, form: Form) -> None:
    out = folder / "out" / ("graph.pb" if to == "frozen" else to)
    answer = tfship("convert", model, out, "--to", to, *NAMED, "--no-server")
    assert answer.code == 0, answer.err
    assert answer.out.splitlines()[-1] == f"next    tfship inspect {out}"
    assert detect(out).form is form
    again = tfship("restore-verify", out, *(NAMED if to == "frozen" else ()), "--no-server", "--json")
    assert again.code == 0, again.err
    assert again.document["adopted"]["form"] == form.value
    assert [path.name for path in out.parent.iterdir()] == [out.name], "no staging is left"


def test_nothing_is_overwritten_and_what_cannot_be_made_is_said(folder: Path, model: Path) -> None:
    (folder / "there").write_text("mine")
    answer = tfship("convert", model, folder / "there", "--to", "frozen", *NAMED, "--no-server")
    assert answer.code == 2 and "a path that does not exist" in answer.err
    assert (folder / "there").read_text() == "mine"
    answer = tfship("convert", model, folder / "keras", "--to", "keras", *NAMED, "--no-server")
    assert answer.code == 2 and "Keras writes its own models" in answer.err
    answer = tfship("convert", model, folder / "objects", "--to", "object_checkpoint", *NAMED, "--no-server")
    assert answer.code == 2 and "not made: only live objects have one" in answer.err
    assert not (folder / "keras").exists()


@pytest.mark.parametrize(
    ("to", "name"),
    [
        ("saver_v2", "model.ckpt"),
        ("saver_v1", "a.meta"),
        ("saved_model", "a.pb"),
        ("frozen", "a.meta"),
        ("keras", "a.h5"),
    ],
)
def test_a_name_that_promises_another_file_is_refused_before_anything_runs(folder: Path, to: str, name: str) -> None:
    answer = tfship("convert", "half_plus_two", name, "--to", to, "--no-server")
    assert answer.code == 2 and f"OUT {name}, --to {to}: expected a folder's name" in answer.err
    assert [path.name for path in folder.iterdir()] == []


def test_a_graph_that_reads_files_beside_it_is_no_single_file(folder: Path) -> None:
    made = folder / "made"
    (made / "assets").mkdir(parents=True)
    (made / "frozen_graph.pb").write_bytes(b"graph")
    (made / "assets" / "words.txt").write_text("a")
    with pytest.raises(UsageError, match="a folder: this graph reads asset files"):
        steps.place(made, folder / "out.pb", Target.FROZEN)
    assert not (folder / "out.pb").exists()
    steps.place(made, folder / "out", Target.FROZEN)
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["assets", "frozen_graph.pb"]


def test_an_archive_is_one_file_and_weights_with_their_code_make_one_too(folder: Path) -> None:
    isolate.call(cli_models.keras_files, folder)
    answer = tfship("convert", "model.keras", "again.keras", "--to", "keras", "--no-server")
    assert answer.code == 0 and detect(folder / "again.keras").form is Form.KERAS, answer.err
    (folder / "mine.py").write_text(cli_models.CODE)
    coded = ("--model", "mine:Model", "--no-server")
    answer = tfship("convert", "model.weights.h5", "out.keras", "--to", "keras", *coded)
    assert answer.code == 0 and detect(folder / "out.keras").form is Form.KERAS, answer.err


def test_an_object_checkpoint_is_a_folder_that_adopts_again_with_the_code(folder: Path) -> None:
    isolate.call(cli_models.keras_files, folder)
    (folder / "mine.py").write_text(cli_models.CODE)
    coded = ("--model", "mine:Model", "--no-server")
    answer = tfship("convert", "model.weights.h5", "objects", "--to", "object_checkpoint", *coded)
    assert answer.code == 0 and detect(folder / "objects").form is Form.OBJECT_CHECKPOINT, answer.err
    again = tfship("restore-verify", "objects", *coded, "--json")
    assert again.code == 0 and again.document["adopted"]["form"] == "object-based checkpoint", again.err
    same = tfship("verify", "model.weights.h5", "objects", "model.keras", "--model", "mine:Model")
    assert same.code == 0, same.out + same.err


def test_a_plan_says_what_would_run_and_why_and_does_nothing(folder: Path, model: Path) -> None:
    def plan(*options: str) -> dict[str, tuple[str, str]]:
        answer = tfship("plan", model, *NAMED, *options, "--runtime", "embedded", "--json")
        assert answer.code == 0, answer.err
        return {step["name"]: (step["state"], step["why"]) for step in answer.document["steps"]}

    assert plan()["adopt"] == ("runs", "not made yet")
    assert not (folder / ".tfship").exists(), "nothing was written"
    tfship("freeze", model, *NAMED, "--no-server")
    found = plan()
    assert found["restore_verify"] == ("cached", "nothing changed")
    assert found["export"][0] == "runs" and found["smoke_test"][0] == "waits"
    assert plan("--refresh", "checkpoint")["checkpoint"] == ("runs", "requested (--refresh)")
    changed = tfship("plan", model, "--input", "x:0", "--output", "other=y:0", "--json").document["steps"][0]
    assert changed["state"] == "runs" and "given.outputs" in changed["why"]


def test_init_writes_a_configuration_whose_guesses_are_comments(folder: Path, model: Path) -> None:
    answer = tfship("init", model)
    assert answer.code == 0, answer.err
    text = (folder / "tfship.yaml").read_text()
    settings = PipelineConfig.model_validate(yaml.safe_load(text))
    assert settings.given.inputs == () and settings.given.outputs == ()
    chosen = text.replace("# given:", "given:").replace("#   ", "  ")
    settings = PipelineConfig.model_validate(yaml.safe_load(chosen))
    assert settings.given.inputs[0] == "x:0" and "y:0" in settings.given.outputs
    assert settings.files is not None and settings.files.path == folder / "model"
    answer = tfship("run", "--config", "tfship.yaml", "--no-server")
    assert answer.code == 2 and "tfship run" in answer.err and "--input x:0 --output y:0" in answer.err
    assert tfship("init", model).code == 2, "it overwrites nothing"
