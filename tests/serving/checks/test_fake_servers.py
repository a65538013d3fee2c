"""A server with one wrong behaviour is refused by that cause; a model that one protocol cannot carry is not."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tasks.artifacts.store import Artifact, Store
from tasks.checkpoint import checkpoint
from tasks.errors import SmokeRefused
from tasks.export import export
from tasks.freeze import freeze
from tasks.records.serving import Cause, SmokeReport
from tasks.records.settings import Selection, Serving, Training
from tasks.restore_verify import restore_verify
from tasks.serving.runtimes import embedded
from tasks.smoke_test import smoke_test
from tasks.step import Run, running
from tasks.train import train
from tasks.user_code.source import ModelSource
from tests.makers.odd_servables import ROWS
from tests.makers.tolerance import DECLARED
from tests.serving.checks import fake_server
from tests.silent import Silent

TOLERANCE = DECLARED
OVER_REST, BY_ROW = "served (REST)", "served (REST, rows)"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A store for all of these tests: the steps before the smoke test run once."""
    with running(Run("test", Store(tmp_path_factory.mktemp("store"), warn=print), Silent())) as entered:
        yield entered


@cache
def made(name: str) -> tuple[Artifact, Artifact, Artifact, Artifact]:
    """(exported, checkpoint, run, frozen) of a model of odd_servables.py."""
    source = ModelSource(
        name=name.lower(), module="odd_servables", attribute=name, folder=Path(__file__).parents[2] / "makers"
    )
    trained = train(source, Training())
    pinned = checkpoint(trained, Selection())
    verified = restore_verify(pinned, trained, TOLERANCE)
    exported = export(pinned, verified, trained, TOLERANCE)
    return exported, pinned, trained, freeze(pinned, verified, trained, TOLERANCE)


def judged(run: Run, name: str, *flags: str, requests: int = 1) -> SmokeReport:
    """Return what the smoke test of a model wrote. Raises what it raised."""
    settings = {"runtime": "embedded", "latency_requests": requests, "request_timeout": 60.0, "flags": flags}
    artifact = smoke_test(*made(name), Serving.model_validate(settings), TOLERANCE)
    return SmokeReport.model_validate_json((artifact.path / "smoke.json").read_bytes())


@pytest.mark.parametrize(
    ("model", "lie", "cause", "said"),
    [
        ("Odd", "one more version", Cause.VERSION_DIFFERS, "version 2 AVAILABLE"),
        ("Odd", "another version answers", Cause.VERSION_DIFFERS, "found version 2"),
        ("Odd", "one output less in the metadata", Cause.SIGNATURE_DIFFERS, "serving_default"),
        ("Odd", "answers all over gRPC", Cause.NOT_REFUSED, "unknown signature over gRPC"),
        ("Odd", "says NOT_FOUND to all", Cause.NOT_REFUSED, "unknown signature over gRPC"),
        ("Odd", "answers all over REST", Cause.NOT_REFUSED, "broken JSON over REST"),
        ("Odd", "fails where it must refuse", Cause.NOT_REFUSED, "broken JSON over REST"),
        ("Odd", "takes any input over REST", Cause.NOT_REFUSED, "missing input over REST"),
        ("Odd", "overlooks the output filter", Cause.ANSWER_DIFFERS, "output_filter more over gRPC"),
        ("OneOutput", "overlooks the output filter", Cause.NOT_REFUSED, "unknown output over gRPC"),
        ("Classed", "another version answers", Cause.VERSION_DIFFERS, "found version 2"),
        ("Classed", "answers all over gRPC", Cause.NOT_REFUSED, "unknown signature over gRPC"),
    ],
)
def test_a_lie_is_refused_by_its_cause(
    run: Run, monkeypatch: pytest.MonkeyPatch, model: str, lie: str, cause: Cause, said: str
) -> None:
    monkeypatch.setattr(embedded, "serve", fake_server.serve)
    with pytest.raises(SmokeRefused) as refused:
        judged(run, model, f"--lie={lie}")
    assert refused.value.cause == cause, str(refused.value)
    assert said in str(refused.value)


def test_an_error_that_comes_with_the_requests_is_a_verdict(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "serve", fake_server.serve)
    with pytest.raises(SmokeRefused, match="too many requests") as refused:
        judged(run, "Odd", "--lie=fails later", requests=fake_server.LATER)
    assert refused.value.cause == Cause.ANSWER_DIFFERS


def test_warmup_requests_that_the_server_says_nothing_of_are_not_proven(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "serve", fake_server.serve)
    assert [one.warmup for one in judged(run, "Odd", "--lie=says nothing of warmup").rounds] == ["not proven"]


@pytest.mark.parametrize(
    ("model", "not_made"),
    [
        ("NothingFound", {BY_ROW: "several lengths"}),
        ("NothingInside", {}),
        ("NoInput", {OVER_REST: "a signature without inputs", BY_ROW: "a signature without inputs"}),
        ("RawBytes", {OVER_REST: "not UTF-8", BY_ROW: "not UTF-8"}),
        ("UnknownScalar", {BY_ROW: "several lengths"}),
        ("Quantised", {OVER_REST: "quint8", BY_ROW: "quint8"}),
        ("Classed", {}),
    ],
)
def test_what_a_protocol_cannot_carry_is_said_and_the_rest_is_compared(
    run: Run, model: str, not_made: dict[str, str]
) -> None:
    report = judged(run, model)
    assert report.passed
    asked = {row.candidate for row in report.parity.rows if row.passed}
    assert "served (gRPC)" in asked
    said = {row.candidate: row.note for row in report.parity.rows if row.passed is None and row.output == "*"}
    assert {form for form in said if "batch" not in form} == set(not_made)
    assert all(
        note.startswith("not made: ") and not_made[form.split(", batch")[0]] in note for form, note in said.items()
    )


def test_every_signature_is_measured_over_each_protocol_and_batch_size(run: Run) -> None:
    (asked,) = judged(run, "TwoWays").rounds
    one_by_one = [line for line in asked.latency if line.concurrency == 1]
    assert {(line.protocol, line.signature, line.batch) for line in one_by_one} == {
        (protocol, signature, batch)
        for protocol in ("served (gRPC)", OVER_REST, BY_ROW)
        for signature in ("serving_default", "another")
        for batch in (1, ROWS)
    }
    assert one_by_one[0].signature == "serving_default", "what a summary shows"


def test_every_refusal_is_asked_for_by_the_method_that_the_model_has(run: Run) -> None:
    for model, own in (("Odd", {"missing input", "wrong dtype"}), ("Classed", {"no examples"})):
        (asked,) = judged(run, model).rounds
        cases = {(check.protocol, check.case) for check in asked.checks if check.cause is Cause.NOT_REFUSED}
        for protocol in ("gRPC", "REST"):
            assert {case for about, case in cases if about == protocol} >= {
                "unknown signature",
                "another version",
                *own,
            }


def test_a_probe_too_long_for_rest_is_asked_over_rest_in_its_first_rows(run: Run) -> None:
    """The server's limit is that of production: what it will not take is no verdict on the model."""
    report = judged(run, "Odd", "--rest_api_max_body_bytes=100")
    found = {row.candidate: row for row in report.parity.rows if row.candidate.startswith(OVER_REST)}
    assert found[OVER_REST].passed is None and "413" in found[OVER_REST].note
    assert found[f"{OVER_REST}, batch 1"].passed
