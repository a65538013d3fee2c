"""An observer for tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.records.run import StepOutcome


class Silent:
    """An observer that keeps what it was shown and prints nothing."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, Any]] = []

    def started(self, name: str) -> None:
        self.shown.append(("started", name))

    def progress(self, name: str, facts: Mapping[str, Any]) -> None:
        self.shown.append(("progress", (name, dict(facts))))

    def ended(self, outcome: StepOutcome) -> None:
        self.shown.append(("ended", outcome.name))
