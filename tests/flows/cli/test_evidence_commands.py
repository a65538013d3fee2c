"""`tfship keygen` and `tfship verify-release`, and the keys of `tfship run`, `promote` and `rollback`."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from tests.artifacts.disk import separate
from tests.flows.cli.process import QUICK, Shell, tfship
from tests.makers.mutants_releases import DATA, flip

NAME = "half_plus_two"
BASE = Path(".tfship/serving") / NAME
CHECKS = f"""
import sys
from flows.cli import main
sys.argv[1:] = ["verify-release", "{NAME}", "1", *sys.argv[1:]]
try:
    main()
finally:
    print(*sorted({{"tensorflow", "prefect", "requests"}} & sys.modules.keys()), file=sys.stderr)
"""


def test_a_release_without_a_key_is_whole_and_not_signed(copied: Path) -> None:
    answer = tfship("verify-release", NAME, "1")
    assert (answer.code, answer.err) == (0, "")
    said = dict(line.split(maxsplit=1) for line in answer.out.splitlines())
    assert said["whole"].startswith(f"{NAME} version 1: 4 files")
    assert said["chain"] == "train, checkpoint, restore_verify, freeze, export, smoke_test"
    assert "module tasks.examples.half_plus_two" in said["sources"] and said["signed"].startswith("not")
    found = tfship("verify-release", NAME, "1", "--json").document
    assert (found["signature"], found["journalled"], len(found["files"])) == ("none", True, 4)
    assert "unsigned" in tfship("releases", NAME).out


def test_what_was_changed_is_named_with_exit_code_3(copied: Path) -> None:
    flip(separate(BASE / "1" / DATA))
    answer = tfship("verify-release", NAME, "1")
    assert answer.code == 3 and answer.out == ""
    assert f"{DATA} has changed" in answer.err and "Remedy: " in answer.err and "Traceback" not in answer.err
    error = json.loads(tfship("verify-release", NAME, "1", "--json").out)["error"]
    assert error["error"] == "EvidenceError" and error["found"] == f"{DATA} has changed"


def test_it_needs_neither_a_store_nor_tensorflow_nor_prefect(copied: Path, shell: Callable[..., Shell]) -> None:
    shutil.rmtree(".tfship/store")
    answer = shell("-c", CHECKS, program=Path(sys.executable)).answer()
    assert (answer.code, answer.err) == (0, "\n")


def test_from_a_key_to_a_rollback_that_trusts_it(copied: Path) -> None:
    made = tfship("keygen", "keys", "--json").document
    assert made == {"signing_key": "keys/tfship.key", "public_key": "keys/tfship.pub"}
    again = tfship("keygen", "keys")
    assert again.code == 2 and "tfship.key" in again.err
    keys = ("--signing-key", "keys/tfship.key", "--public-key", "keys/tfship.pub")

    other = {"TFSHIP_TRAINING": "{hyperparameters: {told: 1}}"}
    answer = tfship("run", *QUICK, *keys, "--json", **other)
    assert answer.code == 0 and answer.document["promotion"]["version"] == 2, answer.err
    assert "PRIVATE" not in answer.out + answer.err
    assert "signed  by keys/tfship.pub" in tfship("verify-release", NAME, "2", *keys[2:]).out
    assert "by whom, was not checked" in tfship("verify-release", NAME, "2").out
    shown = tfship("releases", NAME).out
    assert " signed" in shown and " unsigned" in shown

    refused = tfship("verify-release", NAME, "1", *keys[2:])
    assert refused.code == 3 and "it was not signed" in refused.err
    refused = tfship("rollback", NAME, "--reason", "worse", "--runtime", "embedded", *keys[2:])
    assert refused.code == 3 and "it was not signed" in refused.err
    assert (BASE / "2").is_dir(), "nothing was changed"
    assert tfship("rollback", NAME, "--reason", "worse", "--runtime", "embedded").code == 0
    assert (BASE / ".tfship" / "evidence" / "2").is_dir()


def test_keys_that_cannot_be_used_are_named_before_anything_is_trained(folder: Path) -> None:
    Path("no.key").write_text("xyzzy")
    Path("no.key").chmod(0o600)
    for options, said in (
        (("--signing-key", "gone.key"), "--signing-key gone.key"),
        (("--signing-key", "no.key"), "signing key no.key"),
        (("--public-key", "no.key"), "a key to sign with"),
    ):
        answer = tfship("run", *QUICK, *options)
        assert answer.code == 2 and said in answer.err and "Remedy: " in answer.err, answer.err
        assert "xyzzy" not in answer.err + answer.out
        assert not list(folder.glob(".tfship/store/train/*"))
    for command in (("rollback", NAME, "--reason", "x"), ("verify-release", NAME, "1")):
        Path(f".tfship/serving/{NAME}/1").mkdir(parents=True, exist_ok=True)
        answer = tfship(*command, "--public-key", "gone.pub")
        assert answer.code == 2 and "gone.pub" in answer.err, answer.err
