"""A user's own model runs from its folder, and is trained again when its sources or its data change."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tasks.artifacts.store import Store
from tasks.records.run import StepState
from tasks.records.settings import Training
from tasks.step import Run, running
from tasks.train import train
from tasks.user_code import source as sources
from tests.flows.cli.process import tfship
from tests.silent import Silent

MODEL = """
from pathlib import Path

import numpy as np
from beside import bias
from tasks.factors import factor
from tasks.user_code.model import Graph, SignatureTensors

{declaration}

class Line:
    hyperparameters = {{}}

    def build(self, hyperparameters):
        import tensorflow as tf
        start = float(Path(__file__).with_name("start.txt").read_text())
        x = tf.compat.v1.placeholder(tf.float32, [None], name="x")
        a = tf.compat.v1.get_variable("a", initializer=start)
        y = tf.add(a * x * factor(), bias(), name="y")
        return Graph(signatures={{"serving_default": SignatureTensors({{"x": x}}, {{"y": y}})}})

    def batches(self, start, hyperparameters): return iter(())
    def validation(self): return {{}}
    def probe(self): return {{"serving_default": {{"x": np.arange(4, dtype=np.float32)}}}}
"""


@pytest.fixture
def mine(folder: Path) -> Path:
    """A project with a `tasks` package of its own, another module, and a data file."""
    (folder / "mine.py").write_text(MODEL.format(declaration='DATA = ("start.txt",)'))
    (folder / "start.txt").write_text("2.5")
    (folder / "tasks").mkdir()
    (folder / "tasks" / "__init__.py").touch()
    (folder / "tasks" / "factors.py").write_text("def factor(): return 3.0\n")
    (folder / "beside.py").write_text("def bias(): return 1.0\n")
    return folder


def trained(*refresh: str) -> StepState:
    """Return True if the model in this folder was trained, False if it was cached."""
    run = Run("test", Store(Path("store")), Silent(), frozenset(refresh))
    with running(run):
        train(sources.resolve("mine:Line", Path.cwd()), Training())
    return run.outcomes[-1].state


def test_it_runs_beside_a_tasks_package_of_its_users(mine: Path) -> None:
    answer = tfship("run", "mine:Line", "--no-server", "--runtime", "embedded", "--json")
    assert answer.code == 0, answer.err
    assert answer.document["name"] == "mine" and answer.document["promotion"]["outcome"] == "promoted"
    assert sorted(path.name for path in mine.iterdir() if path.name != "__pycache__") == [
        ".tfship",
        "beside.py",
        "mine.py",
        "start.txt",
        "tasks",
    ]
    again = tfship("run", "mine:Line", "--no-server", "--runtime", "embedded", "--json")
    assert again.states["train"] == "cached"


def test_a_tasks_folder_without_an_init_file_does_as_well(mine: Path) -> None:
    (mine / "tasks" / "__init__.py").unlink()
    assert trained() is StepState.BUILT


@pytest.mark.parametrize("name", ["train.py", "errors.py", "models/__init__.py"])
def test_a_module_that_is_called_as_one_of_ours_is_theirs(mine: Path, name: str) -> None:
    """And ours stay what they are for us."""
    (mine / "tasks" / name).parent.mkdir(exist_ok=True)
    (mine / "tasks" / name).write_text("def factor(): return 4.0\n")
    module = f"tasks.{name.removesuffix('.py').removesuffix('/__init__').replace('/', '.')}"
    text = MODEL.format(declaration="DATA = ()").replace("tasks.factors", module)
    if module == "tasks.models":  # hides ours, as a user of that name must expect; inside a function it is ours again
        line = "from tasks.user_code.model import Graph, SignatureTensors\n"
        text = text.replace(line, "").replace("import tensorflow as tf\n", f"import tensorflow as tf\n        {line}")
    (mine / "mine.py").write_text(text)
    assert trained() is StepState.BUILT


EDITS = {
    "its source": ("mine.py", "hyperparameters = {}", "hyperparameters = {'edited': 1}"),
    "its data": ("start.txt", "2.5", "2.75"),
    "a module it imports": ("beside.py", "1.0", "1.5"),
    "a module of its package": ("tasks/factors.py", "3.0", "3.5"),
}


@pytest.mark.parametrize(("name", "before", "after"), EDITS.values(), ids=EDITS.keys())
def test_edited_is_trained_again_and_untouched_is_found(mine: Path, name: str, before: str, after: str) -> None:
    assert [trained(), trained()] == [StepState.BUILT, StepState.CACHED]
    text = (mine / name).read_text()
    (mine / name).write_text(text.replace(before, after))
    assert (mine / name).read_text() != text
    assert [trained(), trained()] == [StepState.BUILT, StepState.CACHED]
    (mine / name).write_text(text)
    assert trained() is StepState.CACHED, "what it was before is still there"


def test_a_file_that_it_does_not_use_does_not_matter(mine: Path) -> None:
    assert trained() is StepState.BUILT
    (mine / "other.py").write_text("x = 1")
    (mine / "tasks" / "other.py").write_text("x = 1")
    assert trained() is StepState.CACHED


def test_a_model_that_does_not_say_what_it_reads_is_trained_every_time(mine: Path) -> None:
    (mine / "mine.py").write_text(MODEL.format(declaration=""))
    assert [trained(), trained()] == [StepState.BUILT, StepState.BUILT]


def test_the_flows_own_process_never_imports_it(mine: Path) -> None:
    assert trained() is StepState.BUILT
    assert "mine" not in sys.modules and "beside" not in sys.modules
