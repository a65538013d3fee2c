"""The verdict on a run in one sentence, and its parts. The page prints these texts."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.presentation import chain
from tasks.presentation.facts import ReportFacts
from tasks.presentation.numbers import counted
from tasks.records.run import StepState
from tasks.records.serving import SmokeReport


@dataclass(frozen=True)
class Verdict:
    """Texts at the top of the page. `tone` is good, open or bad; `divergence` names the first form that differs."""

    tone: str
    sentence: str
    divergence: str
    parity: str
    smoke: str
    promotion: str


def of(facts: ReportFacts) -> Verdict:
    """Return the verdict on a run. A difference or a refusal outweighs all other facts."""
    tone, sentence = _headline(facts)
    return Verdict(tone, sentence, divergence(facts), parity(facts), smoke(facts), promotion(facts))


def stopped(facts: ReportFacts) -> bool:
    """Return True if the run ended before its last step."""
    return facts.refusal is not None or any(step.state is StepState.FAILED for step in facts.steps)


def _headline(facts: ReportFacts) -> tuple[str, str]:
    if chain.first_divergence(facts.parity):
        return "bad", f"Refused: {divergence(facts)}"
    failed = next((step.name for step in facts.steps if step.state is StepState.FAILED), None)
    for tested in facts.smokes:
        if not tested.passed:
            return "bad", f"Refused: {_smoke_refusal(tested)}"
    if facts.restore and facts.restore.coverage.refused:
        variable = facts.restore.coverage.refused[0]
        return "bad", f"Refused: the checkpoint does not restore {variable.name} ({variable.status})"
    if stopped(facts):
        word = "Refused" if facts.refusal is not None and facts.against_model else "Failed"
        return "bad", f"{word} at {failed}" if failed else f"{word} before it was promoted"
    release = facts.promotion
    if release is None:
        return "open", "Finished, not promoted"
    version = f"version {release.version}" if release.version is not None else "a version without a number"
    headlines = {
        "promoted": ("good", f"Promoted as {version}"),
        "unchanged": ("good", f"Unchanged: {version} already holds this model"),
        "labelled": ("good", f"Labelled: {version}, which already holds this model"),
        "held": ("bad", "Held: this model was rolled back before"),
        "skipped": ("open", "Finished, not promoted"),
    }
    return headlines.get(release.outcome, ("open", release.outcome.capitalize()))


def divergence(facts: ReportFacts) -> str:
    """Return the first divergence in words, or ""."""
    row = chain.first_divergence(facts.parity)
    if row is None:
        return ""
    if row.candidate == chain.BASELINE:
        return f"the {chain.BASELINE} itself at {chain.what(row)} ({row.note or 'not usable'})"
    return f"{row.candidate} differs from the {chain.BASELINE} at {chain.what(row)}"


def _smoke_refusal(smoke: SmokeReport) -> str:
    for check in smoke.checks:
        if not check.passed:
            return f"{check.cause}: {check.case} over {check.protocol}, {check.answered}"
    return "the smoke test did not pass"


def parity(facts: ReportFacts) -> str:
    """Return the number of comparisons that agree; those not made are counted separately."""
    rows = facts.parity
    compared = [row for row in rows if row.passed is not None]
    differing = sum(not row.passed for row in compared)
    not_made = len(rows) - len(compared)
    if not compared:
        return "nothing was compared" + (f", {not_made} not made" if not_made else "")
    forms = counted(len({row.form for row in compared}), "form")
    text = f"{differing} of {counted(len(compared), 'comparison')} differ, over {forms}"
    if not differing:
        text = f"equal in {forms}, {counted(len(compared), 'comparison')}"
    return text + (f", {not_made} not made" if not_made else "")


def smoke(facts: ReportFacts) -> str:
    """Return the smoke test's verdict with its server. A stand-in's pass is always reported as one."""
    if not facts.smokes:
        return "not run"
    parts = [f"{one.verdict}, {one.identity.runtime} {one.identity.version}".rstrip() for one in facts.smokes]
    return "; ".join(parts)


def promotion(facts: ReportFacts) -> str:
    """Return the outcome of promotion."""
    release = facts.promotion
    if release is None:
        return "not reached" if stopped(facts) else "not made"
    parts = [release.outcome]
    if release.version is not None:
        parts.append(f"version {release.version}")
    if release.previous is not None:
        parts.append(f"before it version {release.previous}")
    if release.confirmed_by:
        parts.append(f"confirmed by {release.confirmed_by}")
    parts += [f"rule {rule} waived: {found}" for rule, found in release.waived.items()]
    return ", ".join(parts)
