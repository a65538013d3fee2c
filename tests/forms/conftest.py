from __future__ import annotations

from collections.abc import Iterator

import pytest

from tasks.step import Run, running
from tests.forms.chain import Chain, make
from tests.silent import Silent


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """One SundayNet in every form."""
    return make(tmp_path_factory.mktemp("chain"))


@pytest.fixture
def in_run(chain: Chain) -> Iterator[Run]:
    """A run on the chain's store."""
    with running(Run("test", chain.store, Silent())) as entered:
        yield entered
