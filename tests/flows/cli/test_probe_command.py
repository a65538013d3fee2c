"""`tfship probe` prints the rows that a run would send, as --probe and --inputs read them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tasks import isolate
from tests.flows.cli.process import tfship
from tests.makers import cli_models, compared_models


def test_what_it_prints_is_read_again_and_is_what_a_run_draws(folder: Path) -> None:
    isolate.call(compared_models.every, folder)
    printed = tfship("probe", "frozen.pb", "--rows", "3", *compared_models.OPTIONS)
    assert printed.code == 0, printed.err
    document = json.loads(printed.out)
    assert np.array(document["serving_default"]["x"]).shape == (3, 4)
    assert (
        f"next    correct them, then: tfship run frozen.pb {' '.join(compared_models.OPTIONS)} --probe FILE"
        in printed.err
    )
    assert tfship("probe", "frozen.pb", "--rows", "3", *compared_models.OPTIONS).out == printed.out
    assert tfship("probe", "frozen.pb", "--rows", "3", "--seed", "1", *compared_models.OPTIONS).out != printed.out
    (folder / "probe.json").write_text(printed.out)
    answered = tfship("predict", "frozen.pb", "--inputs", "probe.json", *compared_models.OPTIONS)
    assert np.array(json.loads(answered.out)["outputs"]["logits"]).shape == (3, 3)


def test_examples_are_printed_by_their_features(folder: Path) -> None:
    isolate.call(cli_models.graded, folder / "graded")
    printed = tfship("probe", "graded", "--rows", "2")
    assert printed.code == 0, printed.err
    document = json.loads(printed.out)
    document["serving_default"]["examples"][0]["mark"] = [0.25]
    (folder / "probe.json").write_text(json.dumps(document))
    found = json.loads(tfship("predict", "graded", "--inputs", "probe.json").out)["predictions"]
    scores = {one["signature_name"]: one["outputs"] for one in found}["serving_default"]["scores"]
    assert scores[0] == [0.25, 0.75] and len(scores) == 2


def test_a_model_that_is_not_there_is_a_message(folder: Path) -> None:
    answer = tfship("probe", "nowhere")
    assert answer.code == 2 and answer.out == "" and "Remedy: " in answer.err
