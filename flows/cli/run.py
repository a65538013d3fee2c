"""`tfship run`: runs the complete pipeline, and prints its summary."""

from __future__ import annotations

import contextlib
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from flows import telemetry
from flows.cli import termination
from flows.cli.options import Options, Source, command, require_files, require_no_model_options
from flows.config import PipelineConfig
from tasks import isolate
from tasks.artifact_views import Exported, Frozen
from tasks.artifacts.store import Store
from tasks.errors import (
    ChildFailed,
    DamagedError,
    EnvironmentFailure,
    HeldError,
    PipelineError,
    PolicyRefused,
    Refusal,
    UsageError,
)
from tasks.isolate import Settings
from tasks.presentation.parity_table import form_rows
from tasks.presentation.terminal import cell, console, say
from tasks.records.rehearsal import RehearsalSummary
from tasks.records.release import Rule
from tasks.records.run import PromotionSummary, QualitySummary, RunSummary, StepState
from tasks.releases.labels import STABLE

if TYPE_CHECKING:  # Prefect: seconds
    from prefect import Flow


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "run", run)


def run(
    options: Options,
    source: Source = None,
) -> int:
    """Train or adopt, pin, restore, freeze, export, smoke-test and promote one model, and prove every form equal."""
    return perform(source, options)


def perform(source: str | None, options: Options, until: str | None = None) -> int:
    """Run the pipeline to its end, or to the step `until`, and print its summary."""
    settings = options.settings(source=source, until=until)
    require_source(settings)
    summary = ran(settings, options)
    if options["as_json"]:
        termination.show(summary.model_dump_json(indent=1))
    else:
        print_summary(summary, settings)
    return 0


def require_source(settings: PipelineConfig) -> None:
    """Raise UsageError, or an error of detection, where the source cannot be used, before anything starts."""
    from tasks.forms import literal_path
    from tasks.forms.detect import detect

    require_files(settings)
    for option, place in (("--store", settings.store), ("--serving-root", settings.serving_root)):
        if not literal_path.is_literal(place.absolute()):
            remedy = f"name another folder: {option} DIR."
            expected = "a path that TensorFlow and its servers take as it stands: UTF-8, without [ ] * ? \\"
            raise UsageError(option, expected, ascii(str(place.absolute())), remedy)
    for image in settings.images:
        from tasks.serving.runtimes import choose

        choose.require_docker_for(image, settings.serving.runtime)
    if settings.files is None:
        settings.model
        require_no_model_options(settings)
    else:
        if settings.training.start is not None and settings.given.model is not None:
            remedy = f"give the code as SOURCE: tfship train {settings.given.model} --from {settings.training.start}."
            raise UsageError(
                "--model",
                "no --model: a checkpoint as SOURCE is trained in its own graph",
                "code that builds a model",
                remedy,
            )
        detect(settings.files.path, settings.files.step)
    settings.code


def ran(settings: PipelineConfig, options: Options, *, promoting: bool = False) -> RunSummary:
    """Run the flow of the pipeline, or that of promotion alone, and return its summary.

    Raises:
        PipelineError: the run failed. Its summary, report and next command have been printed.
    """
    as_json, verbose = options["as_json"], options["verbose"]
    quiet = as_json and not sys.stderr.isatty()
    error = _run(settings, promoting, no_server=options["no_server"], quiet=quiet, verbose=verbose)
    from flows.train_to_serve import summaries

    summary = summaries.pop() if summaries else None
    if isinstance(error, UsageError) and error.options:
        verb = "promote" if promoting else (settings.until or "run").replace("_", "-")
        typed = f"tfship {verb} {shlex.quote(settings.source)}"
        error.remedy = f"name them, for example:\n  {typed} {error.options}"
    if error is not None:
        if summary and as_json:
            termination.show(summary.model_dump_json(indent=1))
        if verbose and isinstance(error, ChildFailed) and error.output:
            say(error.output, file=sys.stderr)
        if summary and summary.report and not as_json:
            say(f"report  {summary.report}")
            if summary.reproduction:
                say(f"repeat  python {shlex.quote(summary.reproduction)}")
            say(f"next    {next_after(error, settings, options, summary)}")
        raise error
    assert summary is not None
    return summary


