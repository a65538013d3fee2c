"""Real checkpoints are restored, frozen and exported, and answer as recorded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tasks import isolate
from tasks.errors import CoverageError
from tests.makers import corpus

FOLDER = os.environ.get("TFSHIP_CORPUS")
pytestmark = pytest.mark.skipif(not FOLDER, reason="TFSHIP_CORPUS does not name the folder of models from the wild")


@pytest.fixture
def wild() -> Path:
    folder = Path(str(FOLDER)).resolve()
    assert folder.is_dir(), f"TFSHIP_CORPUS={folder} is no folder"
    return folder


def test_puzzle15_agrees_with_the_graph_that_its_author_froze(wild: Path, tmp_path: Path) -> None:
    rows = [[0.5, -1.5], [2.0, 3.0]]
    names = corpus.names_for("input:0", "result:0", (None, 2))
    answers = isolate.call(corpus.every_form, wild / "puzzle15" / "modeldir" / "model.ckpt", names, rows, tmp_path)
    theirs = isolate.call(corpus.of_a_graph, wild / "puzzle15" / "frozen_model.pb", "input:0", "result:0", rows)
    assert set(answers) == {"checkpoint", "frozen_graph", "saved_model"}
    assert all(answer == theirs for answer in answers.values())


def test_v1_neo_freezes_with_no_variable_left_where_tensorflows_own_freezer_leaves_two(
    wild: Path, tmp_path: Path
) -> None:
    rows = [[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [1.0, 0.0, 0.0, 2.0, 0.0, 0.0]]
    names = corpus.names_for("Placeholder:0", "Softmax:0", (None, 6))
    answers = isolate.call(corpus.every_form, wild / "v1-neo" / "model.ckpt", names, rows, tmp_path)
    assert answers["frozen_graph"] == answers["checkpoint"] == answers["saved_model"]
    assert isolate.call(corpus.variable_ops_left, tmp_path / "frozen_graph.pb") == []


def test_threaded_lstm_is_refused_and_what_was_never_saved_is_named(wild: Path) -> None:
    names = corpus.names_for("Placeholder:0", "add:0", (None, None))
    with pytest.raises(CoverageError, match="rnn/basic_lstm_cell/"):
        isolate.call(corpus.restore, wild / "threaded-lstm" / "model.ckpt", names)
