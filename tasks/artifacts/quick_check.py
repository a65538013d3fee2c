"""Side files of the quick check: the `stat` fields of each file when it was last hashed. Local and disposable."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path

from tasks.artifacts import manifest as manifests

Seen = Mapping[str, tuple[int, ...]]


class Memory:
    """The side files in `folder`, one per artifact."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def recall(self, place: Path) -> Seen:
        """Return `stat_fields` by path for the artifact at `place`; empty if no readable side file exists."""
        try:
            known = manifests.read_json(self._side_file(place))
            return {name: tuple(fields) for name, fields in known.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def remember(self, place: Path, seen: Seen) -> None:
        """Store the `stat_fields` that the files of `place` had just before they were hashed."""
        side_file = self._side_file(place)
        scratch = side_file.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        with contextlib.suppress(OSError):  # without a side file the next check hashes again; nothing else is lost
            scratch.write_text(json.dumps(seen))
            scratch.replace(side_file)

    def _side_file(self, place: Path) -> Path:
        return self.folder / f"{place.parent.name}-{place.name}.json"
