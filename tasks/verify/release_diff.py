"""What changed between two SavedModels that need not be equal: two releases of one model.

Ops, signatures and stored values are read from the files, in a child; outputs are computed on one probe, and not judged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tasks import isolate
from tasks.errors import PipelineError
from tasks.forms import saved_model, saver
from tasks.graphs import graph as graphs
from tasks.parity import compare
from tasks.records.adoption import ModelOptions, ProbeSource
from tasks.records.base import Record
from tasks.records.parity import ParityRow, ParityTest, Tolerance
from tasks.records.settings import SessionOptions
from tasks.records.signature import Signature, TensorSpec
from tasks.verify import compare_models

_BOOKKEEPING = ("_CHECKPOINTABLE_OBJECT_GRAPH", "save_counter/")


class TensorChange(Record):
    """A stored tensor that differs: its norm before and after, and the norm of the difference.

    A side that has no such tensor, or one of another dtype or shape, has no difference: None. So have strings.
    """

    name: str
    before: str
    after: str
    norm_before: float | None = None
    norm_after: float | None = None
    distance: float | None = None


class FileChanges(Record):
    """What the files of two SavedModels differ in. `ops` maps an op to its number before and after, where they differ."""

    ops: dict[str, tuple[int, int]]
    signatures: tuple[str, ...]
    tensors: tuple[TensorChange, ...]
    same_tensors: int


class ReleaseDiff(Record):
    """What changed between two releases; `outputs` are on `probe`, with a row for each output that both have.

    `note` says why no outputs were compared, where none were.
    """

    files: FileChanges
    probe: str = ""
    outputs: tuple[ParityRow, ...] = ()
    note: str = ""

    @property
    def equal(self) -> bool:
        """True if nothing that was looked at has changed, and the outputs were looked at."""
        changes = self.files
        same = not (changes.ops or changes.signatures or changes.tensors)
        return (
            same
            and bool(self.outputs)
            and all(
                row.passed is not None and row.compared and row.max_abs == 0 and not row.mismatched
                for row in self.outputs
            )
        )


def diff(before: Path, after: Path, probe: ProbeSource) -> ReleaseDiff:
    """Return what changed from one SavedModel to the other.

    Raises:
        DamagedError: a file cannot be read.
        EnvironmentFailure: this machine cannot read it now.
    """
    files = isolate.call(file_changes, before, after)
    exact = Tolerance(absolute=0.0, relative=0.0)
    try:
        found = compare_models.compare([before, after], ModelOptions(), None, SessionOptions(), probe, exact)
    except PipelineError as error:
        return ReleaseDiff(files=files, note=f"outputs were not compared: {error.where}: {error.found}")
    (other,) = found.candidates
    rows = tuple(row for row in other.rows if row.test is not ParityTest.VALUES)
    return ReleaseDiff(files=files, probe=found.baseline.probe, outputs=rows)


def file_changes(before: Path, after: Path) -> FileChanges:
    """In a child: compare two SavedModels by their files; tensors are read one at a time. Raises as `diff`."""
    old, new = (_ops(folder) for folder in (before, after))
    ops = {op: (old[op], new[op]) for op in sorted(old | new) if old[op] != new[op]}
    tensors, same = list[TensorChange](), 0
    for change in _tensors(before, after):
        if change is None:
            same += 1
        else:
            tensors.append(change)
    return FileChanges(ops=ops, signatures=tuple(_signatures(before, after)), tensors=tuple(tensors), same_tensors=same)


def _ops(folder: Path) -> Counter[str]:
    return Counter(node.op for node in graphs.Graph(saved_model.meta_graph(folder).graph_def).every_node())


def _signatures(before: Path, after: Path) -> Iterator[str]:
    old, new = ({one.key: one for one in saved_model.signatures(folder)} for folder in (before, after))
    for key in sorted(old.keys() | new.keys()):
        if key not in new:
            yield f"{key} is gone"
        elif key not in old:
            yield f"{key} is new"
        else:
            yield from _signature(old[key], new[key])


def _signature(old: Signature, new: Signature) -> Iterator[str]:
    if old.method != new.method:
        yield f"{old.key}: method {old.method.value}, now {new.method.value}"
    for side, had, has in (("input", old.inputs, new.inputs), ("output", old.outputs, new.outputs)):
        for name in sorted(had.keys() | has.keys()):
            was, now = (_words(specs.get(name)) for specs in (had, has))
            if was != now:
                yield f"{old.key}: {side} {name} {was}, now {now}"


def _words(spec: TensorSpec | None) -> str:
    if spec is None:
        return "none"
    shape = "of any rank" if spec.shape is None else [size if size is not None else "?" for size in spec.shape]
    return f"{spec.dtype} {shape}".replace("'", "")


def _tensors(before: Path, after: Path) -> Iterator[TensorChange | None]:
    """Yield the change of each stored tensor, None for one that has none."""
    old, new = (saved_model.declared_tensors(folder) for folder in (before, after))
    prefixes = [folder / "variables" / "variables" for folder in (before, after)]
    readers = [saver.reader(prefix) for prefix in prefixes]
    for name in sorted(old.keys() | new.keys()):
        if name.startswith(_BOOKKEEPING):
            continue
        was, now = (f"{told[name][0]} {list(told[name][1])}" if name in told else "none" for told in (old, new))
        if was != now:
            yield TensorChange(name=name, before=was, after=now)
            continue
        first, second = (saver.read(reader, name, prefix) for reader, prefix in zip(readers, prefixes, strict=True))
        if first.tobytes() == second.tobytes() if first.dtype != object else np.array_equal(first, second):
            yield None
        elif first.dtype == object:
            yield TensorChange(name=name, before=was, after=now)
        else:
            a, b = compare.wide(first), compare.wide(second)
            norms = (float(np.linalg.norm(one.ravel())) for one in (a, b, b - a))
            names = ("norm_before", "norm_after", "distance")
            yield TensorChange(name=name, before=was, after=now, **dict(zip(names, norms, strict=True)))
