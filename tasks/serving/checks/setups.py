"""The ways in which a server is started for a test: as production starts it, and without batching first."""

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
    """One way to start the server. `largest` is the most rows of one request, None where the server does not batch."""

    name: str
    serving: Serving
    largest: int | None = None

    def named(self, rows: Iterable[ParityRow]) -> list[ParityRow]:
        """The rows of a comparison in this setup."""
        if not self.name:
            return list(rows)
        return [row.model_copy(update={"candidate": f"{row.candidate}, {self.name}"}) for row in rows]


def setups(serving: Serving) -> Iterator[Setup]:
    """Yield the server as production has it; where that batches, first one without, so that a difference has a name."""
    serving = as_fetched(serving)
    without = tuple(flag for flag in serving.flags if not batches(flag))
    if without == serving.flags:
        yield Setup("", serving)
        return
    yield Setup("", serving.model_copy(update={"flags": without, "batching_parameters_file": None}))
    yield Setup("batching", serving, isolate.call(largest_request, serving.batching_parameters_file))


def as_fetched(serving: Serving) -> Serving:
    """The settings for an image that was fetched when its digest became part of the key: it is not pulled again."""
    return serving.model_copy(update={"pull": "never"})


def largest_request(parameters: Path | None) -> int:
    """In a child: the most rows that a batching server takes in one request.

    Raises:
        UsageError: the file is no BatchingParameters.
    """
    from tasks.serving.embedded.batching.session import BatchingParameters, read_parameters
    from tasks.serving.embedded.errors import ServingError

    try:
        return (read_parameters(parameters) if parameters else BatchingParameters()).queue.max_batch_size
    except ServingError as error:
        where = f"serving.batching_parameters_file {parameters}"
        raise UsageError(where, "BatchingParameters as text", error.message, "correct the file.") from None
