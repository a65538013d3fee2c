"""What outputs depend on besides the inputs is found in the graph, and what only looks so is not."""

from __future__ import annotations

import pytest

from tasks import isolate
from tasks.records.signature import Impurity
from tests.makers import impure_models as made

IMPURE = {
    "running maximum": ("state", "AssignVariableOp"),
    "counter": ("state", "AssignAddVariableOp"),
    "counter in a reference variable": ("state", "AssignAdd)"),
    "counter in a function": ("state", "AssignAddVariableOp"),
    "state of a function": ("state", "AssignAddVariableOp"),
    "queue": ("state", "QueueDequeueV2"),
    "table": ("state", "LookupTableInsertV2"),
    "a constant changed in place": ("state", "InplaceAdd"),
    "clock": ("clock", "Timestamp"),
    "a draw around 0 that looks like dropout": ("random", "RandomUniform"),
    "a draw beyond 1 that looks like dropout": ("random", "RandomUniform"),
    "random in the tail": ("random", "RandomStandardNormal"),
    "dropout on": ("random", "RandomUniform"),
    "keep_prob is an input": ("random", "RandomUniform"),
    "dropout, default on": ("random", "--pin k=1.0"),
    "switch on": ("random", "RandomStandardNormal"),
    "switch by an input": ("random", "RandomStandardNormal"),
    "branch on": ("random", "RandomStandardNormal"),
    "random dataset": ("random", "RandomStandardNormal"),
    "switch by a long sum": ("random", "RandomStandardNormal"),  # which could be known, and is not looked for
    "memory": ("random", "(Empty)"),
}
PURE = (
    "counter that nobody reads",
    "counter in a function that nobody reads",
    "table that is only read",
    "a temporary changed in place",
    "dropout off by hand",
    "dropout off",
    "dropout, default off",
    "switch off",
    "switch, default off",
    "branch off",
    "batch statistics",
    "loop",
    "zeros",
    "random that nobody reads",
)


@pytest.fixture(scope="module")
def said() -> dict[str, str]:
    return isolate.call(made.judged, [*IMPURE, *PURE])


@pytest.mark.parametrize("kind", IMPURE)
def test_an_output_that_depends_on_more_is_refused_and_the_op_named(said: dict[str, str], kind: str) -> None:
    impurity, op = IMPURE[kind]
    assert "the model: output serve/y: expected one that depends on the inputs alone" in said[kind]
    assert op in said[kind] and f"--allow-impure {impurity}" in said[kind]


@pytest.mark.parametrize("kind", PURE)
def test_what_only_looks_so_is_pure(said: dict[str, str], kind: str) -> None:
    assert said[kind] == ""


def test_what_is_declared_is_told() -> None:
    kinds = ["counter", "clock", "random in the tail", "dropout off"]
    told = isolate.call(made.judged, kinds, tuple(Impurity))
    assert told == {"counter": "state", "clock": "clock", "random in the tail": "random", "dropout off": ""}
    (refused,) = isolate.call(made.judged, ["clock"], (Impurity.STATE, Impurity.RANDOM)).values()
    assert "the clock, by Timestamp (Timestamp)" in refused
