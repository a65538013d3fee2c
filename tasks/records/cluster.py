"""The workers that train one model together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cluster:
    """The addresses of the workers, and the index of this process among them; the first is the chief.

    `text` is TF_CONFIG as it was read; `seconds` is how long a worker waits for the others.
    """

    workers: tuple[str, ...] = ()
    index: int = 0
    text: str = ""
    seconds: float = 300.0

    @property
    def several(self) -> bool:
        """True if there is more than one worker."""
        return len(self.workers) > 1

    def __str__(self) -> str:
        return f"worker {self.index} of {len(self.workers)}"
