"""A GraphDef that is written or read with its large constants apart is the GraphDef that TensorFlow reads."""

from __future__ import annotations

from pathlib import Path

from tasks import isolate
from tests.makers import graph_files


def test_what_is_written_is_what_tensorflow_reads(tmp_path: Path) -> None:
    assert isolate.call(graph_files.written_as_read, tmp_path) == []


def test_every_constant_has_the_facts_of_the_whole_message() -> None:
    assert isolate.call(graph_files.differing_facts) == []


def test_no_flipped_byte_gives_facts_that_the_whole_message_has_not() -> None:
    seen = isolate.call(graph_files.flipped, 400)
    assert seen.wrong == [] and seen.compared > 50 and seen.refused > 50


def test_the_process_that_writes_holds_two_of_the_largest_tensors_at_most(tmp_path: Path) -> None:
    largest = 64 << 20
    assert isolate.call(graph_files.growth, tmp_path, 8, largest) < 2 * largest + (150 << 20)
