"""The kind of a file, by its bytes. No TensorFlow; nothing is executed.

Formats: tensor bundles and V1 checkpoints are leveldb tables (tensorflow/core/lib/io/format.h); GraphDef, MetaGraphDef
and SavedModel are protobufs of tensorflow/core/{framework,protobuf}, told apart by their first fields; `.keras` is a zip
with a config.json (keras/src/saving/saving_lib.py), HDF5 has a signature of its own.
"""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path

from tasks.errors import DamagedError
from tasks.forms import checkpoint_files, wire_format
from tasks.forms.checkpoint_table import is_table
from tasks.records.forms import Form

GRAPH_LIMIT = 2**31  # protobuf's limit on one message
_COMMENTS = rb"\s*(?:#[^\n]*\n\s*)*"  # one way only to match what it matches: else some files take for ever
TEXT = (
    (re.compile(_COMMENTS + rb"(node|versions|library)\s*\{"), Form.GRAPH_DEF),
    (re.compile(_COMMENTS + rb"(meta_info_def|graph_def)\s*\{"), Form.META_GRAPH),
    (re.compile(_COMMENTS + rb"(saved_model_schema_version\s*:|meta_graphs\s*\{)"), Form.SAVED_MODEL),
)
_META_INFO = {1: 2, 2: 2, 3: 2, 4: 2, 5: 2, 6: 2, 7: 0, 8: 2}  # MetaInfoDef: its fields' wire types
_ZIP_READ = 2**22  # of an archive's list of members at once: one of a model's has a few entries


def sniff(path: Path) -> Form | None:
    """Return the kind of a file, by its first bytes; None if TensorFlow did not write it.

    Raises:
        DamagedError: it is a graph of more than 2 GiB, or truncated.
    """
    with path.open("rb") as stream:
        head = stream.read(4096)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return Form.HDF5
    if head.startswith(b"PK\x03\x04"):
        return Form.KERAS if _is_keras(path) else None
    if is_table(path):
        return Form.SAVER_V1 if path.suffix != ".index" else None
    for pattern, written in TEXT:
        if pattern.match(head):
            return written
    form = _message(path)
    if form is not None:
        require_readable(path)
    return form


def require_readable(graph: Path) -> None:
    """Raise DamagedError for a graph that no protobuf library reads."""
    size = graph.stat().st_size
    if size >= GRAPH_LIMIT:
        found = f"{size / 2**30:.1f} GiB"
        raise DamagedError(str(graph), "a graph of less than 2 GiB, protobuf's limit", found, "save its weights apart.")


def _message(path: Path) -> Form | None:
    """Return which of the three messages a binary protobuf is, by its first field."""
    with path.open("rb") as stream:
        head = stream.read(1 << 16)
    try:
        first = next(wire_format.fields(head), None)
    except ValueError:
        return None
    if first is None:
        return None
    number, kind, payload = first
    if (number, kind) == (1, 0):  # saved_model_schema_version
        return Form.SAVED_MODEL
    if (number, kind) == (2, 2):  # a SavedModel or a MetaGraphDef without its first field
        return Form.META_GRAPH if path.suffix == checkpoint_files.META else Form.SAVED_MODEL
    if (number, kind) != (1, 2):
        return None
    try:
        within = list(wire_format.fields(payload))
    except ValueError:
        return None
    inner = {number: payload for number, kind, payload in within if kind == 2}
    name, operation = inner.get(1, b""), inner.get(2, b"")
    if re.fullmatch(rb"[A-Za-z0-9_.\\/>-]+", name) and re.fullmatch(rb"[A-Za-z0-9_>.-]+", operation):
        return Form.GRAPH_DEF  # a NodeDef: name and op
    # A text that begins with an empty line would have a first field, too.
    info = all(_META_INFO.get(number) == kind for number, kind, _ in within)
    return Form.META_GRAPH if info and inner.keys() & {1, 2, 4, 5, 6} else None


class _Sparing(io.FileIO):
    """A file that limits how much is read at once: zipfile reads the list of members at once, whatever its size."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _ZIP_READ:
            raise ValueError(f"{size} bytes at once")
        return super().read(size)


def _is_keras(path: Path) -> bool:
    try:
        with _Sparing(path) as stream, zipfile.ZipFile(stream) as archive:
            return "config.json" in archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False
