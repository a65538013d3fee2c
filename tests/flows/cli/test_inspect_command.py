"""`tfship inspect`: its page, its JSON and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks import isolate
from tests.flows.cli.process import tfship
from tests.makers import inspected_files


@pytest.fixture
def model(folder: Path) -> Path:
    isolate.call(inspected_files.checkpoint, folder / "model" / "model.ckpt")
    return Path("model")


def test_the_page_ends_with_the_next_command(model: Path) -> None:
    answer = tfship("inspect", model, "--tensors", "--ops")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.splitlines()[-1] == "next    tfship run model --input x:0 --output y:0"
    for said in (
        "Saver checkpoint V2",
        "w/Momentum",
        "optimizer",
        "learning_rate",
        "MatMul",
        "/device:CPU:0",
        "GraphDef producer",
    ):
        assert said in answer.out


def test_json_is_one_document_without_nan(model: Path) -> None:
    answer = tfship("inspect", model, "--json", "--tensors")

    def refuse(word: str) -> None:
        raise AssertionError(word)

    document = json.loads(answer.out, parse_constant=refuse)
    assert answer.code == 0 and document["whole"] is True
    assert document["options"] == ["--input x:0", "--output y:0"]
    assert {row["name"]: row["nonfinite"] for row in document["variables"]}["odd"] == 2


def test_damage_is_exit_3_with_the_list_and_no_traceback(model: Path) -> None:
    shard = next(model.glob("*.data-*"))
    shard.write_bytes(b"\xff" * shard.stat().st_size)
    answer = tfship("inspect", model)
    assert answer.code == 3 and "w/Momentum" in answer.out
    assert "is damaged" in answer.err and "Remedy: " in answer.err and "Traceback" not in answer.err
    quick = tfship("inspect", model, "--quick")
    assert quick.code == 0 and "not checked" in quick.out
    document = tfship("inspect", model, "--json").document
    assert document["whole"] is False and document["damage"]


def test_what_is_not_there_is_exit_2(folder: Path) -> None:
    answer = tfship("inspect", "nowhere")
    assert answer.code == 2 and "nowhere" in answer.err and "Remedy: " in answer.err
    assert answer.out == ""


def test_the_watchdog_ends_a_file_that_takes_too_much(model: Path) -> None:
    answer = tfship("inspect", model, TFSHIP_LIMITS__MEMORY="1000000")
    assert answer.code == 1 and "limits.memory" in answer.err and "Traceback" not in answer.err


def test_a_step_is_chosen_and_one_that_is_not_there_is_said(model: Path) -> None:
    assert tfship("inspect", model, "--step", "7", "--quick").code == 0
    wrong = tfship("inspect", model, "--step", "8")
    assert wrong.code == 2 and "step 8" in wrong.err
