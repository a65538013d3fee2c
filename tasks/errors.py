"""The errors that a user can meet.

    PipelineError                exit 1   a step failed
    ├── UsageError               exit 2   the command line or the configuration is wrong
    ├── ChildFailed              exit 1   a child process crashed, hung or exceeded a limit
    ├── Refusal                  exit 3   a verdict against the model; the step's verdict is kept
    │   ├── ParityError                   a form no longer computes what the baseline computed
    │   ├── CoverageError                 a restore does not write what the outputs need
    │   ├── NondeterministicError         the source model differs from itself
    │   ├── ImpureError                   an output depends on more than the inputs
    │   ├── UnsafeGraph                   what would run touches files, runs Python, or is a Lambda
    │   ├── UnsupportedGraph              an op or a kernel that this TensorFlow does not have
    │   ├── SmokeRefused                  a server refused the model, or gave other answers
    │   ├── PolicyRefused                 a promotion breaks a rule of `release.policy`
    │   └── HeldError                     this digest was rolled back
    ├── DamagedError             exit 3   bytes are not what their manifest says; never kept as a verdict
    │   └── EvidenceError                 a release is not what its evidence says, or has none, or not by this key
    └── EnvironmentFailure       exit 4   something outside is missing, full or forbidden; never kept

An error says where it happened, what was expected, what was found, and what to do; its attributes are typed. It survives pickling and
crosses processes as JSON (`encode`, `decode`), so that a child's refusal is raised in the flow as itself.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from enum import IntEnum
from typing import Any, ClassVar, Self, get_origin, get_type_hints

from pydantic import TypeAdapter

from tasks.records.adoption import OpsFound, Proposal
from tasks.records.coverage import Coverage
from tasks.records.parity import ParityReport
from tasks.records.release import Rule
from tasks.records.serving import Cause
from tasks.records.signature import OutputRef


class ExitCode(IntEnum):
    """The exit codes of the command line."""

    DONE = 0
    STEP_FAILED = 1
    USAGE = 2
    GATE_REFUSED = 3
    ENVIRONMENT = 4
    INTERRUPTED = 130
    TERMINATED = 143


_TYPES: dict[str, tuple[type, dict[str, TypeAdapter[Any]]]] = {}  # by class name


class PipelineError(Exception):
    """A step could not do what it promises.

    The attributes that a class annotates are its typed facts; those that are set travel with the error as JSON. `function` is the function of a child process that failed. `cause`, `server` and `log` are of a
    server's test.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.STEP_FAILED
    retryable: ClassVar[bool] = False

    function: str | None = None
    cause: Cause | None = None
    server: str | None = None
    log: str | None = None

    def __init__(self, where: str, expected: str, found: str, remedy: str, **attributes: Any) -> None:
        self.where, self.expected, self.found, self.remedy = where, expected, found, remedy
        types = self.attribute_types()
        for name, value in attributes.items():
            setattr(self, name, types[name].validate_python(value))
        super().__init__(where, expected, found, remedy)

    def __str__(self) -> str:
        happened = f"{self.where}: expected {self.expected}, found {self.found}.".replace("\n", "\\n")
        return f"{happened}\nRemedy: {self.remedy}"  # no name of a model begins a line: it could pass for a remedy

    def __reduce__(self) -> tuple[Any, ...]:
        return PipelineError.decode, (self.encode(),)

    @property
    def attributes(self) -> dict[str, Any]:
        """The attributes that were set, by name."""
        return {name: getattr(self, name) for name in self.attribute_types() if name in self.__dict__}

    @classmethod
    def attribute_types(cls) -> dict[str, TypeAdapter[Any]]:
        """Return the types of the attributes of this class, by name."""
        if cls.__qualname__ not in _TYPES or _TYPES[cls.__qualname__][0] is not cls:
            hints = get_type_hints(cls)
            adapters = {name: TypeAdapter(hint) for name, hint in hints.items() if get_origin(hint) is not ClassVar}
            _TYPES[cls.__qualname__] = (cls, adapters)
        return _TYPES[cls.__qualname__][1]

    def changed(self, **texts: str) -> Self:
        """Return the same error with another `where`, `expected`, `found` or `remedy`."""
        four = {name: texts.get(name, getattr(self, name)) for name in ("where", "expected", "found", "remedy")}
        return type(self)(**four, **self.attributes)

    def encode(self) -> dict[str, Any]:
        """Return this error as JSON values, for `decode`."""
        types = self.attribute_types()
        return {
            "error": type(self).__name__,
            "where": self.where,
            "expected": self.expected,
            "found": self.found,
            "remedy": self.remedy,
            "facts": {name: types[name].dump_python(value, mode="json") for name, value in self.attributes.items()},
        }

    @staticmethod
    def decode(encoded: Mapping[str, Any]) -> PipelineError:
        """Return the error that `encode` wrote, of its own class."""
        error_class = _classes()[encoded["error"]]
        four = (encoded["where"], encoded["expected"], encoded["found"], encoded["remedy"])
        return error_class(*four, **encoded["facts"])


def _classes(root: type[PipelineError] = PipelineError) -> dict[str, type[PipelineError]]:
    found = {root.__name__: root}
    for subclass in root.__subclasses__():
        found |= _classes(subclass)
    return found


