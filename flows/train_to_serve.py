"""The pipeline: takes one model from its source to a served version, or to the first form that differs."""

import secrets
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal

from prefect import State, flow
from prefect.states import Completed

from flows import config as configuration
from flows import events, metrics, telemetry
from flows.config import STEPS, PipelineConfig
from flows.pipeline import pipeline
from tasks import isolate
from tasks.artifacts.store import Store
from tasks.errors import PipelineError
from tasks.records.run import RunSummary
from tasks.report import keep, report, reproduction, require_writable, summary
from tasks.step import Reached, Run, running

Step = Literal[STEPS]  # type: ignore[valid-type]
Refreshed = Literal[(*STEPS, "all")]  # type: ignore[valid-type]


# What Prefect shows of each parameter is from the docstring; it resolves no annotation that is text (PEP 563).
@flow(name="train-to-serve", flow_run_name="{source}", validate_parameters=True)
def train_to_serve(
    source: str,
    name: str | None = None,
    config: Path | None = None,
    promote: bool | None = None,
    label: str | None = None,
    servers: list[str] | None = None,
    evaluate: Path | None = None,
    until: Step | None = None,
    refresh: list[Refreshed] | None = None,
    store: Path | None = None,
    serving_root: Path | None = None,
    reports: Path | None = None,
    settings: dict[str, Any] | None = None,
) -> State[None] | None:
    """Take one model from its source to a served version, or report the first form of it that differs.

    Paths are those of the worker that runs it.

    Args:
        source: The model: an example's name, module:Model, or the path of anything TensorFlow saved.
        name: The name to serve it under; by default the model's own.
        config: A YAML file of settings, as of tfship run --config.
        promote: Publish the model once it is proven; by default what the settings say: yes.
        label: The version label to move to it, such as canary; by default stable, where there are labels.
        servers: Running servers to confirm it in: HOST:PORT of gRPC, or HOST:PORT,REST_PORT.
        evaluate: Labelled rows to measure the quality on.
        until: The last step to run; by default all.
        refresh: Steps to build anew though nothing has changed, or all.
        store: The folder of artifacts.
        serving_root: The folder that model servers read.
        reports: The folder of pages.
        settings: Any other settings, nested as in the file, which they override.
    """
    options: dict[str, Any] = {}
    configuration.merge(options, settings or {})
    given: dict[str, Any] = {
        "source": source,
        "name": name,
        "store": store,
        "serving_root": serving_root,
        "reports": reports,
    }
    release = {"promote": promote, "label": label, "servers": servers}
    given |= {"until": until, "refresh": refresh, "evaluate": {"file": evaluate}, "release": release}
    configuration.merge(options, given)
    return run_pipeline.fn(configuration.load(config, options))


@flow(name="train-to-serve", flow_run_name="{config.source}", validate_parameters=True)
def run_pipeline(config: PipelineConfig) -> State[None] | None:
    """Run the pipeline with these settings, up to the step `config.until` if it is set, and report it.

    Its state in Prefect is `Unchanged` where what it would promote is served already.

    Raises:
        PipelineError: a form differs, or something else is wrong; the report says what.
    """
    with run_of(config) as run:
        pipeline(config, run)
    return state_of(summaries[-1])


def state_of(summary: RunSummary) -> State[None] | None:
    """Return the state that Prefect is to show of a finished run; None is `Completed`."""
    unchanged = summary.promotion is not None and summary.promotion.outcome == "unchanged"
    return Completed(name="Unchanged") if unchanged else None


summaries: list[RunSummary] = []
"""What the runs of this process came to, the newest last: a flow returns nothing, for Prefect would keep it."""


@contextmanager
def run_of(config: PipelineConfig) -> Iterator[Run]:
    """Provide the run that a flow's steps belong to: store, observer, limits. Its report is written however it ends."""
    if not config.cluster.index:  # the chief's page reports the training
        require_writable(config.reports, "reports")
        if config.metrics is not None:
            require_writable(config.metrics, "metrics")
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
        events.record(summaries[-1], error)
    keep(summaries[-1])
    if config.metrics is not None:
        metrics.write(summaries[-1], error, config.metrics)
