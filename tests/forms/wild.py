"""The folder of models from the wild, for the tests that want it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FOLDER = os.environ.get("TFSHIP_CORPUS")


@pytest.fixture
def wild() -> Path:
    """The corpus; without it the test is skipped."""
    if not FOLDER:
        pytest.skip("TFSHIP_CORPUS does not name the folder of models from the wild")
    folder = Path(FOLDER).resolve()
    assert folder.is_dir(), f"TFSHIP_CORPUS={folder} is no folder"
    return folder