def next_after(error: BaseException, settings: PipelineConfig, options: Options, summary: RunSummary) -> str:
    """Return the command that shows more about the error that ended the run, or the same command to run again."""
    same = ["tfship", *sys.argv[1:]]
    if isinstance(error, HeldError):
        words = ["tfship", "releases", summary.name, "--serving-root", str(settings.serving_root)]
    elif isinstance(error, PolicyRefused):
        waived = [] if error.rules[0] is Rule.APPROVAL else ["--waive", error.rules[0].value]
        model = summary.run_id if any(step.name == "smoke_test" for step in summary.steps) else settings.source
        words = ["tfship", "promote" if waived else "approve", model, *waived, "--reason", "TEXT"]
    elif isinstance(error, EnvironmentFailure):
        words = ["tfship", "doctor"]
    elif isinstance(error, Refusal) and settings.files and (candidate := _refused_form(summary)):
        words = ["tfship", "verify", settings.source, str(candidate), *options.repeated(), "--explain"]
    elif isinstance(error, (Refusal, UsageError)) and settings.files:
        words = ["tfship", "inspect", settings.source]
    elif isinstance(error, (Refusal, UsageError, DamagedError)) or options["verbose"]:
        words = same
    else:
        words = [*same, "--verbose"]
    return shlex.join(words)


def _refused_form(summary: RunSummary) -> Path | None:
    """Return the path of the form that was written and found to differ, if any."""
    failed = {one.name: Path(one.artifact) for one in summary.steps if one.state is StepState.FAILED and one.artifact}
    places = [Frozen(failed["freeze"]).graph] if "freeze" in failed else []
    places += [Exported(failed["export"]).model] if "export" in failed else []
    return next((place for place in places if place.exists()), None)


def _run(
    settings: PipelineConfig, promoting: bool, *, no_server: bool, quiet: bool, verbose: bool
) -> BaseException | None:
    """Run the flow and return the error that ended it, for the caller to raise after the summary."""
    from flows import prefect_server

    prefect_server.settle(verbose=verbose)
    _import_early(settings, promoting)
    work: Flow[..., Any]
    with termination.at_once():  # Prefect: seconds
        from flows.train_to_serve import summaries

        if promoting:
            from flows.promote import publish as work
        else:
            from flows.train_to_serve import run_pipeline as work
    summaries.clear()  # of earlier flows in this process
    try:
        with (
            prefect_server.provided(needed=not no_server, verbose=verbose),
            telemetry.shown(quiet=quiet, before_step=termination.raise_lost),
        ):
            (work.fn if no_server else work)(settings)
    except prefect_server.Lost as error:
        termination.wait_for_nothing()  # Prefect would try for minutes to reach a server that is gone
        return error.instead
    except (Exception, KeyboardInterrupt) as error:
        return error
    except BaseException as error:
        if termination.is_termination(error):
            return error
        raise
    return None


def _import_early(settings: PipelineConfig, promoting: bool) -> None:
    """Let TensorFlow's import start while Prefect's runs, if a step will need it."""
    from flows.plan import planned

    if promoting:
        isolate.warm(Settings())
        return
    with contextlib.suppress(PipelineError):  # the run will say the same
        if any(
            step.state == "runs" and step.name not in ("promote", "report")
            for step in planned(settings, Store(settings.store))
        ):
            isolate.warm(Settings())


def assisted(summary: RunSummary) -> bool:
    """Return True for a non-chief worker, which produces nothing of its own."""
    return any(step.state is StepState.ASSISTED for step in summary.steps)


