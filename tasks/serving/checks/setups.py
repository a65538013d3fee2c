"""The ways to start a server for a test: without batching first, then as production starts it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks import isolate
from tasks.errors import UsageError
from tasks.records.parity import ParityRow
from tasks.records.settings import Serving, batches


@dataclass(frozen=True)
class Setup:
    """One way to start the server. `largest` is the most rows of one request, or None if the server does not batch."""

    name: str
    serving: Serving
    largest: int | None = None

    def named(self, rows: Iterable[ParityRow]) -> list[ParityRow]:
        """Add this setup's name to the candidates of the rows."""
        if not self.name:
            return list(rows)
        return [row.model_copy(update={"candidate": f"{row.candidate}, {self.name}"}) for row in rows]


def setups(serving: Serving) -> Iterator[Setup]:
    """Yield the production server; if it batches, first one without, so that a difference can be attributed."""
    serving = as_fetched(serving)
    without = tuple(flag for flag in serving.flags if not batches(flag))
    if without == serving.flags:
        yield Setup("", serving)
        return
    yield Setup("", serving.model_copy(update={"flags": without, "batching_parameters_file": None}))
    yield Setup("batching", serving, isolate.call(largest_request, serving.batching_parameters_file))


def as_fetched(serving: Serving) -> Serving:
    """Return the settings without a pull: the image was pulled when its digest became part of the key."""
    return serving.model_copy(update={"pull": "never"})


def largest_request(parameters: Path | None) -> int:
    """Return the most rows that a batching server takes in one request. Runs in a child.

    Raises:
        UsageError: the file does not hold BatchingParameters.
    """
    from tasks.serving.embedded.batching.session import BatchingParameters, read_parameters
    from tasks.serving.embedded.errors import ServingError

    try:
        return (read_parameters(parameters) if parameters else BatchingParameters()).queue.max_batch_size
    except ServingError as error:
        where = f"serving.batching_parameters_file {parameters}"
        raise UsageError(where, "BatchingParameters in text format", error.message, "correct the file.") from None
