"""The words that a graph's lookup tables know, from its constants and its asset files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tasks.graphs import graph as graphs
from tasks.graphs.dataflow import Dataflow, Scope
from tasks.graphs.protos import MetaGraphDef, NodeDef

_WHOLE_LINE = -2  # tensorflow/core/kernels/lookup_util.h
_MOST_WORDS = 1000


class Vocabularies:
    """Keys by table. `assets` are the asset files by the name of the tensor that holds their path, or by file name."""

    def __init__(self, flow: Dataflow, meta: MetaGraphDef, assets: Mapping[str, Path]) -> None:
        self._flow, self._assets = flow, assets
        self._filenames = {
            entry.tensor_info.name.partition(":")[0]: entry.filename for entry in getattr(meta, "asset_file_def", ())
        }
        self._initialisers: dict[str, tuple[Scope, NodeDef]] | None = None

    def of(self, scope: Scope, handle: str) -> list[bytes]:
        """Return some words that the table knows; empty if its words are unknown."""
        if self._initialisers is None:
            self._initialisers = {}
            for at, node in self._flow.everywhere():
                if node.op.startswith("InitializeTable") or node.op in ("LookupTableImport", "LookupTableImportV2"):
                    for name in self._names(at, node.input[0]):
                        self._initialisers.setdefault(name, (at, node))
        for name in self._names(scope, handle):
            if name in self._initialisers:
                return self._words(*self._initialisers[name])
        return []

    def _names(self, scope: Scope, handle: str) -> list[str]:
        """Return the names of a table: its node, which functions take as an argument, and the name that it shares."""
        found = self._flow.origin(scope, handle)
        if found is None:
            return []
        at, node = found
        shared = graphs.attribute(node, "shared_name").s.decode(errors="replace")
        return ([f"node {node.name}"] if at.caller is None else []) + ([f"shared {shared}"] if shared else [])

    def _words(self, scope: Scope, node: NodeDef) -> list[bytes]:
        if "TextFile" not in node.op:
            keys = self._flow.constant(scope, node.input[1])
            return (
                [bytes(key) for key in keys.ravel()[:_MOST_WORDS] if isinstance(key, bytes)] if keys is not None else []
            )
        path = self._file(scope, node.input[1])
        column = graphs.attribute(node, "key_index").i
        if path is None or not path.is_file() or column < _WHOLE_LINE or column == -1:
            return []
        delimiter = graphs.attribute(node, "delimiter").s or b"\t"
        words = []
        with path.open("rb") as lines:
            for line in lines:
                word = line.rstrip(b"\r\n")
                parts = [word] if column == _WHOLE_LINE else word.split(delimiter)
                words += parts[max(column, 0) : max(column, 0) + 1]
                if len(words) >= _MOST_WORDS:
                    break
        return words

    def _file(self, scope: Scope, tensor: str) -> Path | None:
        found = self._flow.origin(scope, tensor)
        if found is not None and found[1].op == "VarHandleOp":  # TF2 keeps an asset's path in a variable
            scope, assigned = found[0], found[0].body.readers.get(found[1].name, ())
            paths = [node.input[1] for node, position, _ in assigned if node.op == "AssignVariableOp" and position == 0]
            tensor = paths[0] if paths else tensor
            found = self._flow.origin(scope, tensor)
        if found is None:
            return None
        name = found[1].name
        stated = self._flow.constant(scope, tensor)
        path = Path(stated.item().decode(errors="replace")).name if stated is not None and stated.size == 1 else ""
        for key in (f"{name}:0", name, self._filenames.get(name, ""), path):
            if key and key in self._assets:
                return self._assets[key]
        return None
