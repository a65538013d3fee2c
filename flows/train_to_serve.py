"""The pipeline: takes one model from its source to a served version, or to the first form that differs."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from prefect import flow

from flows import telemetry
from flows.config import PipelineConfig
from flows.pipeline import pipeline
from tasks import isolate
from tasks.artifacts.store import Store
from tasks.errors import PipelineError
from tasks.records.run import RunSummary
from tasks.report import keep, report, reproduction, require_writable, summary
from tasks.step import Reached, Run, running


@flow(name="train-to-serve", flow_run_name="{config.source}", validate_parameters=True)
def train_to_serve(config: PipelineConfig) -> None:
    """Take one model from its source to a served version, or report the form that differs.

    Ends after the step `config.until`, if it is set.
    """
    with run_of(config) as run:
        pipeline(config, run)


summaries: list[RunSummary] = []
"""What the runs of this process came to, the newest last: a flow returns nothing, for Prefect would keep it."""


@contextmanager
def run_of(config: PipelineConfig) -> Iterator[Run]:
    """Provide the run that a flow's steps belong to: store, observer, limits. Its report is written however it ends."""
    if not config.cluster.index:  # the chief's page reports the training
        require_writable(config.reports)
    observer = telemetry.observer()
    run_id = time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + secrets.token_hex(3)
    store, limits = Store(config.store, telemetry.warn), config.training_limits
    run = Run(run_id, store, observer, config.refresh, limits, config.until, cluster=config.cluster)
    run.before_step = telemetry.before_step()
    name = config.model_name
    with running(run), isolate.limits(config.child_limits), closing(store):
        try:
            yield run
        except Reached:
            pass
        except Exception as error:
            try:
                _report(run, name, config, error)
            except PipelineError as failure:  # the run's own error says more than its report's
                telemetry.warn(str(failure))
            raise
        _report(run, name, config, None)


def _report(run: Run, name: str, config: PipelineConfig, error: Exception | None) -> None:
    """Write the page and store the summary, which exists even where no page can be written.

    A non-chief worker writes no page: the chief reports the training.
    """
    page = script = None
    if run.cluster.index:
        summaries.append(summary(run, name, page))
        return
    try:
        page = report(run, name, config.reports, error)
        script = reproduction(run, error, page.with_name("reproduce"), config.tolerance)
    finally:
        summaries.append(summary(run, name, page, script))
    keep(summaries[-1])
