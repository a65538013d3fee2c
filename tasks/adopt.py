"""adopt: take a source model, in whatever form TensorFlow saved it, and leave a training run, as train does.

Replaces train where a model was trained elsewhere. Layout: see `tasks/baseline/training_run.py`.
"""

from __future__ import annotations

from pathlib import Path

from tasks import isolate
from tasks.adoption import adopt as adoption
from tasks.adoption.digests import digests
from tasks.forms.detect import detect
from tasks.records.adoption import ModelFiles, ModelOptions, ProbeSource
from tasks.records.settings import SessionOptions
from tasks.step import Facts, current, step
from tasks.user_code import source as sources
from tasks.user_code.source import ModelSource

VERSION = 4


def _facts(
    files: ModelFiles, given: ModelOptions, probe: ProbeSource, session: SessionOptions, code: ModelSource | None
) -> Facts:
    values = digests(detect(files.path, files.step), (given.graph, given.var_map, probe.file), current().store.hashes)
    complete = True
    if code is not None:
        values["source"], complete = sources.digests(code)
    return Facts(values, digestible=complete)


@step(version=VERSION, verifies=True, facts=_facts)
def adopt(
    files: ModelFiles,
    given: ModelOptions,
    probe: ProbeSource,
    session: SessionOptions,
    code: ModelSource | None,
    out: Path,
) -> None:
    """Detect, open and flatten the model in `files`, and record its baseline."""
    isolate.call(
        adoption.adopt, detect(files.path, files.step), given, probe, session, code, out, current().store.hashes
    )
