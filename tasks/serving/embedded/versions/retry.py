"""Load one version with retries (`Retry` in tensorflow_serving/util/retrier.cc)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tasks.serving.embedded import log
from tasks.serving.embedded.errors import Code, ServingError
from tasks.serving.embedded.versions.servable import Servable
from tasks.serving.embedded.versions.state import Version


@dataclass(frozen=True)
class Loading:
    """Load versions by `read(name, version, path)`, with a number of retries and an interval between them."""

    read: Callable[[str, int, Path], Servable]
    max_retries: int
    retry_interval_seconds: float

    def load(self, version: Version, cancelled: Callable[[float], bool]) -> Servable | None:
        """Return the loaded version, or None with the last failure in `version.error`.

        `cancelled(seconds)` waits for the next attempt and returns True once the version is no longer aspired.
        """
        what = f"Loading servable: {version}"
        for attempt in range(self.max_retries + 1):
            if attempt:
                if cancelled(self.retry_interval_seconds):
                    log.info(f"Retrying of {what} was cancelled.")
                    return None
                log.info(f"Retrying of {what} retry: {attempt}")
            try:
                servable = self.read(version.name, version.number, version.path)
            except ServingError as error:
                version.error = error
            except Exception as error:  # whatever a model makes TensorFlow raise must not end the loading thread
                version.error = ServingError(Code.INTERNAL, f"{type(error).__name__}: {error}")
            else:
                version.error = None
                return servable
            log.error(f"{what} failed: {version.error}")
        log.info(f"Retrying of {what} exhausted max_num_retries: {self.max_retries}")
        return None