class UsageError(PipelineError):
    """The command line or the configuration is wrong or incomplete.

    Where signatures are needed, `proposal` has ranked guesses and `options` the options that accept the first ones;
    `missing` are tensors without a value, `tags` the sets of tags among which to choose a MetaGraph.
    """

    exit_code = ExitCode.USAGE

    proposal: Proposal | None = None
    options: str = ""
    missing: tuple[str, ...] = ()
    tags: tuple[tuple[str, ...], ...] = ()


class ChildFailed(PipelineError):  # noqa: N818 - it says what happened
    """A child process crashed, missed its deadline, or outgrew its memory.

    `output` is the end of what it printed, `exit` its exit code, or minus the signal that killed it.
    """

    output: str = ""
    exit: int | None = None


class Refusal(PipelineError):  # noqa: N818 - a verdict, not a mistake
    """A verdict against the model. The step keeps it and repeats it when it is run again."""

    exit_code = ExitCode.GATE_REFUSED


class ParityError(Refusal):
    """A candidate no longer computes what its baseline computed. `report` is the entire comparison."""

    report: ParityReport = ParityReport(rows=())

    @classmethod
    def of(cls, report: ParityReport) -> Self:
        """Return the refusal for a report, naming its first failure."""
        if not report.failures:
            row = report.rows[0] if report.rows else None
            found = (
                f"{row.candidate} {row.signature} {row.output}: {row.note or 'not made'}" if row else "no comparison"
            )
            remedy = "give the probe at least one row for every signature."
            return cls("parity", "something that was compared", found, remedy, report=report)
        first = report.failures[0]
        what = str(OutputRef(first.signature, first.output))
        at = f"{list(first.worst.index)}" if first.worst and first.worst.index else ""
        expected = first.worst.expected if first.worst else f"what the {report.baseline} gave"
        got = first.worst.got if first.worst else "something else"
        more = len(report.failures) - 1
        limit = "" if first.limit is None else f"limit {first.limit:.2g}"
        count = f"{first.mismatched} of {first.compared} differ" if first.compared > 1 else ""
        tail = f" ({', '.join(filter(None, (limit, count)))})" if limit or count else ""
        tail += f", and {more} more that differ" if more else ""
        remedies = {
            "values": f"the {first.candidate} was written from other weights or files; make it again from the "
            "verified checkpoint (--refresh), and find who changed it.",
            "exact": "look for dropout or batch normalisation still in training mode, swapped outputs, "
            "or a graph that was rebuilt with other constants.",
            "structure": "the graph is not the one that was proven; make the form again (--refresh), and find who changed it.",
            "served": "look for dropout or batch normalisation in training mode, swapped outputs, or a server of another "
            "version; widen `tolerance` only if you know why the values move.",
        }
        if first.noise is not None and first.limit is not None and first.noise > first.limit:
            remedies["served"] = (
                f"this model's own answers lie {first.noise:.2g} apart there, which is too much to tell noise from a fault: "
                "compute what cancels in float64, or declare what is good enough: `tolerance`."
            )
        return cls(
            f"{first.candidate} differs from the {report.baseline} at {what}{at}, test {first.test.value}",
            expected,
            f"{got}{tail}",
            remedies[first.test.value],
            report=report,
        )


class CoverageError(Refusal):
    """A restore leaves a variable unwritten that the outputs need, or finds it with another dtype or shape.

    `missing` are the variables that training needs and the checkpoint lacks.
    """

    coverage: Coverage | None = None
    missing: tuple[str, ...] = ()


class ImpureError(Refusal):
    """An output depends on random numbers, the clock, or state that requests change, and that is not declared."""


class NondeterministicError(Refusal):
    """The source model gives different answers to the same inputs: nothing can be compared with it.

    `unstable` are its outputs that differ, `random` the nodes that draw random numbers.
    """

    unstable: tuple[str, ...] = ()
    random: tuple[str, ...] = ()


class UnsafeGraph(Refusal):
    """What would run touches files, runs Python or is pickled code: it is refused before anything is executed."""

    ops: OpsFound | None = None


class UnsupportedGraph(Refusal):
    """The graph needs an op or a kernel that this TensorFlow does not have."""

    ops: OpsFound | None = None


class SmokeRefused(Refusal):
    """A server refused the model or answered a request that it must refuse; `cause` and `log` say more."""


class PolicyRefused(Refusal):
    """A promotion breaks these rules of `release.policy`."""

    rules: tuple[Rule, ...] = ()


class HeldError(Refusal):
    """This digest was rolled back, and is held until it is promoted with `--force --reason`."""


class DamagedError(PipelineError):
    """Bytes on disk are not what their manifest says."""

    exit_code = ExitCode.GATE_REFUSED


class EvidenceError(DamagedError):
    """A release is not what its evidence says, has none, or has one that is not signed by the key that must have signed it."""


class EnvironmentFailure(PipelineError):  # noqa: N818 - EnvironmentError is Python's OSError
    """Something outside the model is missing, full or forbidden; the next run tries again."""

    exit_code = ExitCode.ENVIRONMENT
    retryable = True

    @classmethod
    def from_os(cls, error: OSError, where: str, *, function: str | None = None) -> EnvironmentFailure:
        """Return the error for a failed system call: a full disk, a read-only folder, a missing permission."""
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
            remedies.get(error.errno or 0, "correct what the system reports above, then run again."),
            function=function,
        )
