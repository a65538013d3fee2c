"""The report of one run: a single HTML file that loads nothing.

Everything that comes from a model, a run or a server is escaped; the plots alone are trusted markup.
"""

from __future__ import annotations

import functools
import json
import math
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tasks.presentation import chain, curves, numbers, usage, verdict
from tasks.presentation.facts import ReportFacts
from tasks.presentation.terminal import printable
from tasks.records.run import StepOutcome
from tasks.records.serving import Latency

_HERE = Path(__file__).parent
_TEMPLATE = "report.html.jinja"


def render(facts: ReportFacts) -> str:
    """Return the page for these facts; the same facts give the same bytes."""
    return (
        _environment()
        .get_template(_TEMPLATE)
        .render(
            facts=facts,
            verdict=verdict.of(facts),
            refusal=_refusal(facts.refusal),
            published=facts.promotion is not None and facts.promotion.outcome in ("promoted", "labelled", "unchanged"),
            chain=chain.build(facts.parity, facts.signatures, stopped=verdict.stopped(facts)),
            divergent_rows=[row for row in facts.parity if row.passed is False],
            shares=_shares(facts.steps),
            panels=curves.panels(facts.training),
            slowest=_slowest,
            examples=usage.examples(facts),
            frozen=usage.frozen(facts),
            commands=usage.commands(facts),
            hyperparameters=_settings(facts),
            total_size=sum(entry.size for entry in facts.files),
        )
    )


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,  # a Markup is one already
    )
    environment.filters |= {
        "number": numbers.number,
        "fixed": numbers.fixed,
        "seconds": numbers.seconds,
        "bytes": numbers.size,
        "short": numbers.short,
        "counted": numbers.counted,
        "breakable": _breakable,
        "markup": Markup,
    }
    return environment


def _breakable(name: str) -> Markup:
    """Return a name with line breaks allowed after a slash or an underscore, but not within brackets."""
    kept = re.sub(r"\([^()]*\)", lambda match: match[0].replace(" ", "\N{NO-BREAK SPACE}"), printable(name))
    return Markup("<wbr>").join(Markup.escape(part) for part in re.split(r"(?<=[/_])", kept))


def _refusal(text: str | None) -> tuple[str, str]:
    """Split the text of a PipelineError into its description and its remedy."""
    happened, _, remedy = (text or "").partition("\nRemedy: ")
    return happened.strip(), remedy.strip()


def _shares(steps: tuple[StepOutcome, ...]) -> list[float]:
    """Return each step's share of the total time, in percent."""
    times = [step.seconds if math.isfinite(step.seconds) and step.seconds > 0 else 0.0 for step in steps]
    total = sum(times)
    return [round(100 * time / total, 2) if total else 0.0 for time in times]


def _slowest(measured: tuple[Latency, ...]) -> float:
    """Return the largest p99 of these latencies, by which their bars are scaled; 1 where none is larger than 0."""
    return max((one.p99 for one in measured if math.isfinite(one.p99)), default=0.0) or 1.0


def _settings(facts: ReportFacts) -> dict[str, str]:
    """Return hyper-parameters by name, as JSON; the graph's own where the run has none."""
    found: dict[str, Any] = facts.hyperparameters or (facts.restore.hyperparameters if facts.restore else {})
    return {name: json.dumps(value, sort_keys=True, default=str) for name, value in sorted(found.items())}
