"""Events and artifacts of a flow run in Prefect: what automations react to, and what the UI shows beside the run's log.

Events are of the resource `tfship.model.<name>`, with facts as their payload (README.md, "Schedules").
"""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Any

from httpx import HTTPError, TransportError
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.context import FlowRunContext
from prefect.events import emit_event
from prefect.exceptions import PrefectException

from flows import telemetry
from tasks.errors import PipelineError, Refusal
from tasks.presentation.parity_table import form_rows
from tasks.records.release import JournalLine
from tasks.records.run import RunSummary, StepState


class ModelEvent(StrEnum):
    """What can happen to a model."""

    EXPORTED = "tfship.model.exported"
    BLESSED = "tfship.model.blessed"
    PROMOTED = "tfship.model.promoted"
    ROLLED_BACK = "tfship.model.rolled_back"
    REFUSED = "tfship.model.refused"


def of_run(summary: RunSummary, error: Exception | None) -> list[tuple[ModelEvent, dict[str, Any]]]:
    """Return the events of a finished run, in their order, with the facts of each.

    A run in which nothing changed has none. A model that was blessed before is blessed again only where it is not served yet.
    """
    steps = {step.name: step for step in summary.steps}
    facts: dict[str, Any] = {"name": summary.name, "run_id": summary.run_id, "report": summary.report}
    found = []
    export, test, promotion = steps.get("export"), steps.get("smoke_test"), summary.promotion
    if export is not None and export.state is StepState.BUILT:
        found.append((ModelEvent.EXPORTED, {"digest": export.digest, "path": export.artifact}))
    unchanged = promotion is not None and promotion.outcome == "unchanged"
    if test is not None and test.state in (StepState.BUILT, StepState.CACHED) and not unchanged:
        smoke = summary.smoke
        verdict = {"verdict": smoke.verdict, "runtime": smoke.runtime, "image": smoke.image} if smoke else {}
        found.append((ModelEvent.BLESSED, {"digest": test.digest, **verdict}))
    if promotion is not None and promotion.outcome in ("promoted", "labelled"):
        released = promotion.model_dump(mode="json", include={"version", "path", "previous", "outcome", "labels"})
        found.append((ModelEvent.PROMOTED, released | {"waived": [rule.value for rule in promotion.waived]}))
    if isinstance(error, Refusal):
        found.append((ModelEvent.REFUSED, refusal(error)))
    return [(event, facts | more) for event, more in found]


def refusal(error: PipelineError) -> dict[str, Any]:
    """Return the facts of an error."""
    return {"error": type(error).__name__, **{key: getattr(error, key) for key in ("where", "expected", "found")}}


def record(summary: RunSummary, error: Exception | None) -> None:
    """Send the events of a run and leave its comparisons and its page as artifacts, where it is a flow run of Prefect's."""
    if FlowRunContext.get() is None:
        return
    for event, facts in of_run(summary, error):
        _emit(event, summary.name, facts)
    try:
        _artifacts(summary, error)
    except TransportError:  # the server is gone, which is what the run will end with
        return
    except (HTTPError, PrefectException) as failure:  # the run's result does not hang on what shows it
        telemetry.warn(f"the artifacts of this run are not in Prefect: {str(failure).splitlines()[0]}")


def rolled_back(name: str, line: JournalLine) -> None:
    """Send the event of a rollback."""
    if FlowRunContext.get() is not None:
        facts = line.model_dump(mode="json", include={"version", "retired", "labels", "reason", "by"})
        _emit(ModelEvent.ROLLED_BACK, name, {"name": name, **facts})


def _emit(event: ModelEvent, name: str, facts: dict[str, Any]) -> None:
    resource = {"prefect.resource.id": f"tfship.model.{name}", "prefect.resource.name": name}
    emit_event(event.value, resource=resource, payload=facts)


def _artifacts(summary: RunSummary, error: Exception | None) -> None:
    key = re.sub(r"[^a-z0-9]+", "-", summary.name.lower()).strip("-") or "model"  # all that a key may hold
    lines = [f"**{summary.name}**, run {summary.run_id}"]
    if error is not None:
        lines.append(str(error))
    elif summary.smoke is not None:
        lines.append(f"{summary.smoke.verdict} in {summary.smoke.image or summary.smoke.runtime}")
    if (promotion := summary.promotion) is not None and promotion.version is not None:
        lines.append(f"version {promotion.version} {promotion.outcome}: `{promotion.path}`")
    lines += summary.notes
    text = "\n\n".join(lines)
    if summary.parity:
        rows = [
            {
                "form": row.form,
                "test": row.test,
                "checks": row.checks,
                "max abs": f"{row.max_abs:.3g}",
                "limit": "" if row.limit is None else f"{row.limit:.2g}",
                "mismatched": row.mismatched,
                "verdict": row.verdict,
            }
            for row in form_rows(summary.parity)
        ]
        create_table_artifact(rows, key=f"{key}-parity", description=text)
    else:
        create_markdown_artifact(text, key=f"{key}-run")
    if summary.report:
        page = Path(summary.report).absolute().as_uri()
        create_link_artifact(page, "the page of this run, on its worker", key=f"{key}-page", description=summary.report)
