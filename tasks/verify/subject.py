"""One of several models that are compared, opened in its own child with the options that apply to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.adoption import from_code, source_graph, source_model
from tasks.adoption.source_model import SourceModel
from tasks.forms.detect import detect
from tasks.records.adoption import Found, ModelOptions
from tasks.records.forms import Form
from tasks.records.settings import SessionOptions
from tasks.records.signature import Signature
from tasks.user_code.source import ModelSource
from tasks.verify import pairing

OBJECTS = (Form.KERAS, Form.HDF5, Form.OBJECT_CHECKPOINT)


@dataclass(frozen=True)
class Subject:
    """`name` is the user's name for it; `given` and `code` are the options, as far as they apply to files of this kind."""

    name: str
    found: Found
    given: ModelOptions
    code: ModelSource | None
    options: SessionOptions


def subject(path: Path, given: ModelOptions, code: ModelSource | None, options: SessionOptions) -> Subject:
    """Find the model at `path`. Raises as `detect`."""
    found = detect(path)
    kept, kept_code = pairing.code_for(found, given, code)
    return Subject(str(path), found, kept, kept_code, options)


@contextmanager
def opened(one: Subject, scratch: Path) -> Iterator[tuple[SourceModel, tuple[str, ...]]]:
    """Open the model, and return it with the options that applied to it. Raises as `source_model.opened`."""
    given = pairing.given_for(_graph(one), one.given)
    with source_model.opened(one.found, given, one.code, one.options, scratch) as brought:
        yield brought, pairing.words(given, one.code)


def asked(brought: SourceModel) -> tuple[Signature, ...]:
    """Return the requested signatures of a model, with the dtypes that it has where it is opened."""
    return tuple(brought.live.signatures[one.key] for one in brought.requested)


def _graph(one: Subject) -> Any | None:
    if one.found.form in OBJECTS:
        return None
    return (
        from_code.graph(one.code, one.found).meta if one.code is not None else source_graph.graph(one.found, one.given)
    )
