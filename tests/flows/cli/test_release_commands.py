"""`tfship releases` and `tfship rollback`, and what a run does after them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.artifacts.disk import separate, writable
from tests.flows.cli.process import Answer, tfship

SCALED = """
import numpy as np
from tasks.user_code.model import Graph, SignatureTensors

DATA = ()

class Scaled:
    hyperparameters = {"factor": 2.0}

    def build(self, hyperparameters):
        import tensorflow as tf
        x = tf.compat.v1.placeholder(tf.float32, [None], name="x")
        factor = tf.compat.v1.get_variable("factor", initializer=float(hyperparameters["factor"]))
        return Graph(signatures={"serving_default": SignatureTensors({"x": x}, {"y": x * factor})})

    def batches(self, start, hyperparameters): return iter(())
    def validation(self): return {}
    def probe(self): return {"serving_default": {"x": np.arange(4, dtype=np.float32)}}
"""
BASE = Path(".tfship/serving/scaled")


def run(factor: float, *options: str) -> Answer:
    settings = f"{{hyperparameters: {{factor: {factor}}}}}"
    options = ("--no-server", "--runtime", "embedded", "--name", "scaled", "--json", *options)
    return tfship("run", "mine:Scaled", *options, TFSHIP_TRAINING=settings)


def versions() -> list[str]:
    return sorted(path.name for path in BASE.iterdir() if not path.name.startswith("."))


def test_rolled_back_is_held_until_it_is_forced_and_numbers_are_never_reused(folder: Path) -> None:
    (folder / "mine.py").write_text(SCALED)
    first, second = run(2.0), run(3.0)
    assert [answer.document["promotion"]["version"] for answer in (first, second)] == [1, 2]
    assert second.document["promotion"]["previous"] == 1

    (_, next_command) = tfship("releases", "scaled").out.splitlines()[-1].split(maxsplit=1)
    assert next_command == "tfship rollback scaled --serving-root .tfship/serving --reason WHY"
    back = tfship("rollback", "scaled", "--reason", "worse on Mondays", "--runtime", "embedded")
    assert (back.code, back.err) == (0, "")
    assert back.out.splitlines() == [
        "scaled serves version 1 again; 2 held, nothing deleted",
        "next    tfship releases scaled --serving-root .tfship/serving",
    ]
    assert versions() == ["1", "2.rolled-back"]
    only = tfship("releases", "scaled").out.splitlines()[-1]
    assert only == "next    tfship serve scaled --serving-root .tfship/serving", "nothing to go back to"

    held = run(3.0)
    assert held.code == 3 and versions() == ["1", "2.rolled-back"]
    assert held.states["promote"] == "held" and held.states["report"] == "built"
    assert "worse on Mondays" in held.err and "--force --reason" in held.err and "Traceback" not in held.err
    assert Path(held.document["report"]).is_file()
    assert held.document["promotion"] == {
        "name": "scaled",
        "version": None,
        "path": None,
        "previous": 1,
        "outcome": "held",
        "labels": None,
        "waived": {},
    }
    assert run(2.0).document["promotion"]["outcome"] == "unchanged", "what is served is not held"

    # The same model with another probe has other warmup requests, and computes the same.
    (folder / "mine.py").write_text(SCALED.replace("np.arange(4", "np.arange(5"))
    again = run(3.0)
    assert again.code == 3 and again.states["promote"] == "held" and again.states["export"] == "built"
    (folder / "mine.py").write_text(SCALED)

    forced = run(3.0, "--force", "--reason", "it was the weather")
    assert forced.document["promotion"] | {"path": ""} == {
        "name": "scaled",
        "version": 3,
        "path": "",
        "previous": 1,
        "outcome": "promoted",
        "labels": None,
        "waived": {},
    }
    assert versions() == ["1", "2.rolled-back", "3"]
    assert run(3.0).document["promotion"]["outcome"] == "unchanged"

    shown = tfship("releases", "scaled")
    assert shown.code == 0 and shown.out.splitlines()[-2:] == [
        "served  version 3",
        "next    tfship rollback scaled --serving-root .tfship/serving --reason WHY",
    ]
    for said in ("promoted", "rolled back to", "worse on Mondays", "it was the weather", "passed (stand-in)"):
        assert said in shown.out
    document = json.loads(tfship("releases", "scaled", "--json").out)
    assert document["served"] == 3
    events = [line["event"] for line in document["journal"]]
    assert events == [*["promoting", "promoted"] * 2, "rolling back", "rolled back", "promoting", "promoted"]


def test_rollback_to_a_version_by_its_number(folder: Path) -> None:
    (folder / "mine.py").write_text(SCALED)
    run(2.0)
    for version in ("2", "3"):  # by hand, without a line in the journal
        shutil.copytree(BASE / "1", BASE / version)
    with writable(separate(BASE / "2" / "saved_model.pb")) as path:
        path.write_bytes(b"no model")
    refused = tfship("rollback", "scaled", "--to", "2", "--reason", "both", "--runtime", "embedded")
    assert refused.code == 3 and "version 2" in refused.err and "Remedy: " in refused.err
    assert versions() == ["1", "2", "3"], "what does not load is not served again"
    answer = tfship("rollback", "scaled", "--to", "1", "--reason", "both", "--runtime", "embedded", "--json")
    line = answer.document
    assert (line["version"], line["previous"], sorted(line["retired"])) == (1, 3, ["2", "3"])
    assert versions() == ["1", "2.rolled-back", "3.rolled-back"]
    for to in ("1", "2", "7"):
        wrong = tfship("rollback", "scaled", "--to", to, "--reason", "again")
        assert wrong.code == 2 and f"version {to}" in wrong.err and "Remedy: " in wrong.err


def test_a_proven_model_is_promoted_later_under_a_label_and_the_label_moved(folder: Path) -> None:
    (folder / "mine.py").write_text(SCALED)
    run(2.0)
    proven = run(3.0, "--no-promote").document
    assert proven["promotion"]["outcome"] == "skipped" and versions() == ["1"]
    options = ("--no-server", "--runtime", "embedded")
    digest = next(step["digest"] for step in proven["steps"] if step["name"] == "export")
    for named, outcome in ((proven["run_id"], "promoted"), (digest[:8], "unchanged")):
        answer = tfship("promote", named, "--label", "canary", "--reason", "a try", *options, "--json")
        assert answer.code == 0, answer.err
        assert answer.document["name"] == "scaled"
        assert {step["name"] for step in answer.document["steps"]} == {"promote", "report"}
        assert answer.document["promotion"] | {"path": ""} == {
            "name": "scaled",
            "version": 2,
            "path": "",
            "previous": 1 if outcome == "promoted" else 2,
            "outcome": outcome,
            "labels": {"stable": 1, "canary": 2},
            "waived": {},
        }
        assert answer.document["parity"] and Path(answer.document["report"]).is_file(), "with the proof of its run"

    assert tfship("status", "scaled").out.splitlines()[-2:] == [
        "agreed, as far as it can be told without a running server: --server HOST:PORT",
        "next    tfship releases scaled --serving-root .tfship/serving",
    ]
    moved = tfship("label", "scaled", "stable", "2", "--reason", "no complaints")
    assert moved.code == 0 and moved.out.splitlines()[0] == "stable leads to version 2 of scaled"
    assert "no running server was told" in moved.out
    assert (
        tfship("label", "scaled", "stable", "2").out.splitlines()[0] == "stable leads to version 2 of scaled, as before"
    )
    assert tfship("label", "scaled", "canary", "--remove").code == 0
    assert "stable 2" in tfship("releases").out and "complaints" in tfship("releases", "scaled").out
    listed = json.loads(tfship("releases", "--json").out)
    assert [(one["name"], one["served"], one["labels"], one["versions"]) for one in listed] == [
        ("scaled", 2, {"stable": 2}, [1, 2])
    ]

    told = tfship("diff", "scaled", "1", "2").out
    assert "tensors 0 of 1 are the same byte for byte" in told and "factor" in told and "50.00%" in told
    assert "output  serving_default/y: 3 of 4 values differ, by at most 3" in told
    assert "nothing differs" in tfship("diff", "scaled", "2", "2").out
    assert tfship("diff", "scaled", "1", "2", "--json").document["files"]["tensors"][0]["distance"] == 1.0

    (BASE / "2").rename(BASE / "2.gone")
    differs = tfship("status", "scaled", "--json")
    assert differs.code == 3
    assert "label stable leads to version 2" not in differs.out and "which is not on disk" in differs.out
    for wrong, said in (
        (("label", "scaled", "stable"), "a version, or --remove"),
        (("label", "scaled", "stable", "9"), "version 9"),
        (("label", "scaled", "beta", "--remove"), "label scaled beta"),
        (("promote", "nosuch", *options), "a run in"),
        (("promote", ".", *options), "a model"),
        (("label", "scaled", "stable", "1", "--server", "127.0.0.1:1"), "an answer over gRPC"),
        (("rollback", "scaled", "--reason", "x", "--runtime", "embedded"), "--server HOST:PORT"),
        (("promote", proven["run_id"], "--server", "nowhere", *options), "HOST:PORT"),
        (("status", "scaled", "--server", "127.0.0.1:1"), "an answer over gRPC"),
    ):
        answer = tfship(*wrong)
        assert answer.code in (2, 4) and said in answer.err and "Remedy: " in answer.err, answer.err


def test_a_promotion_that_breaks_a_rule_is_refused_until_it_is_approved_or_waived(folder: Path) -> None:
    (folder / "mine.py").write_text(SCALED)
    run(2.0)
    (folder / "mine.py").write_text(SCALED.replace('{"y": x * factor}', '{"z": x * factor}'))
    asked = {"TFSHIP_RELEASE__POLICY": "{approval: true}"}
    settings = {"TFSHIP_TRAINING": "{hyperparameters: {factor: 3.0}}", **asked}
    options = ("--no-server", "--runtime", "embedded", "--name", "scaled")
    refused = tfship("run", "mine:Scaled", *options, **settings)
    assert refused.code == 3 and versions() == ["1"], refused.err
    assert "rules signatures, approval" in refused.err and "output y is gone" in refused.err
    ran = max(path.parent.name for path in Path(".tfship/reports").glob("*/run.json"))
    assert f"next    tfship promote {ran} --waive signatures --reason TEXT" in refused.out

    without = tfship("promote", ran, "--waive", "signatures", *options, **asked)
    assert without.code == 2 and "a reason where a rule is waived" in without.err
    waived = tfship("promote", ran, "--waive", "signatures", "--reason", "z is y", *options, **asked)
    assert waived.code == 3 and "rule approval" in waived.err and "tfship approve " in waived.err
    assert f"next    tfship approve {ran} --reason TEXT" in waived.out
    approved = tfship("approve", ran, "--reason", "looked at it")
    assert approved.code == 0 and approved.out.splitlines()[-1] == f"next    tfship promote {ran}", approved.err
    done = tfship("promote", ran, "--waive", "signatures", "--reason", "z is y", *options, **asked)
    assert done.code == 0 and versions() == ["1", "2"], done.err
    assert "waived  signatures: serving_default: output y is gone" in done.out
    shown = tfship("releases", "scaled").out
    assert "approved" in shown and "looked at it" in shown and "waived signatures" in " ".join(shown.split())
    pages = [page.read_text() for page in Path(".tfship/reports").glob("*/report.html")]
    assert any("rule signatures waived: serving_default: output y is gone" in page for page in pages)

    with_metric = {"TFSHIP_RELEASE__POLICY": "{metric: {name: mae, floor: 0.5}}"}
    rowless = tfship("promote", ran, *options, **with_metric, TFSHIP_SERVING_ROOT="elsewhere")
    assert rowless.code == 2 and "labelled rows" in rowless.err and "--evaluate FILE" in rowless.err
    (folder / "rows.csv").write_text("x,label\n1.0,3.0\n2.0,6.0\n")
    wrong = (folder / "wrong.csv").write_text("x,label\n1.0,2.0\n2.0,4.0\n") and "wrong.csv"
    worse = tfship("promote", ran, "--evaluate", wrong, *options, **with_metric, TFSHIP_SERVING_ROOT="elsewhere")
    assert worse.code == 3 and "rule metric" in worse.err and "mae of at most 0.5" in worse.err, worse.err
    good = tfship("promote", ran, "--evaluate", "rows.csv", *options, **with_metric, TFSHIP_SERVING_ROOT="elsewhere")
    assert good.code == 0, good.err


def test_a_saved_model_is_promoted_when_its_own_answers_prove_it(folder: Path) -> None:
    (folder / "mine.py").write_text(SCALED)
    run(2.0)
    shutil.copytree(BASE / "1", folder / "bought")
    answer = tfship("promote", "bought", "--name", "other", "--no-server", "--runtime", "embedded")
    assert answer.code == 0, answer.err
    assert "bought is proven by its own answers" in answer.out
    assert (folder / ".tfship" / "serving" / "other" / "1" / "saved_model.pb").is_file()


def test_a_name_that_is_not_there_is_named_and_nothing_is_made_for_it(folder: Path) -> None:
    Path(".tfship/serving/other/1").mkdir(parents=True)
    for command in (
        ["releases", "nosuch"],
        ["rollback", "nosuch", "--reason", "x"],
        ["rollback", "../x", "--reason", "x"],
        ["label", "nosuch", "stable", "1"],
        ["status", "nosuch"],
    ):
        answer = tfship(*command)
        assert (
            answer.code == 2 and command[1] in answer.err and "found other" in answer.err and "Remedy: " in answer.err
        )
    assert [path.name for path in Path(".tfship/serving").iterdir()] == ["other"]
    assert sorted(path.name for path in folder.iterdir()) == [".tfship"]
