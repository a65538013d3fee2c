"""The smoke test as a step: its gates, production's files and several set-ups."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks import isolate
from tasks.artifact_views import Exported
from tasks.errors import ChildFailed, ParityError, SmokeRefused, UsageError
from tasks.export import export
from tasks.records.parity import Tolerance
from tasks.records.serving import Cause, Latency, Round, SmokeReport
from tasks.records.settings import Gates
from tasks.restore_verify import restore_verify
from tasks.serving.checks import gates, latency, production_config
from tasks.serving.runtimes.embedded import EmbeddedRuntime
from tasks.smoke_test import smoke_test
from tasks.step import Run
from tests.makers import bad_warmup_requests
from tests.makers.exported import TOLERANCE, a_run, exported, serving

BATCHING = "max_batch_size { value: 4 }\nbatch_timeout_micros { value: 500 }\nmax_enqueued_batches { value: 100 }\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """One store for all of these tests: what comes before the smoke test is made once."""
    with a_run(tmp_path_factory.mktemp("store")) as entered:
        yield entered


def report(run: Run) -> SmokeReport:
    """What the last smoke test of the run wrote, a refused one too."""
    return SmokeReport.model_validate_json((list(run.artifacts.values())[-1].path / "smoke.json").read_bytes())


@pytest.mark.parametrize(
    ("limits", "cause"),
    [
        ({"max_p99_ms": 0.0001}, Cause.TOO_SLOW),
        ({"max_load_seconds": 0.0001}, Cause.TOO_SLOW),
        ({"max_rss_bytes": 1000}, Cause.TOO_LARGE),
    ],
)
def test_a_gate_refuses_what_was_measured_beyond_it(run: Run, limits: dict[str, float], cause: Cause) -> None:
    made = exported("Baked")
    with pytest.raises(SmokeRefused, match=cause.value) as refused:
        smoke_test(*made, serving(gates=limits), TOLERANCE)
    assert refused.value.cause == cause
    written = report(run)
    assert not written.passed
    assert [check.cause for check in written.checks if not check.passed] == [cause]


def test_gates_that_hold_pass_and_everything_is_measured(run: Run) -> None:
    limits = {"max_p99_ms": 60_000, "max_load_seconds": 600, "max_rss_bytes": 2**40, "max_rejected": 100}
    assert smoke_test(*exported("Baked"), serving(gates=limits), TOLERANCE).refusal() is None
    (round_,) = report(run).rounds
    assert {(one.protocol, one.concurrency) for one in round_.latency} == {
        (protocol, at_once)
        for protocol in ("served (gRPC)", "served (REST)", "served (REST, rows)")
        for at_once in (1, latency.clients_for((), EmbeddedRuntime().cpus))
    }
    assert all(0 < one.p50 <= one.p90 <= one.p99 and one.throughput > 0 for one in round_.latency)
    assert round_.peak_memory is not None and round_.load_seconds > 0
    assert round_.warmup.endswith("requests run")
    cases = {(check.protocol, check.case) for check in round_.checks}
    for protocol in ("gRPC", "REST"):
        assert {(protocol, "status"), (protocol, "metadata"), (protocol, "another version")} <= cases
    assert ("gRPC", "unknown output") in cases and ("gRPC", "wrong rank") in cases


@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_a_server_with_the_threads_of_a_few_cpus_is_asked_by_as_many_clients(run: Run, cpus: int) -> None:
    settings = serving(flags=[f"--grpc_max_threads={4 * cpus}"], latency_requests=20)
    assert smoke_test(*exported("Baked"), settings, TOLERANCE).refusal() is None
    (round_,) = report(run).rounds
    assert {one.concurrency for one in round_.latency} == {1, min(8, 4 * cpus - 1)}


def test_a_server_with_too_few_threads_is_full_and_not_refused(run: Run) -> None:
    """One request at a time, of two clients."""
    settings = serving(flags=["--grpc_max_threads=2"], latency_requests=200)
    assert smoke_test(*exported("Baked"), settings, TOLERANCE).refusal() is None
    written = report(run)
    away = sum(one.turned_away for one in written.rounds[0].latency)
    assert bool(away) == any("the server was full" in note for note in written.notes)
    with pytest.raises(ChildFailed, match="Server Threadpool Exhausted") as full:
        smoke_test(*exported("Baked"), serving(flags=["--grpc_max_threads=1"], request_timeout=1), TOLERANCE)
    assert full.value.cause is Cause.FULL


def measured(requests: int, turned_away: int) -> Round:
    numbers = {
        "batch": 0,
        "requests": requests,
        "concurrency": 8,
        "p50": 1.0,
        "p90": 1.0,
        "p99": 1.0,
        "throughput": 1.0,
    }
    one = Latency.model_validate({"protocol": "served (gRPC)", "turned_away": turned_away, **numbers})
    return Round(setup="", load_seconds=1.0, peak_memory=None, checks=(), latency=(one,), warmup="")


@pytest.mark.parametrize(("away", "passed"), [(0, True), (5, True), (6, False)])
def test_a_gate_on_attempts_turned_away(away: int, passed: bool) -> None:
    (check,) = gates.of_round(measured(95, away), Gates(max_rejected=5.0))
    assert (check.passed, check.cause) == (passed, Cause.FULL)


def test_attempts_that_were_not_counted_do_not_pass_their_gate() -> None:
    (check,) = gates.of_round(measured(9, 0).model_copy(update={"latency": ()}), Gates(max_rejected=100.0))
    assert not check.passed


def test_a_row_that_depends_on_its_batch_is_refused_where_the_server_batches(run: Run, tmp_path: Path) -> None:
    made = exported("Centred")
    assert smoke_test(*made, serving(), TOLERANCE).refusal() is None, "the same batch, the same answer"
    parameters = tmp_path / "batching.txt"
    parameters.write_text(BATCHING)
    with pytest.raises(ParityError, match="batching"):
        smoke_test(*made, serving(batching_parameters_file=parameters), TOLERANCE)


def test_rows_that_do_not_are_served_alike_with_and_without_batching(run: Run, tmp_path: Path) -> None:
    parameters = tmp_path / "batching.txt"
    parameters.write_text(BATCHING)
    made = exported("Baked")
    first = smoke_test(*made, serving(batching_parameters_file=parameters), TOLERANCE)
    assert [one.setup for one in report(run).rounds] == ["as configured", "batching"]
    candidates = {row.candidate for row in report(run).parity.rows}
    clients = latency.clients_for((), EmbeddedRuntime().cpus)
    for way in ("", ", batch 1", ", full batch", f", {clients} at once"):
        assert f"served (gRPC){way}, batching" in candidates
    moved = tmp_path / "elsewhere.txt"
    shutil.move(parameters, moved)
    assert smoke_test(*made, serving(batching_parameters_file=moved), TOLERANCE).path == first.path, "a path is no key"
    moved.write_text(BATCHING.replace("500", "700"))
    assert smoke_test(*made, serving(batching_parameters_file=moved), TOLERANCE).path != first.path


@pytest.mark.parametrize("name", ["model_config_file", "batching_parameters_file", "monitoring_config_file"])
def test_a_file_of_productions_that_is_not_there_is_named(run: Run, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=name):
        smoke_test(*exported("Baked"), serving(**{name: tmp_path / "none"}), TOLERANCE)


CONFIG = """model_config_list {
  config { name: "mine" base_path: "/srv/mine" model_platform: "tensorflow"
           model_version_policy { specific { versions: 3 } } version_labels { key: "stable" value: 3 } }
  config { name: "other" base_path: "/srv/other" model_platform: "tensorflow" }
}"""


def test_productions_entry_of_this_model_is_tried_without_what_names_versions(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "models.config"
    file.write_text(CONFIG)
    settings = serving(model_config_file=file, model_name="mine")
    assert smoke_test(*exported("Baked"), settings, TOLERANCE).refusal() is None
    notes = " / ".join(report(run).notes)
    assert "specific versions only" in notes and "stable" in notes
    for name, text, expected in [
        ("nobody", CONFIG, "mine, other"),
        ("nobody", 'model_config_list { config { name: "only" base_path: "/srv" } }', "an entry for model nobody"),
        ("mine", "model_config_list { nonsense", "ModelServerConfig"),
    ]:
        file.write_text(text)
        with pytest.raises(UsageError, match=expected):
            isolate.call(production_config.entry_of, file, name, "model")


@pytest.mark.parametrize("fault", bad_warmup_requests.FAULTS)
def test_a_bad_warmup_record_is_refused_before_any_server_starts(run: Run, fault: str) -> None:
    model, pinned, made, frozen = exported("Baked")
    recipe = export.recipe(pinned, restore_verify(pinned, made, TOLERANCE), made, Tolerance(absolute=2e-5))[0]

    def spoil(out: Path) -> None:
        shutil.copytree(model.path, out, dirs_exist_ok=True)
        (out / "manifest.json").unlink()
        isolate.call(bad_warmup_requests.spoil, Exported(out).model, fault)

    with pytest.raises(SmokeRefused, match=r"tf_serving_warmup_requests.*found") as refused:
        smoke_test(run.store.build(recipe, spoil), pinned, made, frozen, serving(), TOLERANCE)
    assert refused.value.cause == Cause.WARMUP_REFUSED


def test_a_refusal_in_the_second_set_up_is_no_pass_anywhere(run: Run, tmp_path: Path) -> None:
    parameters = tmp_path / "batching.txt"
    parameters.write_text(BATCHING)
    with pytest.raises(ParityError):
        smoke_test(*exported("Centred"), serving(batching_parameters_file=parameters, latency_requests=1), TOLERANCE)
    assert len(report(run).rounds) == 2 and not report(run).passed


def test_the_smallest_batch_takes_our_own_warmup_requests(run: Run, tmp_path: Path) -> None:
    parameters = tmp_path / "batching.txt"
    parameters.write_text("max_batch_size { value: 1 }\nbatch_timeout_micros { value: 500 }\n")
    assert smoke_test(*exported("Baked"), serving(batching_parameters_file=parameters), TOLERANCE).refusal() is None


def test_another_library_of_custom_ops_is_another_test(run: Run, tmp_path: Path) -> None:
    (tmp_path / "ops").mkdir()
    library = tmp_path / "ops" / "op.so"
    library.write_bytes(b"one")
    made = exported("Baked")
    keys = []
    for content in (b"one", b"two", b"one"):
        library.write_bytes(content)
        keys.append(smoke_test.recipe(*made, serving(mounts={tmp_path / "ops": "/ops"}), TOLERANCE)[0].key)
    assert keys[0] == keys[2] != keys[1]
