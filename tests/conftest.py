"""What every test may ask for: a store of its own, and a run that its steps belong to."""

from __future__ import annotations

import os
from collections.abc import Iterator
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


class Lanes(LoadScopeScheduling):  # type: ignore[misc]
    """Tests by lane: a file's share what they set up, and all that talk to the Docker engine share that."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "engine" if "runtimes" in file or "docker_engine" in file else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Lanes:
    """How `-n` deals the tests out."""
    return Lanes(config, log)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what tests recorded of themselves: a lane's own stdout is not seen."""
    for reports in list(terminalreporter.stats.values()):
        for report in reports:
            if getattr(report, "when", None) == "call":
                for name, value in report.user_properties:
                    terminalreporter.write_line(f"{name} {value}")


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
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """One SundayNet in every form."""
    return make(tmp_path_factory.mktemp("chain"))


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
