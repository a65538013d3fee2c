"""Metrics of a run as a Prometheus text file, for the textfile collector of node_exporter."""

from __future__ import annotations

import re
import time
from pathlib import Path

from tasks.errors import EnvironmentFailure
from tasks.records.run import RunSummary


def write(summary: RunSummary, error: Exception | None, folder: Path) -> Path:
    """Write the metrics of the last run of a model to a file of its own in `folder`, by one rename, and return its path.

    `tfship_run_exit_code` is 0, or that of `error`, which ended the run; 3 is a verdict against the model.

    Raises:
        EnvironmentFailure: `folder` cannot be written.
    """
    from prometheus_client import CollectorRegistry, Gauge, write_to_textfile  # on request alone

    registry = CollectorRegistry()

    def gauge(name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"tfship_{name}", text, ("model", *labels), registry=registry)

    model = summary.name
    gauge("run_timestamp_seconds", "When the last run ended, in Unix time.").labels(model).set(time.time())
    code = 0 if error is None else int(getattr(error, "exit_code", 1))
    gauge("run_exit_code", "The exit code of the last run.").labels(model).set(code)
    of_step = {
        "seconds": gauge("step_seconds", "How long a step took.", "step", "state"),
        "peak": gauge("step_peak_bytes", "The resident memory of its largest process.", "step", "state"),
        "read": gauge("step_read_bytes", "Bytes that its processes read.", "step", "state"),
        "written": gauge("step_written_bytes", "Bytes that its processes wrote.", "step", "state"),
    }
    for step in summary.steps:
        for name, metric in of_step.items():
            metric.labels(model, step.name, step.state.value).set(getattr(step, name))
    if summary.promotion is not None and summary.promotion.version is not None:
        gauge("served_version", "The version that the last run promoted, or found served.").labels(model).set(
            summary.promotion.version
        )
    file = folder / f"tfship-{re.sub(r'[^A-Za-z0-9._-]', '-', model)}.prom"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_to_textfile(str(file), registry)
        file.chmod(0o644)  # the collector is another user
    except OSError as failure:
        raise EnvironmentFailure.from_os(failure, f"metrics {folder}") from failure
    return file
