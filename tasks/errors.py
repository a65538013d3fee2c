"""Every error a user can meet.

    PipelineError                exit 1   a step failed
    ├── UsageError               exit 2   the command line or the configuration is wrong
    ├── ChildFailed              exit 1   work in a child process crashed, hung or outgrew its limit
    ├── Refusal                  exit 3   a verdict against the model; the step's verdict is kept
    │   ├── ParityError                   a form no longer computes what the baseline computed
    │   ├── CoverageError                 a restore does not write what the outputs need
    │   ├── NondeterministicError         the original differs from itself
    │   ├── UnsafeGraph                   what would run touches files, runs Python, or is a Lambda
    │   ├── UnsupportedGraph              an op or a kernel that this TensorFlow does not have
    │   ├── SmokeRefused                  a server refused the model, or answered otherwise
    │   └── HeldError                     this digest was rolled back
    ├── DamagedError             exit 3   bytes are not what their manifest says; never kept as a verdict
    └── EnvironmentFailure       exit 4   something outside is missing, full or forbidden; never kept

An error says where it happened, what was expected, what was found, and what to do. It survives pickling and
crosses processes as JSON (`encode`, `decode`), so that a child's refusal is raised in the flow as itself.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from enum import IntEnum
from typing import Any, Self

from tasks.records.parity import ParityReport


class ExitCode(IntEnum):
    """What the command line answers to the shell."""

    DONE = 0
    STEP_FAILED = 1
    USAGE = 2
    GATE_REFUSED = 3
    ENVIRONMENT = 4
    INTERRUPTED = 130
    TERMINATED = 143


class PipelineError(Exception):
    """A step could not do what it promises.

    `facts` is JSON: what a program needs beyond the four sentences.
    """

    exit_code = ExitCode.STEP_FAILED
    retryable = False

    def __init__(
        self, where: str, expected: str, found: str, remedy: str, facts: Mapping[str, Any] | None = None
    ) -> None:
        self.where, self.expected, self.found, self.remedy = where, expected, found, remedy
        self.facts: dict[str, Any] = dict(facts or {})
        super().__init__(where, expected, found, remedy, self.facts)

    def __str__(self) -> str:
        return f"{self.where}: expected {self.expected}, found {self.found}.\nRemedy: {self.remedy}"

    def encode(self) -> dict[str, Any]:
        """This error as JSON values, for `decode`."""
        return {
            "error": type(self).__name__,
            "where": self.where,
            "expected": self.expected,
            "found": self.found,
            "remedy": self.remedy,
            "facts": self.facts,
        }

    @staticmethod
    def decode(encoded: Mapping[str, Any]) -> PipelineError:
        """The error that `encode` wrote, of its own class."""
        error_class = _classes()[encoded["error"]]
        four = (encoded["where"], encoded["expected"], encoded["found"], encoded["remedy"])
        return error_class(*four, facts=encoded["facts"])


def _classes(root: type[PipelineError] = PipelineError) -> dict[str, type[PipelineError]]:
    found = {root.__name__: root}
    for subclass in root.__subclasses__():
        found |= _classes(subclass)
    return found


class UsageError(PipelineError):
    """The command line or the configuration asks for what does not exist."""

    exit_code = ExitCode.USAGE


class ChildFailed(PipelineError):  # noqa: N818 - it says what happened
    """A child process crashed, missed its deadline, or outgrew its memory."""


class Refusal(PipelineError):  # noqa: N818 - a verdict, not a mistake
    """A verdict against the model. The step keeps it: asked again, it answers the same without looking again."""

    exit_code = ExitCode.GATE_REFUSED


class ParityError(Refusal):
    """A candidate no longer computes what its baseline computed. `facts["report"]` is the ParityReport."""

    @classmethod
    def of(cls, report: ParityReport) -> Self:
        """The refusal for a report with at least one failure; it names the first one."""
        if not report.failures:
            row = report.rows[0] if report.rows else None
            found = (
                f"{row.candidate} {row.signature} {row.output}: {row.note or 'not made'}" if row else "no comparison"
            )
            remedy = "give the probe at least one row for every signature."
            return cls(
                "parity", "something that was compared", found, remedy, {"report": report.model_dump(mode="json")}
            )
        first = report.failures[0]
        what = f"{first.signature}/{first.output}" if first.signature else first.output
        at = f"{list(first.worst.index)}" if first.worst and first.worst.index else ""
        expected = first.worst.expected if first.worst else f"what the {report.baseline} gave"
        got = first.worst.got if first.worst else "something else"
        more = len(report.failures) - 1
        tail = f" ({first.mismatched} of {first.compared} differ)" if first.compared > 1 else ""
        tail += f", and {more} more that differ" if more else ""
        remedies = {
            "values": f"the {first.candidate} was written from other weights or files; make it again from the "
            "verified checkpoint (--refresh), and find who changed it.",
            "exact": "look for dropout or batch normalisation still in training mode, swapped outputs, "
            "or a graph that was rebuilt with other constants.",
            "served": "look for dropout or batch normalisation in training mode, swapped outputs, or a server of another "
            "version; widen `tolerance` only if you know why the values move.",
        }
        return cls(
            f"{first.candidate} differs from the {report.baseline} at {what}{at}, test {first.test.value}",
            expected,
            f"{got}{tail}",
            remedies[first.test.value],
            facts={"report": report.model_dump(mode="json")},
        )

    @property
    def report(self) -> ParityReport:
        """The whole comparison."""
        return ParityReport.model_validate(self.facts["report"])


class CoverageError(Refusal):
    """A restore leaves a variable unwritten that the outputs need, or finds it with another dtype or shape."""


class NondeterministicError(Refusal):
    """The original, asked twice, answers differently: nothing can be compared with it."""


class UnsafeGraph(Refusal):
    """What would run touches files, runs Python or is pickled code: it is refused before anything is executed."""


class UnsupportedGraph(Refusal):
    """The graph wants an op or a kernel that this TensorFlow does not have."""


class SmokeRefused(Refusal):
    """A server refused the model or answered what it must not. `facts["cause"]` and `facts["log"]` say more."""


class HeldError(Refusal):
    """This digest was rolled back, and stays so until somebody says otherwise with a reason."""


class DamagedError(PipelineError):
    """Bytes on disk are not what their manifest says."""

    exit_code = ExitCode.GATE_REFUSED


class EnvironmentFailure(PipelineError):  # noqa: N818 - EnvironmentError is Python's OSError
    """Something outside the model is missing, full or forbidden; the next run tries again."""

    exit_code = ExitCode.ENVIRONMENT
    retryable = True

    @classmethod
    def from_os(cls, error: OSError, where: str) -> EnvironmentFailure:
        """The message for an operating system's refusal: a full disk, a read-only folder, a missing permission."""
        path = f" ({error.filename})" if error.filename else ""
        remedies = {
            errno.ENOSPC: "free some space there, or point --store and --serving-root at a larger disk; "
            "then run again: what was finished is kept.",
            errno.EDQUOT: "raise the quota or point --store elsewhere; then run again: what was finished is kept.",
            errno.EROFS: "point --store and --serving-root at a folder you can write to.",
            errno.EACCES: "give this user write permission, or point --store and --serving-root elsewhere.",
            errno.EPERM: "give this user write permission, or point --store and --serving-root elsewhere.",
            errno.ENOTDIR: "a file stands where a folder is needed: move it, or choose another folder.",
            errno.EMFILE: "raise the limit on open files (ulimit -n).",
        }
        reason = error.strerror or str(error) or type(error).__name__
        return cls(
            where,
            "a readable and writable file system",
            f"{reason}{path}",
            remedies.get(error.errno or 0, "mend what the system names above, then run again."),
        )
