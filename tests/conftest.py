"""How tests are dealt out to lanes, and what every test may ask for: a store, a run, and models that are made once."""

from __future__ import annotations

import fcntl
import os
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

from tasks import isolate
from tasks.artifacts.store import Store
from tasks.step import Run, running
from tests.adoption.pipeline import Shipyard
from tests.makers.chain import Chain, make
from tests.silent import Silent

# The same examples every time and no clock: what fails here fails for everybody, on a busy machine as on an idle one.
settings.register_profile(
    "tfship", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tfship")


MakeOnce = Callable[[str, Callable[[Path], object]], Path]
# Markers of what most hosts or users have not.
NEEDS = {
    "engine": (os.environ.get("TFSHIP_DOCKER") == "1", "needs a Docker engine: TFSHIP_DOCKER=1 says that there is one"),
    "root": (os.geteuid() == 0, "needs root, for it mounts"),
}
SLOWEST_SHOWN = 10
_EVERY = 3
# The longest files, which start first, so that no lane is left alone with one of them; the others follow by name.
LONGEST = (
    "serving/runtimes",
    "docker_engine",
    "serving/checks/test_mutants",
    "adoption/test_round_trips",
    "flows/test_prefect",
    "flows/cli/test_schedule",
    "flows/cli/test_signals",
    "forms/test_convert_objects",
    "serving/checks/test_fake_servers",
    "flows/cli/test_terminal",
    "adoption/test_corpus_answers",
    "serving/embedded/test_flags",
    "forms/test_keras",
    "test_rehearse",
    "training/test_multi_worker",
    "adoption/test_bad_input",
)


class Lanes(LoadScopeScheduling):  # type: ignore[misc]
    """Tests by lane: a file's share what they set up, and all that talk to the Docker engine share that."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "engine" if "runtimes" in file or "docker_engine" in file else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Lanes:
    """How `-n` deals the tests out."""
    return Lanes(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip, and say why, what needs more than there is; put the longest files first.

    Of the cases of a sweep every third is kept, always the same, unless SWEEPS=whole asks for all, as CI does.
    """
    if os.environ.get("SWEEPS") != "whole":
        swept = [item for item in items if item.get_closest_marker("sweep")]
        dropped = {item for item in swept if zlib.crc32(item.nodeid.encode()) % _EVERY}
        config.hook.pytest_deselected(items=list(dropped))
        items[:] = [item for item in items if item not in dropped]
    for item in items:
        for name, (there, needed) in NEEDS.items():
            if item.get_closest_marker(name) and not there:
                item.add_marker(pytest.mark.skip(reason=needed))
    items.sort(key=lambda item: next((at for at, name in enumerate(LONGEST) if name in item.nodeid), len(LONGEST)))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what tests recorded of themselves, for a lane's own stdout is not seen, and the slowest files."""
    seconds: Counter[str] = Counter()
    for reports in list(terminalreporter.stats.values()):
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[report.nodeid.partition("::")[0]] += report.duration  # type: ignore[assignment]
                for name, value in report.user_properties if report.when == "call" else ():
                    terminalreporter.write_line(f"{name} {value}")
    if len(seconds) > 1:
        terminalreporter.section(f"slowest {SLOWEST_SHOWN} files")
        for file, taken in seconds.most_common(SLOWEST_SHOWN):
            terminalreporter.write_line(f"{taken:.1f}s {file}")


@pytest.fixture
def warnings() -> list[str]:
    """What the `store` fixture warned of."""
    return []


@pytest.fixture
def store(tmp_path: Path, warnings: list[str]) -> Store:
    """An empty store."""
    return Store(tmp_path / "store", warn=warnings.append)


@pytest.fixture
def run(store: Store) -> Iterator[Run]:
    """A run on `store` that the test's steps belong to."""
    with running(Run("test", store, Silent())) as entered:
        yield entered


@pytest.fixture(scope="session", autouse=True)
def _no_server_outlives_the_session() -> Iterator[None]:
    yield
    isolate.shutdown()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that all lanes of a session have in common."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def made_once(shared: Path) -> MakeOnce:
    """`made_once(name, make)`: the folder of that name which `make` filled, in whichever lane asked first."""

    def once(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = shared / name, shared / f"{name}.made"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return once


@pytest.fixture(scope="session")
def chain(shared: Path) -> Chain:
    """One SundayNet in every form, in a store that all lanes share: each step is made by the lane that needs it first."""
    return make(shared / "chain")


@pytest.fixture
def in_run(chain: Chain) -> Iterator[Run]:
    """A run on the chain's store."""
    with running(Run("test", chain.store, Silent())) as entered:
        yield entered


@pytest.fixture(scope="session")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Shipyard:
    """Every way of writing a model, each taken when it is first asked for; one store for all."""
    return Shipyard(tmp_path_factory.mktemp("adoption"))


@pytest.fixture(scope="session")
def wild() -> Path:
    """The corpus of real models; without it the test is skipped."""
    named = os.environ.get("TFSHIP_CORPUS")
    if not named:
        pytest.skip("TFSHIP_CORPUS does not name the folder of models from the wild")
    folder = Path(named).resolve()
    assert folder.is_dir(), f"TFSHIP_CORPUS={folder} is no folder"
    return folder
