"""adopt: take a model that somebody else trained, in whatever form it was saved, and leave what train leaves.

Stands in for train where files are brought. Layout: see `tasks/training/train.py`, and `adopted.json` (Adopted).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tasks import isolate
from tasks.adoption import adopt as adoption
from tasks.artifacts.manifest import hash_file
from tasks.errors import EnvironmentFailure
from tasks.forms.detect import detect
from tasks.records.adoption import Found, Given, ModelFiles, ProbeSource
from tasks.records.settings import SessionOptions
from tasks.step import Facts, step
from tasks.user_code import source as sources
from tasks.user_code.source import ModelSource

VERSION = 2


def _facts(
    files: ModelFiles, given: Given, probe: ProbeSource, session: SessionOptions, code: ModelSource | None
) -> Facts:
    values = digests(detect(files.path, files.step), (given.graph, given.var_map, probe.file))
    complete = True
    if code is not None:
        values["source"], complete = sources.digests(code)
    return Facts(values, digestible=complete)


@step(version=VERSION, verifies=True, facts=_facts)
def adopt(
    files: ModelFiles, given: Given, probe: ProbeSource, session: SessionOptions, code: ModelSource | None, out: Path
) -> None:
    """Detect, read, open, ask and flatten the model in `files`."""
    isolate.call(adoption.adopt, detect(files.path, files.step), given, probe, session, code, out)


def digests(found: Found, given: Sequence[Path | None]) -> dict[str, object]:
    """What a brought model and the files given beside it hold, wherever they are. Raises EnvironmentFailure."""
    base = found.path if found.path.is_dir() else found.path.parent
    return {
        "form": found.form.value,
        "chosen": found.path.name,
        "files": {str(path.relative_to(base)): _hash(path) for path in found.files},
        "given": [_hash(path) for path in _files(given)],
        "given as": [path is not None for path in given],
    }


def _files(paths: Iterable[Path | None]) -> list[Path]:
    """The files among them, a folder's own files for a folder (a SavedModel given as the graph)."""
    given = [path for path in paths if path is not None]
    return [
        file for path in given for file in (sorted(path.rglob("*")) if path.is_dir() else [path]) if not file.is_dir()
    ]


def _hash(path: Path) -> str:
    try:
        return hash_file(path)
    except OSError as error:
        raise EnvironmentFailure.from_os(error, str(path)) from None
