"""What tests of the store share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.artifacts import hashes


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were read in full to be hashed."""
    names: list[str] = []
    hash_file = hashes.hash_file

    def counting(path: Path) -> str:
        names.append(path.name)
        return hash_file(path)

    monkeypatch.setattr(hashes, "hash_file", counting)
    return names
