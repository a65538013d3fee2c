"""Loading one version, again and again if need be (`Retry` in tensorflow_serving/util/retrier.cc)."""

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
    """How versions are loaded: `read(name, version, path)`, and after how many retries, how far apart, it is given up."""

    read: Callable[[str, int, Path], Servable]
    max_retries: int
    retry_interval_seconds: float

    def load(self, version: Version, waited_in_vain: Callable[[float], bool]) -> Servable | None:
        """The loaded version, or None with the last failure in `version.error`.

        `waited_in_vain(seconds)` waits for the next try and says whether the version is no longer wanted.
        """
        what = f"Loading servable: {version}"
        for attempt in range(self.max_retries + 1):
            if attempt:
                if waited_in_vain(self.retry_interval_seconds):
                    log.info(f"Retrying of {what} was cancelled.")
                    return None
                log.info(f"Retrying of {what} retry: {attempt}")
            try:
                servable = self.read(version.name, version.number, version.path)
            except ServingError as error:
                version.error = error
            except Exception as error:  # the loader outlives whatever a model makes TensorFlow raise
                version.error = ServingError(Code.INTERNAL, f"{type(error).__name__}: {error}")
            else:
                version.error = None
                return servable
            log.error(f"{what} failed: {version.error}")
        log.info(f"Retrying of {what} exhausted max_num_retries: {self.max_retries}")
        return None
