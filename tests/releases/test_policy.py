"""The rules of a promotion: each refuses what it is there for, and lets everything else pass."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.artifacts.manifest import FileEntry
from tasks.records.evaluation import Evaluation
from tasks.records.parity import ParityReport
from tasks.records.release import Event, JournalLine, Rule
from tasks.records.serving import Latency, Round, RuntimeIdentity, SmokeReport
from tasks.records.settings import Policy
from tasks.records.signature import Method, Signature, TensorSpec
from tasks.releases import policy

Shape = tuple[int | None, ...] | None
DIGEST = "sha256:" + "ab" * 32


def spec(dtype: str, shape: Shape) -> TensorSpec:
    return TensorSpec(tensor="t:0", dtype=dtype, shape=shape)


def signature(key: str = "serving_default", **sides: Any) -> Signature:
    """A signature of floats in rows, with other inputs and outputs where they are given."""
    rows = {"x": ("float32", (None, 4))}, {"y": ("float32", (None, 2))}
    inputs, outputs = (sides.get(side, usual) for side, usual in zip(("inputs", "outputs"), rows, strict=True))
    return Signature(
        key=key,
        method=sides.get("method", Method.PREDICT),
        inputs={name: spec(*one) for name, one in inputs.items()},
        outputs={name: spec(*one) for name, one in outputs.items()},
    )


def facts(*signatures: Signature, ops: tuple[str, ...] = ("MatMul",), accuracy: float | None = None) -> Any:
    evaluation = Evaluation(file="rows.npz", signature="s", output="y", rows=10, accuracy=accuracy)
    return policy.ModelFacts(signatures=signatures or (signature(),), ops=ops, evaluation=evaluation)


def candidate(found: Any = None, *, stand_in: bool = False, p99: float = 5.0, size: int = 100) -> policy.Candidate:
    one = Latency(protocol="gRPC", batch=1, requests=9, p50=1, p90=2, p99=p99, throughput=1)
    tested = Round(
        setup="as configured",
        load_seconds=2.0,
        peak_memory=1000,
        checks=(),
        latency=(one,),
        warmup="no warmup requests",
    )
    identity = RuntimeIdentity(
        runtime="docker", version="2.21", stand_in=stand_in, image="serving", image_digest=DIGEST
    )
    smoke = SmokeReport(identity=identity, version=1, rounds=(tested,), parity=ParityReport(rows=()), passed=True)
    files = (FileEntry(path="saved_model.pb", size=size, sha256="0" * 64),)
    return policy.Candidate(digest="d1", files=files, smoke=smoke, facts=found or facts(accuracy=0.9))


def line(event: Event, digest: str = "d1", **fields: Any) -> JournalLine:
    return JournalLine(time="now", event=event, version=1, digest=digest, **fields)


BROKEN: dict[Rule, tuple[dict[str, Any], policy.Candidate, Any, str]] = {
    Rule.REAL_SERVER: ({"real_server": True}, candidate(stand_in=True), None, r"passed \(stand-in\)"),
    Rule.IMAGES: ({"images": ["sha256:" + "cd" * 32]}, candidate(), None, "serving@sha256:abab"),
    Rule.SIGNATURES: (
        {},
        candidate(facts(signature(outputs={"z": ("float32", (None, 2))}))),
        facts(),
        "output y is gone",
    ),
    Rule.METRIC: ({"metric": {"floor": 0.95, "margin": None}}, candidate(), None, "0.9"),
    Rule.OPS: ({"refuse_ops": ["Random*"]}, candidate(facts(ops=("Add", "RandomUniform"))), None, "RandomUniform"),
    Rule.BUDGETS: ({"gates": {"max_p99_ms": 4}}, candidate(), None, "5 ms"),
    Rule.SIGNED: ({"signed": True}, candidate(), None, "no public_key"),
    Rule.APPROVAL: ({"approval": True}, candidate(), None, "none"),
}


@pytest.mark.parametrize("rule", Rule)
def test_every_rule_refuses_its_violation_and_no_other_does(rule: Rule) -> None:
    settings, new, current, said = BROKEN[rule]
    (found,) = policy.violations(Policy.model_validate(settings), new, current, [])
    assert found.rule is rule and found.expected
    assert re.search(said, found.found)


def test_what_keeps_every_rule_passes() -> None:
    everything = Policy.model_validate(
        {
            "real_server": True,
            "images": [DIGEST],
            "metric": {"floor": 0.9, "margin": 0.05},
            "refuse_ops": ["PyFunc"],
            "max_bytes": 100,
            "gates": {"max_p99_ms": 5, "max_load_seconds": 2, "max_rss_bytes": 1000},
            "signed": True,
            "approval": True,
        }
    )
    served, signed = facts(accuracy=0.94), candidate().model_copy(update={"keys": ("signing_key", "public_key")})
    assert not list(policy.violations(everything, signed, served, [line(Event.APPROVED)]))


def test_without_rules_and_without_a_served_version_everything_passes() -> None:
    other = candidate(facts(signature("other"), ops=("PyFunc",)), stand_in=True, size=2**40)
    assert not list(policy.violations(Policy(), other, None, []))
    assert not list(policy.violations(Policy(signatures=False), other, facts(), []))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ([], "signature serving_default is gone"),
        (
            [
                signature(
                    method=Method.REGRESS,
                    inputs={"inputs": ("string", (None,))},
                    outputs={"outputs": ("float32", (None, 1))},
                )
            ],
            "is called by tensorflow/serving/regress, and was by tensorflow/serving/predict",
        ),
        ([signature(inputs={})], "input x is gone"),
        ([signature(inputs={"x": ("float32", (None, 4)), "k": ("float32", ())})], "input k is new"),
        ([signature(inputs={"x": ("float64", (None, 4))})], r"input x is float64\[\?, 4\], and was float32\[\?, 4\]"),
        ([signature(inputs={"x": ("float32", (8, 4))})], r"input x is float32\[8, 4\], and was"),
        ([signature(inputs={"x": ("float32", (None, 4, 1))})], "input x is"),
        ([signature(outputs={"y": ("float32", (None, 3))})], r"output y is float32\[\?, 3\], and was"),
        ([signature(outputs={"y": ("float32", None)})], r"output y is float32\[...\], and was"),
        ([signature(outputs={})], "output y is gone"),
    ],
)
def test_what_clients_lose_is_named(changed: list[Signature], said: str) -> None:
    first, *_ = policy.contract([signature()], changed)
    assert re.search(said, first)


@pytest.mark.parametrize(
    "widened",
    [
        [signature(), signature("more")],
        [signature(outputs={"y": ("float32", (None, 2)), "z": ("string", (None,))})],
        [signature(inputs={"x": ("float32", (None, None))})],
        [signature(inputs={"x": ("float32", None)})],
        [signature(outputs={"y": ("float32", (8, 2))})],
    ],
)
def test_widening_takes_nothing_from_clients(widened: list[Signature]) -> None:
    assert not list(policy.contract([signature()], widened))


shapes = st.none() | st.lists(st.none() | st.integers(1, 3), max_size=3).map(tuple)


def allowed(shape: Shape, rows: tuple[int, ...]) -> bool:
    """Whether a tensor of this shape may be fed to a placeholder of that one."""
    return shape is None or (
        len(shape) == len(rows) and all(most in (None, size) for size, most in zip(rows, shape, strict=True))
    )


@given(shapes, shapes, st.lists(st.integers(1, 3), max_size=3).map(tuple))
def test_what_the_old_input_takes_the_new_one_takes_where_nothing_is_lost(old: Shape, new: Shape, rows: Any) -> None:
    served, offered = (signature(inputs={"x": ("float32", shape)}) for shape in (old, new))
    if not list(policy.contract([served], [offered])) and allowed(old, rows):
        assert allowed(new, rows)


@pytest.mark.parametrize(("name", "served", "new", "margin", "passes"), [
    ("accuracy", 0.9, 0.88, 0.05, True),
    ("accuracy", 0.9, 0.84, 0.05, False),
    ("mae", 1.0, 1.04, 0.05, True),
    ("mae", 1.0, 1.06, 0.05, False),
    ("accuracy", None, 0.1, 0.0, False),
    ("accuracy", 0.9, float("nan"), 0.5, False),
    ("accuracy", float("nan"), 0.9, 0.5, False),
])  # fmt: skip
def test_a_metric_may_be_worse_by_its_margin(
    name: str, served: float | None, new: float, margin: float, passes: bool
) -> None:
    def measured(value: float | None) -> Any:
        numbers = Evaluation(file="f", signature="s", output="y", rows=1, **{name: value})
        return policy.ModelFacts(signatures=(signature(),), ops=(), evaluation=numbers)

    rule = Policy.model_validate({"metric": {"name": name, "margin": margin}})
    found = list(policy.violations(rule, candidate(measured(new)), measured(served), []))
    assert (not found) is passes


def test_a_metric_that_is_no_number_breaks_its_floor() -> None:
    rule = Policy.model_validate({"metric": {"floor": 0.1, "margin": None}})
    (found,) = policy.violations(rule, candidate(facts(accuracy=float("nan"))), None, [])
    assert found.rule is Rule.METRIC
    assert not list(policy.violations(rule, candidate(), facts(accuracy=None), [])), "no margin, no comparison"


def test_a_metric_that_was_not_measured_is_not_passed() -> None:
    rule = Policy.model_validate({"metric": {"name": "r2", "floor": 0.1}})
    (found,) = policy.violations(rule, candidate(), None, [])
    assert found.rule is Rule.METRIC


def test_an_approval_is_of_one_model_until_it_is_rolled_back() -> None:
    approval = line(Event.APPROVED)
    assert policy.approved("d1", [approval])
    assert not policy.approved("d2", [approval])
    back = line(Event.ROLLED_BACK, "d0", retired={2: "d1"})
    assert not policy.approved("d1", [approval, back])
    assert policy.approved("d1", [approval, back, approval])
