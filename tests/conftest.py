"""What every test may ask for: a store of its own, and a run that its steps belong to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tasks import isolate
from tasks.artifacts.store import Store
from tasks.step import Run, running
from tests.silent import Silent

# The same examples every time and no clock: what fails here fails for everybody, on a busy machine as on an idle one.
settings.register_profile(
    "tfship", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tfship")


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups when it gets the items
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file's tests share what they set up, and all that talk to the Docker engine share that: one process for each."""
    for item in items:
        where = item.path.parent.name
        item.add_marker(pytest.mark.xdist_group("engine" if where in ("contract", "engine") else str(item.path)))


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
