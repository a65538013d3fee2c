"""Files that a server's flags name (such as `--model_config_file`), made from text for one server.

In the text `$MODEL_BASE_PATH` stands for the base path as that server sees it, which differs between runtimes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from string import Template


def filled(texts: Mapping[str, str], base_path: str) -> dict[str, str]:
    """Substitute the base path in the texts. Any other `$` is left as it is."""
    return {flag: Template(text).safe_substitute(MODEL_BASE_PATH=base_path) for flag, text in texts.items()}


def arguments(texts: Mapping[str, str], folder: str) -> list[str]:
    """Return the flags for the files, which lie in `folder` under the flags' names."""
    return [f"--{flag}={folder}/{flag}" for flag in texts]


class WrittenFiles:
    """The files in a temporary folder of this host, for a server that runs on it, until `remove`."""

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def write(self, texts: Mapping[str, str], base_path: Path) -> list[str]:
        """Write the files and return the flags that name them."""
        if not texts:
            return []
        self._folder = tempfile.TemporaryDirectory(prefix="tfship-flags-")
        for flag, text in filled(texts, str(base_path)).items():
            Path(self._folder.name, flag).write_text(text)
        return arguments(texts, self._folder.name)

    def remove(self) -> None:
        """Remove the files. May be called more than once."""
        if self._folder is not None:
            self._folder.cleanup()
