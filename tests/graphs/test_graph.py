"""The one index of a graph: reach, order, readers, and the functions that a node calls."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tasks import isolate
from tasks.graphs.graph import full_name, node_name, output_index
from tests.graphs import graph_calls


def test_the_table_of_calls_agrees_with_the_registered_ops() -> None:
    assert isolate.call(graph_calls.ops_that_pass_their_inputs_on) == {}


def test_a_function_is_found_in_any_attribute_of_any_op() -> None:
    functions = ["f", "g", "h", "i"]
    found = isolate.call(graph_calls.functions_found, {"functions": functions})
    assert len(found) > 70
    assert {op: names for op, names in found.items() if names != functions[: len(names)] or not names} == {}


@st.composite
def dags(draw: st.DrawFn) -> tuple[list[list[int]], list[int], list[int]]:
    """The sources of each node (all before it), some targets, and some nodes that are fed."""
    size = draw(st.integers(1, 8))
    edges = [sorted(draw(st.sets(st.integers(0, number - 1)))) if number else [] for number in range(size)]
    some = st.lists(st.integers(0, size - 1), min_size=1, max_size=3, unique=True)
    return edges, draw(some), draw(st.lists(st.integers(0, size - 1), max_size=2, unique=True))


def _reach(edges: list[list[int]], targets: list[int], fed: list[int]) -> set[int]:
    found: set[int] = set()
    for target in targets:
        found |= {target} | (set() if target in fed else _reach(edges, edges[target], fed))
    return found


def test_reach_order_and_readers_of_any_graph() -> None:
    cases: list[tuple[list[list[int]], list[int], list[int]]] = []

    @given(dags())
    def draw(case: tuple[list[list[int]], list[int], list[int]]) -> None:
        cases.append(case)

    draw()
    for (edges, targets, fed), found in zip(cases, isolate.call(graph_calls.walked_all, cases), strict=True):
        assert found["reach"] == sorted(f"n{one}" for one in _reach(edges, targets, []))
        assert sorted(found["order"]) == sorted(f"n{one}" for one in _reach(edges, targets, fed))
        for order, given_values in ((found["order"], fed), (found["all"], [])):
            at = {name: position for position, name in enumerate(order)}
            for number, sources in enumerate(edges):
                if f"n{number}" in at and number not in given_values:
                    assert all(at[f"n{source}"] < at[f"n{number}"] for source in sources)
        expected = [f"n{n}:{p}<n{s}" for n, sources in enumerate(edges) for p, s in enumerate(sources)]
        assert sorted(found["readers"]) == sorted(expected)


def test_names_of_tensors_are_taken_apart_in_one_way() -> None:
    assert [node_name(one) for one in ("x", "x:1", "^x", "a/x:0")] == ["x", "x", "x", "a/x"]
    assert [full_name(one) for one in ("x", "x:1", "^x")] == ["x:0", "x:1", "^x"]
    assert [output_index(one) for one in ("x", "x:0", "x:12")] == [0, 0, 12]
