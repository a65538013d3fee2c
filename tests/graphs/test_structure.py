"""Two graphs are the same node for node, or the first pair that differs is named."""

from __future__ import annotations

import pytest

from tasks import isolate
from tests.makers import structures as made


@pytest.fixture(scope="module")
def found() -> dict[str, tuple[int, list[str]]]:
    return isolate.call(made.compared, list(made.PAIRS))


@pytest.mark.parametrize("kind", made.SAME)
def test_what_decides_nothing_is_left_out(found: dict[str, tuple[int, list[str]]], kind: str) -> None:
    count, difference = found[kind]
    assert difference == [] and count >= 1


@pytest.mark.parametrize("kind", made.DIFFERENT)
def test_what_a_probe_may_not_show_is_named(found: dict[str, tuple[int, list[str]]], kind: str) -> None:
    _, difference = found[kind]
    assert len(difference) == 2 and difference[0] != difference[1]


def test_the_words_name_op_attribute_and_node(found: dict[str, tuple[int, list[str]]]) -> None:
    assert found["op"][1] == ["Relu (Relu)", "Relu6 (Relu6)"]
    assert found["padding"][1] == [
        "MaxPool2d (MaxPool) with padding=SAME",
        "MaxPool2d (MaxPool) with padding=VALID",
    ]
    assert found["second output"][1] == ["split (Split)", "split (Split), its output 1"]
    assert found["constant"][1][1] == "w (Const) 1, 2, 3, 4.0000001"
    assert found["in a branch"][1][1].endswith("Relu6 (Relu6)") and "/" in found["in a branch"][1][1]
