"""The rules that a promotion must keep, and what each finds: `release.policy` in the settings.

The new version is compared with the one that clients are answered by now. Both are read from their files in a child; nothing is
changed here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from tasks.artifacts.manifest import FileEntry
from tasks.forms import saved_model
from tasks.graphs.graph import Graph
from tasks.quality import evaluate as evaluations
from tasks.records.base import Record
from tasks.records.evaluation import Evaluation
from tasks.records.release import Event, JournalLine, Rule
from tasks.records.serving import SmokeReport
from tasks.records.settings import LESS_IS_BETTER, LabelledData, MetricRule, Policy, SessionOptions
from tasks.records.signature import Signature, TensorSpec
from tasks.serving.checks import gates, preflight

_NAMED = 5


class Violation(Record):
    """A rule that a promotion breaks."""

    rule: Rule
    expected: str
    found: str


class ModelFacts(Record):
    """What rules ask of a SavedModel; `evaluation` only where a rule needs one."""

    signatures: tuple[Signature, ...]
    ops: tuple[str, ...]
    evaluation: Evaluation | None = None


class Candidate(Record):
    """A version that is to be promoted: its digest and files, the smoke test that it passed, and the keys that are configured."""

    digest: str
    files: tuple[FileEntry, ...]
    smoke: SmokeReport
    facts: ModelFacts
    keys: tuple[str, ...] = ()


def read(folder: Path, labelled: LabelledData, rule: MetricRule | None) -> ModelFacts:
    """In a child: read a SavedModel, and evaluate it on the labelled rows where a rule asks for that.

    Raises:
        UsageError: there are no labels in the file, or no inputs of this model.
        DamagedError: the model cannot be read.
        UnsafeGraph: it does more than compute, and was not loaded.
    """
    meta = saved_model.meta_graph(folder)
    signatures = tuple(saved_model.signatures_in(meta.signature_def))
    ops = {node.op for node in Graph(meta.graph_def).every_node()}
    evaluation = None
    if rule is not None and labelled.file is not None:
        preflight.require_self_contained(folder)  # a version may have come by hand
        inputs, labels, key = evaluations.labelled(labelled.file, signatures, labelled.label)
        with saved_model.loaded_v1(folder, SessionOptions()) as opened:
            name = labelled.file.name
            evaluation = evaluations.evaluate(opened, key, inputs, labels, labelled.batch, file=name)
    return ModelFacts(signatures=signatures, ops=tuple(sorted(ops)), evaluation=evaluation)


def violations(
    policy: Policy, new: Candidate, current: ModelFacts | None, journal: Iterable[JournalLine]
) -> Iterator[Violation]:
    """Yield what a promotion breaks, rule by rule; `current` is None where nothing is served."""
    for rule, found in _FOUND.items():
        if differences := list(found(policy, new, current, journal)):
            more = f" and {len(differences) - _NAMED} more" if len(differences) > _NAMED else ""
            expected = "; ".join(dict.fromkeys(wanted for wanted, _ in differences[:_NAMED]))
            yield Violation(
                rule=rule, expected=expected, found="; ".join(got for _, got in differences[:_NAMED]) + more
            )


Differences = Iterator[tuple[str, str]]
"""What a rule expects, and what it finds instead."""


def _real_server(policy: Policy, new: Candidate, *_: object) -> Differences:
    if policy.real_server and new.smoke.identity.stand_in:
        yield "a smoke test in a real server (--runtime docker or binary)", new.smoke.verdict


def _images(policy: Policy, new: Candidate, *_: object) -> Differences:
    tested = new.smoke.identity
    if policy.images and tested.image_digest not in policy.images:
        yield f"a smoke test in the image {' or '.join(policy.images)}", f"one in {tested.exactly}"


def _signatures(policy: Policy, new: Candidate, current: ModelFacts | None, *_: object) -> Differences:
    if policy.signatures and current is not None:
        for broken in contract(current.signatures, new.facts.signatures):
            yield "everything that clients of the served version send and read", broken


def contract(served: Collection[Signature], offered: Collection[Signature]) -> Iterator[str]:
    """Yield what clients of one version lose in another: more signatures and outputs, and wider inputs, take nothing from them."""
    new = {one.key: one for one in offered}
    for old in served:
        if (now := new.get(old.key)) is None:
            yield f"signature {old.key} is gone"
            continue
        if now.called_by is not old.called_by:
            yield f"{old.key} is called by {now.called_by.value}, and was by {old.called_by.value}"
        yield from _sides(old.key, "input", old.inputs, now.inputs, _accepts)
        for name in sorted(now.inputs.keys() - old.inputs.keys()):
            yield f"{old.key}: input {name} is new, and no client sends it"
        yield from _sides(old.key, "output", old.outputs, now.outputs, lambda was, got: _accepts(got, was))


def _sides(
    key: str,
    side: str,
    served: Mapping[str, TensorSpec],
    offered: Mapping[str, TensorSpec],
    fits: Callable[[TensorSpec, TensorSpec], bool],
) -> Iterator[str]:
    for name, was in served.items():
        if (now := offered.get(name)) is None:
            yield f"{key}: {side} {name} is gone"
        elif now.dtype != was.dtype or not fits(was, now):
            yield f"{key}: {side} {name} is {_shown(now)}, and was {_shown(was)}"


def _accepts(given: TensorSpec, taken: TensorSpec) -> bool:
    """Tell whether every shape that `given` allows is one that `taken` allows."""
    if taken.shape is None or given.shape is None:
        return taken.shape is None
    sizes = zip(given.shape, taken.shape, strict=False)
    return len(given.shape) == len(taken.shape) and all(most is None or size == most for size, most in sizes)


def _shown(spec: TensorSpec) -> str:
    sizes = "..." if spec.shape is None else ", ".join("?" if size is None else str(size) for size in spec.shape)
    return f"{spec.dtype}[{sizes}]"


def _metric(policy: Policy, new: Candidate, current: ModelFacts | None, *_: object) -> Differences:
    if (rule := policy.metric) is None:
        return
    sign = -1.0 if rule.name in LESS_IS_BETTER else 1.0
    bound = "at most" if sign < 0 else "at least"
    found = _number(new.facts, rule.name)
    if found is None:
        yield f"{rule.name} on labelled rows", "none: it is not a number of this model's evaluation"
        return
    # Written so that NaN breaks the rule.
    if rule.floor is not None and not sign * found >= sign * rule.floor:
        yield f"{rule.name} of {bound} {rule.floor:g}", f"{found:.6g}"
    if rule.margin is None or current is None:
        return
    before = _number(current, rule.name)
    if before is None:
        yield f"{rule.name} of the served version, to compare with", "none: it is not a number of its evaluation"
    elif not sign * found >= sign * before - rule.margin:
        least = before - sign * rule.margin
        yield (
            f"{rule.name} of {bound} {least:.6g}, for the served version has {before:.6g} on the same rows",
            f"{found:.6g}",
        )


def _number(facts: ModelFacts, name: str) -> float | None:
    return getattr(facts.evaluation, name) if facts.evaluation is not None else None


def _ops(policy: Policy, new: Candidate, *_: object) -> Differences:
    for pattern in policy.refuse_ops:
        for op in new.facts.ops:
            if fnmatchcase(op, pattern):
                yield f"no op {pattern}", f"the op {op}"


def _budgets(policy: Policy, new: Candidate, *_: object) -> Differences:
    size = sum(file.size for file in new.files)
    if policy.max_bytes is not None and size > policy.max_bytes:
        yield f"at most {policy.max_bytes} bytes", f"{size} bytes"
    for check in gates.of_round(new.smoke.rounds[-1], policy.gates):
        if not check.passed:
            yield f"{check.case} of {check.expected}", check.answered


def _signed(policy: Policy, new: Candidate, *_: object) -> Differences:
    for key in ("signing_key", "public_key"):
        if policy.signed and key not in new.keys:
            yield f"`release.{key}`, to sign and to verify it", f"no {key}"


def _approval(policy: Policy, new: Candidate, _: object, journal: Iterable[JournalLine]) -> Differences:
    if policy.approval and not approved(new.digest, journal):
        yield f"a person's approval of {new.digest[:12]}", "none"


def approved(digest: str, journal: Iterable[JournalLine]) -> bool:
    """Tell whether a person has approved a model, and it was not rolled back since."""
    found = False
    for line in journal:
        if line.event is Event.APPROVED and line.digest == digest:
            found = True
        elif line.event is Event.ROLLED_BACK and digest in line.retired.values():
            found = False
    return found


_FOUND: Mapping[Rule, Callable[[Policy, Candidate, ModelFacts | None, Iterable[JournalLine]], Differences]] = {
    Rule.REAL_SERVER: _real_server,
    Rule.IMAGES: _images,
    Rule.SIGNATURES: _signatures,
    Rule.METRIC: _metric,
    Rule.OPS: _ops,
    Rule.BUDGETS: _budgets,
    Rule.SIGNED: _signed,
    Rule.APPROVAL: _approval,
}
