"""Checks of measured times and memory against the limits that the user set, in a smoke test and in a rehearsal.

A number that has a limit and was not measured does not pass.
"""

from __future__ import annotations

from collections.abc import Iterator

from tasks.records.rehearsal import Switch
from tasks.records.serving import Cause, Check, Round
from tasks.records.settings import Gates


def of_round(measured: Round, limits: Gates) -> Iterator[Check]:
    """Yield a check for each limit on one round of a smoke test.

    A round that ended early has no measurements, and another check with the reason.
    """
    if not all(check.passed for check in measured.checks):
        return
    slowest = max((one.p99 for one in measured.latency if one.concurrency == 1), default=None)
    yield from _limited("server", "p99", "ms", slowest, limits.max_p99_ms, Cause.TOO_SLOW)
    yield from _limited("server", "load", "s", measured.load_seconds, limits.max_load_seconds, Cause.TOO_SLOW)
    away = [100 * one.turned_away / (one.requests + one.turned_away) for one in measured.latency if one.concurrency > 1]
    rejected = round(max(away), 2) if away else None
    yield from _limited("server", "attempts turned away", "%", rejected, limits.max_rejected, Cause.FULL)
    memory, most = measured.peak_memory, limits.max_rss_bytes
    yield from _limited("server", "resident memory", "bytes", memory, most, Cause.TOO_LARGE)


def of_switch(switch: Switch, peak: int | None, limits: Gates) -> Iterator[Check]:
    """Yield the checks of a change of versions; `peak` is the memory with both loaded, in bytes."""

    def check(case: str, expected: str, answered: str, passed: bool, cause: Cause) -> Check:
        return Check(protocol="both", case=case, expected=expected, answered=answered, passed=passed, cause=cause)

    seconds = switch.switch_seconds
    took_over = f"never; {switch.ended}".rstrip("; ") if seconds is None else f"after {seconds:g} s"
    cause = Cause.LOAD_ERROR if switch.ended else Cause.NEVER_AVAILABLE
    yield check("the new version took over", "yes", took_over, seconds is not None, cause)
    loaded = switch.load_seconds
    yield from _limited("both", "load of the new version", "s", loaded, limits.max_load_seconds, Cause.TOO_SLOW)
    for phase in switch.phases:
        failed = f"{phase.failed} of {phase.requests}" + "".join(f"; {why}" for why in switch.failures[:1])
        passed = phase.requests > 0 and not phase.failed
        case = f"failed requests {phase.name}"
        yield check(case, "none of at least one", failed, passed, Cause.ANSWER_DIFFERS)
        yield from _limited("both", f"p99 {phase.name}", "ms", phase.p99, limits.max_p99_ms, Cause.TOO_SLOW)
    most = limits.max_rss_bytes
    yield from _limited("both", "resident memory with both loaded", "bytes", peak, most, Cause.TOO_LARGE)


def _limited(
    protocol: str, case: str, unit: str, found: float | None, limit: float | None, cause: Cause
) -> Iterator[Check]:
    if limit is not None:
        yield Check(
            protocol=protocol,
            case=case,
            expected=f"at most {_shown(limit)} {unit}",
            answered="not measured" if found is None else f"{_shown(found)} {unit}",
            passed=found is not None and found <= limit,
            cause=cause,
        )


def _shown(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"
