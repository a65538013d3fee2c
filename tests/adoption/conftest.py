"""What the tests of adoption share: models written once a session, and the flow over them in one store."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.adoption.shipping")

from tests.adoption.shipping import Shipyard  # noqa: E402


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
