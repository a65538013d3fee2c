"""`tfship verify`: its verdicts, its JSON and its exit codes for several saved models."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks import isolate
from tests.flows.cli.process import MEASURED, Answer, tfship
from tests.makers import compared_models

ROW = {"candidate", "signature", "output", "test", "max_abs", "max_rel", "noise", "limit", "mismatched", "passed"}
PUZZLE = ("--input", "input:0", "--output", "result:0")
LENET = ("--input", "Placeholder:0", "--output", "add_4:0")


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forms")
    isolate.call(compared_models.every, folder)
    return folder


def _said(answer: Answer) -> list[str]:
    assert "Traceback" not in answer.err
    return answer.out.splitlines()


def test_equal_forms_are_exit_0_and_the_last_line_is_the_next_command(forms: Path) -> None:
    answer = tfship(
        "verify", forms / "model.ckpt", forms / "frozen.pb", forms / "saved_model", *compared_models.OPTIONS
    )
    said = _said(answer)
    assert (answer.code, answer.err) == (0, "")
    assert said[-2] == "equal   3 forms, bit for bit"
    assert said[-1] == " ".join(["next    tfship run", str(forms / "model.ckpt"), *compared_models.OPTIONS])
    assert sum("4 of 4 values found byte for byte" in line for line in said) == 2


def test_the_first_divergent_form_is_named_and_explained(forms: Path) -> None:
    weight, op = forms / "weight changed.pb", forms / "op changed.pb"
    answer = tfship("verify", forms / "model.ckpt", forms / "frozen.pb", weight, op, *compared_models.OPTIONS)
    said = _said(answer)
    assert answer.code == 3
    assert said[-2] == f"differs {weight} is the first that differs from {forms / 'model.ckpt'}"
    assert said[-1].startswith("next    tfship verify ") and said[-1].endswith(" --explain")
    assert str(weight) in answer.err and "Remedy: --explain" in answer.err
    explained = tfship("verify", forms / "model.ckpt", weight, *compared_models.OPTIONS, "--explain")
    assert explained.code == 3
    assert "the first tensor that differs is dense/kernel (VariableV2, here Const)" in explained.out
    assert "expected -0.0527473092, got 0.447252691" in explained.out


def test_json_is_one_document_whatever_the_verdict(forms: Path) -> None:
    equal = tfship("verify", forms / "frozen.pb", forms / "model.ckpt", *compared_models.OPTIONS, "--json").document
    assert (equal["verdict"], equal["first_divergent"], equal["explanation"]) == ("equal", None, None)
    assert all(set(row) >= ROW for row in equal["parity"])
    differs = tfship(
        "verify", forms / "frozen.pb", forms / "op changed.pb", *compared_models.OPTIONS, "--json", "--explain"
    ).document
    assert differs["verdict"] == "differs" and differs["first_divergent"] == str(forms / "op changed.pb")
    assert differs["explanation"]["first"]["tensor"] == "relu:0"
    noisy = (forms / "noisy.pb", forms / "frozen.pb", *compared_models.OPTIONS)
    refused = tfship("verify", *noisy, "--json")
    assert refused.code == 3 and refused.document["error"]["error"] == "ImpureError"
    answer = tfship("verify", *noisy, "--allow-impure", "random", "--json")
    assert answer.code == 3 and answer.document["verdict"] == "nondeterministic"


def test_the_tolerance_comes_from_the_option_or_the_configuration(forms: Path, folder: Path) -> None:
    both = (forms / "frozen.pb", forms / "weight changed.pb", *compared_models.OPTIONS)
    wide = tfship("verify", *both, "--tolerance", "1000,0")
    assert wide.code == 0 and "within the tolerance" in wide.out
    assert tfship("verify", *both, "--tolerance", "1e-3").code == 3
    (folder / "wide.yaml").write_text("tolerance: {absolute: 1000}\n")
    assert tfship("verify", *both, "--config", "wide.yaml", **MEASURED).code == 0
    for wrong in ("much", "-1", "nan", "1,2,3"):
        answer = tfship("verify", *both, f"--tolerance={wrong}")
        assert answer.code == 2 and "Remedy: " in answer.err, wrong


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("frozen.pb",), 2, "two paths or more"),
        (("frozen.pb", "nowhere"), 2, "nowhere"),
        (("frozen.pb", "cut.pb"), 3, "cut.pb"),
        (("frozen.pb", "one row.pb"), 2, "batches of 1"),
        (("frozen.pb", "other dtype.pb"), 3, "float64"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_what_a_user_can_cause_is_a_message(forms: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    (forms / "cut.pb").write_bytes((forms / "frozen.pb").read_bytes()[:-50])
    answer = tfship("verify", *(forms / name for name in arguments), *compared_models.OPTIONS)
    assert answer.code == code and said in answer.err and "Remedy: " in answer.err
    assert "Traceback" not in answer.err


def test_the_watchdog_ends_a_model_that_takes_too_much(forms: Path) -> None:
    both = (forms / "frozen.pb", forms / "frozen.pb", *compared_models.OPTIONS)
    answer = tfship("verify", *both, TFSHIP_LIMITS__MEMORY="1000000")
    assert answer.code == 1 and "limits.memory" in answer.err and "Traceback" not in answer.err


def test_puzzle15_agrees_with_its_authors_frozen_graph(wild: Path) -> None:
    both = (wild / "puzzle15" / "frozen_model.pb", wild / "puzzle15" / "modeldir")
    answer = tfship("verify", *both, *PUZZLE)
    assert answer.code == 0 and "equal   2 forms, bit for bit" in answer.out
    assert "1 of 1 values found byte for byte" in answer.out


def test_cartpoles_two_checkpoints_differ(wild: Path) -> None:
    both = [wild / "cartpole-pg" / f"cart-pole-{episode}-episode" for episode in ("50th", "100th")]
    answer = tfship("verify", *both, "--input", "Placeholder:0", "--output", "Softmax:0", "--explain")
    assert answer.code == 3 and "the first tensor that differs is dense/kernel (VariableV2)" in answer.out


def test_lenets_dropout_is_nondeterministic_until_it_is_pinned(wild: Path) -> None:
    lenet = wild / "lenet-traffic"
    dropped = tfship("verify", lenet, lenet, *LENET, "--pin", "Placeholder_2=0.5")
    assert dropped.code == 3 and "dropout" in dropped.err and "--pin" in dropped.err
    assert tfship("verify", lenet, lenet, *LENET, "--pin", "Placeholder_2=1.0").code == 0


def test_rossman_agrees_with_itself(wild: Path) -> None:
    answer = tfship("verify", wild / "sm-rossman", wild / "sm-rossman")
    assert answer.code == 0 and "26 of 26 values found byte for byte" in answer.out
