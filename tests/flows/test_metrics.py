"""The metrics of a run, read by Prometheus' own parser."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from flows import metrics
from tasks.errors import EnvironmentFailure, ParityError
from tasks.records.run import RunSummary
from tests.flows.cli.process import STEPS, tfship


def samples(file: Path) -> dict[str, dict[tuple[str, ...], float]]:
    """Values by metric and by labels but the model's."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(file.read_text()):
        for sample in family.samples:
            assert sample.labels["model"] == "half_plus_two"
            rest = tuple(value for label, value in sample.labels.items() if label != "model")
            found.setdefault(sample.name, {})[rest] = sample.value
    return found


def test_a_run_leaves_its_metrics_and_the_next_replaces_them(copied: Path) -> None:
    command = ("run", "half_plus_two", "--no-server", "--runtime", "embedded", "--metrics", "metrics", "--json")
    umask = os.umask(0o077)
    try:
        answer = tfship(*command)
    finally:
        os.umask(umask)
    assert answer.code == 0, answer.err
    (file,) = (copied / "metrics").iterdir()
    assert file.name == "tfship-half_plus_two.prom" and file.stat().st_mode & 0o777 == 0o644
    found = samples(file)
    assert found["tfship_run_exit_code"] == {(): 0.0} and found["tfship_served_version"] == {(): 1.0}
    assert abs(found["tfship_run_timestamp_seconds"][()] - time.time()) < 60.0
    states = answer.states
    assert set(found["tfship_step_seconds"]) == {(states[step], step) for step in STEPS}
    assert found["tfship_step_read_bytes"][("built", "report")] > 0

    refused = ParityError("freeze", "equal outputs", "others", "look at them.")
    metrics.write(RunSummary.model_validate(answer.document), refused, copied / "metrics")
    assert [*(copied / "metrics").iterdir()] == [file]
    assert samples(file)["tfship_run_exit_code"] == {(): 3.0}


def test_a_folder_that_cannot_be_one_is_named_before_the_run(copied: Path) -> None:
    (copied / "file").touch()
    answer = tfship("run", "half_plus_two", "--no-server", "--metrics", "file/metrics", "--json")
    assert answer.code == 4 and "tfship: metrics file/metrics: " in answer.err, answer
    with pytest.raises(EnvironmentFailure, match=r"metrics .*file"):
        metrics.write(
            RunSummary.model_validate_json(next(copied.glob(".tfship/reports/*/run.json")).read_bytes()),
            None,
            copied / "file",
        )
