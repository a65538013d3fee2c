"""A rehearsed change of versions: what clients would notice, and what could not be rehearsed."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

import tasks.rehearse as step
from tasks.artifact_views import Exported
from tasks.artifacts.store import Artifact
from tasks.errors import ChildFailed, EnvironmentFailure, SmokeRefused
from tasks.records.rehearsal import Phase, Rehearsal, Switch
from tasks.records.serving import Cause, Endpoint
from tasks.records.settings import Gates
from tasks.rehearse import rehearse
from tasks.serving.checks import gates, lifecycle, traffic
from tasks.smoke_test import smoke_test
from tasks.step import Run
from tests.artifacts.disk import separate, writable
from tests.makers.exported import TOLERANCE, Made, a_run, exported, serving


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """One store for all of these tests: what comes before the rehearsal is made once."""
    with a_run(tmp_path_factory.mktemp("store")) as entered:
        yield entered


def served(made: Made, root: Path) -> Artifact:
    """Make the model version 1 of `root`/m; its blessing."""
    shutil.copytree(Exported(made[0].path).model, root / "m" / "1")
    return smoke_test(*made, serving(), TOLERANCE)


def rehearsed(made: Made, blessed: Artifact, root: Path, **changes: Any) -> Rehearsal:
    """A rehearsal beside what `root` serves."""
    artifact = rehearse(made[0], blessed, made[1], made[2], serving(**changes), root / "m", 0.5)
    return Rehearsal.model_validate_json((artifact.path / "rehearsal.json").read_bytes())


def test_a_change_of_versions_is_rehearsed_beside_production(run: Run, tmp_path: Path) -> None:
    root = tmp_path / "serving"
    first = exported("Baked")
    blessed = smoke_test(*first, serving(), TOLERANCE)
    nothing = rehearsed(first, blessed, root)
    assert nothing.passed is None and "nothing to change from" in nothing.note
    served(first, root)
    before = sorted(str(path) for path in root.rglob("*") if path.name != "lock")

    found = rehearsed(first, blessed, root, flags=["--grpc_max_threads=2"])
    assert found.passed and found.switch is not None
    assert found.switch.turned_away, "two clients at once, of which one is let in"
    assert [(phase.name, phase.failed) for phase in found.switch.phases] == [("before", 0), ("during", 0), ("after", 0)]
    assert all(phase.requests > 0 for phase in found.switch.phases)
    assert found.switch.version == 2 and found.switch.switch_seconds is not None and found.peak_memory
    assert sorted(str(path) for path in root.rglob("*") if path.name != "lock") == before, "production is as it was"

    with pytest.raises(SmokeRefused, match="p99 before"):
        rehearsed(first, blessed, root, gates={"max_p99_ms": 0.0001})


def test_clients_that_the_new_version_would_fail_refuse_it(run: Run, tmp_path: Path) -> None:
    root = tmp_path / "serving"
    first = exported("Baked")
    served(first, root)
    renamed = exported("Renamed")
    with pytest.raises(SmokeRefused, match="failed requests") as refused:
        rehearse(
            renamed[0], smoke_test(*renamed, serving(), TOLERANCE), renamed[1], renamed[2], serving(), root / "m", 0.5
        )
    written = json.loads((list(run.artifacts.values())[-1].path / "rehearsal.json").read_text())
    phases = {phase["name"]: phase["failed"] for phase in written["switch"]["phases"]}
    assert phases["before"] == 0 and phases["after"] > 0
    assert refused.value.log


def test_a_model_that_answers_classify_and_regress_alone_is_rehearsed_with_these(run: Run, tmp_path: Path) -> None:
    made = exported("Classed", "classify_models")
    blessed = served(made, tmp_path)
    found = rehearsed(made, blessed, tmp_path)
    assert found.passed and found.switch is not None
    assert found.switch.traffic == "the current version's warmup requests"
    assert all(phase.requests > 0 and not phase.failed for phase in found.switch.phases)

    shutil.rmtree(tmp_path / "m" / "1" / "assets.extra")
    found = rehearsed(made, blessed, tmp_path)
    assert found.passed and found.switch is not None and "probe" in found.switch.traffic


def test_a_version_is_served_under_whatever_name_reads_as_its_number(run: Run, tmp_path: Path) -> None:
    made = exported("Baked")
    blessed = served(made, tmp_path)
    (tmp_path / "m" / "1").rename(tmp_path / "m" / "0007")
    found = rehearsed(made, blessed, tmp_path)
    assert found.passed and found.switch is not None
    assert (found.switch.previous, found.switch.version) == (7, 8)


def test_a_rehearsal_that_cannot_be_made_is_not_left_out_in_silence(run: Run, tmp_path: Path) -> None:
    made = exported("Baked")
    blessed = served(made, tmp_path)
    classed = exported("Classed", "classify_models")
    shutil.rmtree(tmp_path / "m" / "1" / "assets.extra")
    with pytest.raises(EnvironmentFailure, match="neither its own warmup requests") as impossible:
        rehearsed(classed, smoke_test(*classed, serving(), TOLERANCE), tmp_path)
    assert "--rehearse" in impossible.value.remedy and impossible.value.server == "embedded server"
    with writable(separate(tmp_path / "m" / "1" / "saved_model.pb")) as path:
        path.write_bytes(b"nothing")
    with pytest.raises(EnvironmentFailure, match="does not load in this server"):
        rehearsed(made, blessed, tmp_path)


def switch(**changes: Any) -> Switch:
    """A change that no client felt."""
    phases = tuple(
        Phase(name=name, seconds=1.0, requests=9, failed=0, p50=1.0, p99=2.0) for name in ("before", "during", "after")
    )
    fields = {"previous": 1, "version": 2, "traffic": "probe", "phases": phases, "failures": (), "switch_seconds": 1.0}
    return Switch.model_validate(fields | {"load_seconds": 0.5} | changes)


GOOD = Gates(max_p99_ms=3.0, max_load_seconds=1.0, max_rss_bytes=100)


def slow(name: str) -> dict[str, Any]:
    return {
        "phases": tuple(one.model_copy(update={"p99": 4.0}) if one.name == name else one for one in switch().phases)
    }


@pytest.mark.parametrize(
    ("changes", "peak", "case", "cause"),
    [
        ({}, 100, "", None),
        ({}, 101, "resident memory with both loaded", Cause.TOO_LARGE),
        ({}, None, "resident memory with both loaded", Cause.TOO_LARGE),
        ({"load_seconds": 1.5}, 100, "load of the new version", Cause.TOO_SLOW),
        (slow("before"), 100, "p99 before", Cause.TOO_SLOW),
        (slow("during"), 100, "p99 during", Cause.TOO_SLOW),
        (slow("after"), 100, "p99 after", Cause.TOO_SLOW),
        ({"switch_seconds": None}, 100, "the new version took over", Cause.NEVER_AVAILABLE),
        ({"switch_seconds": None, "ended": "NOT_FOUND"}, 100, "the new version took over", Cause.LOAD_ERROR),
    ],
)
def test_each_gate_holds_for_the_change_too(
    changes: dict[str, Any], peak: int | None, case: str, cause: Cause | None
) -> None:
    failed = [(one.case, one.cause) for one in gates.of_switch(switch(**changes), peak, GOOD) if not one.passed]
    assert failed == ([(case, cause)] if cause else [])


class Told:
    """A server that says these states of its versions, one after the other, and goes away after the last."""

    def __init__(self, *said: dict[int, str]) -> None:
        waiting = list(said)

        class Status(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                states = waiting.pop(0) if len(waiting) > 1 else waiting[0]
                status = {"error_message": "NOT_FOUND: no such op"}
                entries = [{"version": str(one), "state": state, "status": status} for one, state in states.items()]
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps({"model_version_status": entries}).encode())

            def log_message(self, *_: object) -> None:
                pass

        self.http = HTTPServer(("127.0.0.1", 0), Status)
        self.endpoint = Endpoint(grpc="127.0.0.1:1", rest=f"http://127.0.0.1:{self.http.server_port}")
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def settled(self) -> Any:
        """What comes of waiting for version 2, which may take a week."""
        return traffic.wait_until_settled(self.endpoint, "m", 2, time.monotonic() + 7 * 86400, 60.0)


ONE = {1: "AVAILABLE"}


def test_a_change_is_over_when_its_outcome_is_known() -> None:
    took_over = Told(ONE, ONE | {2: "LOADING"}, ONE | {2: "AVAILABLE"}, {1: "END", 2: "AVAILABLE"}).settled()
    assert took_over.took_over and took_over.load_seconds > 0
    ended = Told(ONE, ONE | {2: "LOADING"}, ONE | {2: "END"}).settled()
    assert not ended.took_over and ended.ended == "NOT_FOUND: no such op"
    gone = Told(ONE)
    gone.http.shutdown()
    gone.http.server_close()
    with pytest.raises(ChildFailed, match="no answer"):
        gone.settled()


def failing(*_: object) -> None:
    """In a child: what the traffic finds where the server does not answer."""
    raise ChildFailed("the server over REST", "an answer", "none", "see its log.")


def test_a_server_that_stops_answering_is_named_with_its_log(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = exported("Baked")
    blessed = served(made, tmp_path)
    monkeypatch.setattr(step, "change", failing)
    monkeypatch.setattr(lifecycle, "NOTICED_SECONDS", 0.0)
    with pytest.raises(ChildFailed) as failed:
        rehearsed(made, blessed, tmp_path, request_timeout=9)
    assert failed.value.server == "embedded server" and failed.value.log
    assert failed.value.cause == Cause.TOO_SLOW
