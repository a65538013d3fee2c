"""A run that fails gives one message with a remedy and the right exit code, and loses nothing."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.cli import run as pipeline
from flows.cli.options import Options
from flows.cli.options import of as options_of
from flows.config import PipelineConfig
from tasks import isolate
from tasks.artifacts.store import Store
from tasks.errors import ParityError
from tasks.presentation import page
from tasks.records.run import RunSummary, StepState, StepSummary
from tests.flows.cli.process import QUICK, Answer, Shell, tfship
from tests.makers import inspected_files


def next_command(answer: Answer) -> str:
    """Return the command of the last line."""
    word, command = answer.out.splitlines()[-1].split(maxsplit=1)
    assert word == "next", answer.out
    return command


def assert_said_once(answer: Answer, code: int, *named: str) -> None:
    assert answer.code == code, answer
    assert answer.err.count("tfship: ") == answer.err.count("Remedy: ") == 1, answer.err
    assert "Traceback" not in answer.err + answer.out
    message = answer.err[answer.err.index("tfship: ") :]
    for part in named:
        assert part in message, message


def test_a_file_in_the_place_of_the_store(folder: Path) -> None:
    (folder / "file").write_text("mine")
    answer = tfship("run", *QUICK, "--store", "file")
    assert_said_once(answer, 4, "store", "Not a directory", "a file stands where a folder is needed")
    assert (folder / "file").read_text() == "mine"


def test_a_file_in_the_place_of_the_serving_root(copied: Path) -> None:
    (copied / "file").touch()
    answer = tfship("run", *QUICK, "--serving-root", "file", "--json")
    assert_said_once(answer, 4, "serving root", "Not a directory")
    assert answer.states["promote"] == "failed" and answer.states["report"] == "built"
    assert Path(answer.document["report"]).is_file()
    assert tfship("run", *QUICK).code == 0


def test_a_file_in_the_place_of_the_reports(copied: Path) -> None:
    (copied / "file").touch()
    answer = tfship("run", *QUICK, "--json", TFSHIP_REPORTS="file", TFSHIP_SERVING_ROOT="served")
    assert_said_once(answer, 4, "reports", "Not a directory")
    assert not (copied / "served").exists(), "found before anything is promoted"


def no_space(facts: object) -> str:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_report_that_cannot_be_written_hides_neither_the_release_nor_what_ended_the_run(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "render", no_space)
    answer = tfship("run", *QUICK, "--json", TFSHIP_SERVING_ROOT="served")
    assert_said_once(answer, 4, "report", "No space left")
    assert answer.document["report"] is None and answer.states["report"] == "failed"
    assert answer.document["promotion"]["outcome"] == "promoted", "what was done is said all the same"
    (copied / "file").touch()
    answer = tfship("run", *QUICK, "--json", TFSHIP_SERVING_ROOT="file")
    assert answer.code == 4 and "Traceback" not in answer.err
    assert answer.err.splitlines()[-2].startswith("tfship: serving root")
    assert answer.document["report"] is None


def test_a_model_that_is_refused_before_anything_is_known_of_it_has_a_report(folder: Path) -> None:
    isolate.call(inspected_files.graph_file, folder / "graph.pb")
    for _ in range(2):  # the second answer is the verdict that was kept
        answer = tfship("run", "graph.pb", "--input", "x", "--output", "y", "--no-server", "--json")
        assert_said_once(answer, 3, "values for 1 variables (w)")
        assert answer.states == {"adopt": "failed", "report": "built"}
        page = Path(answer.document["report"]).read_text()
        assert "Refused at adopt" in page and "values for 1 variables" in page


def test_the_last_line_of_a_refused_run_is_the_command_that_says_more(copied: Path) -> None:
    """It inspects the source model or, where a form differs, explains the first difference inside it."""
    isolate.call(inspected_files.graph_file, copied / "graph.pb")
    source_model = ("run", "graph.pb", "--input", "x", "--output", "y", "--no-server")
    answer = tfship(*source_model)
    assert answer.code == 3 and next_command(answer) == "tfship inspect graph.pb"
    artifact = copied / "artifact"
    (artifact / "saved_model").mkdir(parents=True)
    failed = StepSummary(name="export", state=StepState.FAILED, seconds=1.0, artifact=str(artifact))
    summary = RunSummary(run_id="", name="graph", steps=(failed,), parity=(), smoke=None, promotion=None, report=None)
    given = Options(options_of("run"), {"inputs": ["x"], "outputs": ["y"], "verbose": False})
    refusal, settings = ParityError("a", "b", "c", "d"), PipelineConfig(source="graph.pb")
    command = pipeline.next_after(refusal, settings, given, summary)
    assert command == f"tfship verify graph.pb {artifact}/saved_model --input x --output y --explain"


def test_docker_without_an_engine(copied: Path) -> None:
    answer = tfship("run", *QUICK, "--runtime", "docker", DOCKER_HOST="unix:///nonexistent")
    assert_said_once(answer, 4, "docker engine", "--runtime embedded")
    assert next_command(answer) == "tfship doctor"
    assert tfship("run", *QUICK, "--json").states["smoke_test"] == "cached", "a missing engine is no verdict"


def test_binary_without_one(copied: Path) -> None:
    answer = tfship("run", *QUICK, "--runtime", "binary", PATH="/nowhere")
    assert_said_once(answer, 4, "tensorflow_model_server", "--runtime docker or embedded")


def test_a_module_that_is_not_there() -> None:
    assert_said_once(tfship("run", "nosuch:Model"), 2, "SOURCE", "a module nosuch", "run from the folder")


@pytest.mark.parametrize(
    ("source", "code", "named"),
    [
        ("class M(\n", 2, ["mine.py", "'(' was never closed in line 1"]),
        ("class Other: pass\n", 2, ["mine.py", "a class M", "Other"]),
        ("DATA = compute()\nclass M: pass\n", 2, ["mine.py, line 1", "DATA"]),
        ("DATA = ('no.csv',)\nclass M: pass\n", 4, ["no.csv", "No such file"]),
        ("import nosuch_package\nDATA = ()\nclass M: pass\n", 1, ["nosuch_package", "mine.py, line 1"]),
        (
            "DATA = ()\nclass M:\n    hyperparameters = {}\n    def build(self, h): raise ValueError('my own trouble')\n"
            "    def probe(self): return {}\n",
            1,
            ["ValueError: my own trouble", "mine.py, line 4", "--verbose"],
        ),
        (
            "DATA = ()\nclass M:\n    def build(self, h): return 5\n    def probe(self): return {}\n",
            1,
            ["build()", "int"],
        ),
        ("DATA = ()\nclass M:\n    def build(self, h): pass\n", 2, ["mine:M", "no probe", "README"]),
        ("import os\nDATA = ()\nclass M:\n    def __init__(self): os._exit(7)\n", 1, ["exit code 7"]),
    ],
    ids=["syntax", "no class", "DATA", "no data", "import", "raises", "no graph", "no probe", "dies"],
)
def test_a_model_of_ones_own_that_is_wrong(folder: Path, source: str, code: int, named: list[str]) -> None:
    (folder / "mine.py").write_text(source)
    answer = tfship("run", "mine:M", "--no-server")
    assert_said_once(answer, code, *named)
    if code == 1:
        assert next_command(answer) == "tfship run mine:M --no-server --verbose"


def test_an_argument_in_another_encoding_is_named() -> None:
    assert_said_once(tfship("inspect", os.fsdecode(b"model\xff")), 2, "UTF-8", "'model\\udcff'", "ln -s")


@pytest.mark.parametrize("option", ["--store", "--serving-root"])
def test_a_folder_that_servers_take_for_a_pattern_is_refused(folder: Path, option: str) -> None:
    assert_said_once(tfship("run", *QUICK, option, "a[1]"), 2, option, "a[1]", f"{option} DIR")


def test_verbose_shows_what_the_child_printed(folder: Path) -> None:
    text = "DATA = ()\nclass M:\n    def __init__(self):\n        print('on its way')\n        raise KeyError('x')\n"
    (folder / "mine.py").write_text(text)
    plain = tfship("run", "mine:M", "--no-server")
    verbose = tfship("run", "mine:M", "--no-server", "--verbose")
    assert plain.code == verbose.code == 1
    assert "on its way" not in plain.err and "on its way" in verbose.err


def test_a_prefect_server_that_does_not_answer(shell: Callable[..., Shell]) -> None:
    environment = {"PREFECT_API_URL": "http://127.0.0.1:9/api", "PREFECT_HOME": "home"}
    answer = shell("run", "half_plus_two", environment=environment).answer()
    assert_said_once(answer, 4, "http://127.0.0.1:9/api", "PREFECT_API_URL", "--no-server")


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    place = folder / "disk"
    place.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", os.fsencode(place), b"tmpfs", 0, b"size=1m") != 0:
        pytest.skip(f"mounting a small disk: {os.strerror(ctypes.get_errno())}")
    yield place
    libc.umount2(os.fsencode(place), 2)


@contextlib.contextmanager
def free(disk: Path, size: int) -> Iterator[None]:
    """Leave `size` bytes on the disk."""
    ballast = disk / "ballast"
    ballast.write_bytes(b"\0" * max(0, shutil.disk_usage(disk).free - size))
    yield
    ballast.unlink()


@pytest.mark.root
def test_a_full_disk_is_named_and_the_next_run_completes(small_disk: Path) -> None:
    options = ["--store", small_disk / "store", "--serving-root", small_disk / "serving", "--json"]
    store, failed = small_disk / "store", []
    for size in (4, 20, 36, 52, 68, 84, 100):
        with free(small_disk, size * 1024):
            answer = tfship("run", *QUICK, *options)
            for manifest in store.glob("*/*/manifest.json"):
                Store(store).verify(manifest.parent, full=True)
        if answer.code == 0:
            break
        assert_said_once(answer, 4, "No space left on device", "free some space")
        failed += [name for name, state in answer.states.items() if state == "failed"]
    assert len(failed) >= 2 and len(set(failed)) >= 2, "finished steps are kept, and the next run gets further"
    answer = tfship("run", *QUICK, *options)
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["promotion"]["outcome"] in ("promoted", "unchanged")
