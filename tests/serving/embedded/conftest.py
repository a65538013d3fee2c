"""The models that these tests serve, made once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of SavedModels without version directories: see makers/servables.py."""
    folder = tmp_path_factory.mktemp("models")
    script = Path(__file__).parents[2] / "makers" / "servables.py"
    made = subprocess.run([sys.executable, str(script), str(folder)], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return folder
