"""What finding a model costs the process that looks, measured in children."""

from __future__ import annotations

import resource
from pathlib import Path

from tasks.errors import PipelineError
from tasks.forms.detect import detect


def grown_by_detecting(path: Path) -> tuple[int, str]:
    """By how many bytes the most memory that this process ever held has grown, and what was found."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        said = detect(path).form.value
    except PipelineError as error:
        said = str(error)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024, said
