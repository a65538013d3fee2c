"""`tfship run`: its output; a second run is cached; two concurrent runs build each step once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from tests.flows.cli.process import MEASURED, QUICK, STEPS, Shell, tfship

DOCUMENT = {"run_id", "name", "steps", "parity", "smoke", "promotion", "report"}
DOCUMENT |= {"adopted", "quality", "notes", "servers", "rehearsal", "reproduction"}
STEP = {"name", "state", "seconds", "artifact", "digest", "costs"}
ROW = {"candidate", "signature", "output", "test", "max_abs", "max_rel", "noise", "limit", "mismatched", "passed"}
SMOKE = {"runtime", "image", "load_seconds", "latency_ms", "passed", "verdict"}
PROMOTION = {"name", "version", "path", "previous", "outcome", "labels", "waived"}

# In every Python process of a run: note who it is, its command, and whether it ever imports TensorFlow.
WITNESS = """
import os, sys
with open(os.environ["WITNESS"], "a") as stream:
    stream.write(f"process {os.getpid()} " + open("/proc/self/cmdline").read().replace("\\0", " ").replace("\\n", " ") + "\\n")
def hook(event, args):
    if event == "import" and args[0].split(".")[0] == "tensorflow":
        with open(os.environ["WITNESS"], "a") as stream:
            stream.write(f"import {os.getpid()} {args[0]}\\n")
sys.addaudithook(hook)
"""


def test_json_is_one_document_a_second_run_is_cached_and_the_flows_process_never_imports_tensorflow(
    folder: Path, shell: Callable[..., Shell]
) -> None:
    (folder / "witness").mkdir()
    (folder / "witness" / "sitecustomize.py").write_text(WITNESS)

    def run(name: str) -> tuple[dict, list[str], int]:  # type: ignore[type-arg]
        note = folder / name
        search = os.pathsep.join([str(folder / "witness"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        environment = {"PYTHONPATH": search, "WITNESS": str(note), **MEASURED}
        process = shell("run", *QUICK, "--json", environment=environment)
        answer = process.answer()
        assert answer.code == 0 and answer.err == "", answer.err
        process.assert_nothing_left()
        return answer.document, note.read_text().splitlines(), process.process.pid

    first, noted, flow = run("first")
    importers = {int(line.split()[1]) for line in noted if line.startswith("import ")}
    servers = {int(line.split()[1]) for line in noted if "tasks.isolate.server" in line}
    assert any(line.startswith(f"process {flow} ") for line in noted) and servers & importers, "the witness works"
    assert flow not in importers, "it builds, in children"
    assert set(first) == DOCUMENT
    assert all(set(step) == STEP for step in first["steps"])
    assert all(set(row) == ROW and row["passed"] is True for row in first["parity"])
    assert set(first["smoke"]) == SMOKE and set(first["smoke"]["latency_ms"]) == {"p50", "p99"}
    assert first["smoke"]["verdict"] == "passed (stand-in)"
    assert set(first["promotion"]) == PROMOTION
    assert sorted(step["name"] for step in first["steps"]) == sorted(STEPS)
    assert {step["state"] for step in first["steps"]} == {"built"}
    assert {row["test"] for row in first["parity"]} == {"values", "exact", "served", "structure"}
    assert first["promotion"]["outcome"] == "promoted" and first["promotion"]["version"] == 1
    assert Path(first["promotion"]["path"], "saved_model.pb").is_file()
    assert json.loads(Path(first["report"]).with_name("run.json").read_text()) == first

    second, noted, flow = run("second")
    states = {step["name"]: step["state"] for step in second["steps"]}
    cached = dict.fromkeys(STEPS, "cached") | {"promote": "unchanged", "report": "built"}
    assert states == cached
    assert second["promotion"] == first["promotion"] | {"outcome": "unchanged", "previous": 1}
    assert second["parity"] == first["parity"]
    assert {s["name"]: s["digest"] for s in second["steps"]} == {s["name"]: s["digest"] for s in first["steps"]}
    assert [line for line in noted if line.startswith("import")] == []
    assert [int(line.split()[1]) for line in noted] == [flow], f"one process and no other: {noted}"


def test_a_refreshed_step_is_built_anew_and_what_follows_is_cached_where_the_digest_is_the_same(copied: Path) -> None:
    answer = tfship("run", *QUICK, "--json", "--refresh", "export")
    assert answer.code == 0, answer.err
    states = answer.states
    assert states.pop("export") == "built"
    assert {states[name] for name in states if name not in ("promote", "report")} == {"cached"}
    assert states["promote"] == "unchanged"


def test_a_moved_store_is_still_whole(copied: Path) -> None:
    answer = tfship("run", *QUICK, "--json")
    assert answer.states["train"] == answer.states["smoke_test"] == "cached"
    assert str(copied) in answer.document["steps"][0]["artifact"]


def test_what_a_person_sees(copied: Path) -> None:
    answer = tfship("run", *QUICK)
    assert answer.code == 0
    progress = answer.err.splitlines()
    assert [line.split()[:2] for line in progress if "freeze" not in line and "export" not in line] == [
        [name, "cached"] for name in STEPS if name not in ("freeze", "export", "promote", "report")
    ] + [["promote", "unchanged"], ["report", "built"]]
    said = answer.out.splitlines()
    assert "release half_plus_two version 1, unchanged" in said
    assert said[-1] == "next    tfship releases half_plus_two --serving-root .tfship/serving"
    assert "DIFFERS" not in answer.out


def test_no_promotion_says_so_and_names_a_next_command_that_works(shipped: Path) -> None:
    answer = tfship("run", *QUICK, "--store", shipped / ".tfship" / "store", "--no-promote")
    assert answer.code == 0
    assert "release none: promotion skipped" in answer.out
    assert answer.out.splitlines()[-1] == "next    tfship run half_plus_two"
    assert not Path(".tfship/serving").exists()


def test_two_runs_at_once_build_every_step_once_and_promote_once(shell: Callable[..., Shell]) -> None:
    both = [shell("run", *QUICK, "--json") for _ in range(2)]
    answers = [process.answer(240.0) for process in both]
    assert [answer.code for answer in answers] == [0, 0], [answer.err for answer in answers]
    for name in STEPS[:6]:
        assert sorted(answer.states[name] for answer in answers) == ["built", "cached"], name
    assert sorted(answer.document["promotion"]["outcome"] for answer in answers) == ["promoted", "unchanged"]
    assert {answer.document["promotion"]["version"] for answer in answers} == {1}
    for process in both:
        process.assert_nothing_left()