def print_summary(summary: RunSummary, settings: PipelineConfig) -> None:
    """Print the comparisons of every form, the smoke test, the quality and the release."""
    if assisted(summary):
        say(*summary.notes)
        return
    from rich.table import Table

    table = Table(
        title=f"{summary.name}: every form against the {'live session' if settings.files is None else 'source model'}",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for column in ("form", "test", "checks", "max abs", "noise", "limit", "mismatched", ""):
        right = column not in ("form", "test", "")
        table.add_column(column, justify="right" if right else "left", no_wrap=True)
    for row in form_rows(summary.parity):
        table.add_row(
            cell(row.form),
            row.test,
            str(row.checks),
            f"{row.max_abs:.3g}",
            *("" if bound is None else f"{bound:.2g}" for bound in (row.noise, row.limit)),
            str(row.mismatched),
            row.verdict,
        )
    if summary.parity:
        console().print(table)
    if summary.smoke:
        runtime = summary.smoke.image or summary.smoke.runtime
        say(f"\nsmoke   {summary.smoke.verdict} in {runtime}, loaded in {summary.smoke.load_seconds:.2f} s")
    for one in summary.servers if len(summary.servers) > 1 else ():
        say(f"server  {one.verdict} in {one.server}{': ' if one.reason else ''}{one.reason}")
    if summary.rehearsal:
        say(f"change  {_rehearsed(summary.rehearsal)}")
    for note in summary.notes:
        say(f"note    {note}")
    if summary.adopted:
        adopted = summary.adopted
        say(f"model   {adopted.form.value}{', ' + adopted.chosen if adopted.chosen else ''}")
        if adopted.probe:
            say(f"probe   {adopted.probe}")
        for note in adopted.notes:
            say(f"note    {note}")
    if summary.quality:
        _print_quality(summary.quality)
    promotion = summary.promotion
    if promotion and promotion.version is not None:
        say(f"release {promotion.name} version {promotion.version}, {promotion.outcome}")
        say(f"path    {promotion.path}")
        _print_labels(promotion)
        for rule, found in promotion.waived.items():
            say(f"waived  {rule}: {found}")
    elif promotion:
        say(f"release none: promotion {promotion.outcome}")
    last = summary.steps[-2] if len(summary.steps) > 1 else None
    if settings.until and last:
        say(f"path    {last.artifact}")
    say(f"report  {summary.report}")
    if promotion and promotion.version is not None:
        say(f"next    tfship releases {summary.name} --serving-root {shlex.quote(str(settings.serving_root))}")
    else:
        say(f"next    tfship run {shlex.quote(settings.source)}")


def _print_labels(promotion: PromotionSummary) -> None:
    """Print where labels lead, and who answers clients that name none, for that is the server's choice."""
    if not promotion.labels:
        return
    say("labels  " + ", ".join(f"{label} {version}" for label, version in sorted(promotion.labels.items())))
    highest = max(promotion.labels.values())
    if promotion.labels.get(STABLE, highest) != highest:
        say(
            f"note    clients that name neither label nor version are answered by {highest}, the highest that is loaded"
        )


def _print_quality(quality: QualitySummary) -> None:
    """Print the quality on labelled data, and the faults that the probe would not show."""
    found = quality.evaluation
    if found and found.accuracy is not None:
        worst = min(found.classes, key=lambda row: row.f1, default=None)
        tail = f"; worst class {worst.label}, F1 {worst.f1:.3f}" if worst else ""
        say(f"quality accuracy {found.accuracy:.4f} on {found.rows} rows of {found.file}{tail}")
    elif found:
        say(f"quality mean absolute error {found.mae:.4g} on {found.rows} rows of {found.file}")
    if quality.probe is None:
        return
    for names, what in (
        (quality.probe.constant, "is the same in every row of the probe"),
        (quality.probe.one_class, "has only one class in the probe"),
        (quality.probe.unnoticed, "can change without changing any output of the probe"),
    ):
        for name in names:
            say(f"note    {name} {what}")


def _rehearsed(found: RehearsalSummary) -> str:
    switch = found.switch
    if switch is None:
        return f"not rehearsed: {found.note}"
    failed = sum(phase.failed for phase in switch.phases)
    slowest = ", ".join(f"{phase.name} {phase.p99} ms" for phase in switch.phases)
    took = "never" if switch.switch_seconds is None else f"after {switch.switch_seconds} s"
    return f"{failed} failed requests, new version took over {took}; p99 {slowest}"
