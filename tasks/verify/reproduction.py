"""A folder in which anybody repeats a refusal: the two forms, the probe, and a script that needs TensorFlow and numpy alone.

reproduce.py      the script, a copy of `reproduce.py` beside this module
reproduce.json    what it compares: the first form that diverged, at its first failing output or variable
probe.npz         the inputs of that signature, strings apart, which are in the JSON
source/ candidate/    the forms; one larger than 256 MiB stays where it is, named with the SHA-256 of its files
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tasks.artifacts.hashes import hash_file
from tasks.records.adoption import Found, ModelOptions
from tasks.records.forms import Form
from tasks.records.parity import ParityRow, ParityTest, Tolerance
from tasks.records.signature import GraphNames, Signature
from tasks.tensors.tensor_file import Tensors

SCRIPT, FACTS, PROBE = "reproduce.py", "reproduce.json", "probe.npz"
_LARGEST = 256 * 2**20


@dataclass(frozen=True)
class Side:
    """A form: its kind, its file, folder or checkpoint prefix, and its signature by the tensors of its own graph.

    `graph` is the `.meta` of a Saver checkpoint, `model` the name under which a server has the model. `keys` maps variables to
    their names in a checkpoint, `assets` tensors to the files that are fed there.
    """

    name: str
    kind: Literal["saver", "frozen", "saved_model", "keras", "served"]
    path: Path
    signature: Signature | None
    graph: Path | None = None
    tags: tuple[str, ...] = ("serve",)
    table_init: str | None = None
    assets: Mapping[str, Path] = field(default_factory=dict)
    pins: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    model: str = "model"


def write(
    folder: Path, source: Side, candidate: Side, row: ParityRow, probe: Tensors, tolerance: Tolerance
) -> Path | None:
    """Write the folder for a row that differs, and return the script; None where neither an output nor a variable differs.

    `folder` must not exist. `probe` holds the inputs of the row's signature. Raises OSError.
    """
    of_variable = row.test is ParityTest.VALUES and not row.output.startswith("asset ")
    of_output = source.signature is not None and row.output in source.signature.outputs
    if not of_variable and not of_output:
        return None
    folder.mkdir(parents=True)
    numbers = {name: rows for name, rows in probe.items() if rows.dtype.kind not in "OSU"}
    texts = {name: rows for name, rows in probe.items() if name not in numbers}
    rows = {len(one) for one in probe.values() if one.ndim}
    at = row.worst.index[0] if row.worst and row.worst.index and len(rows) == 1 else None
    spec = source.signature.outputs.get(row.output) if source.signature else None
    exact = row.test is not ParityTest.SERVED
    limit = tolerance.of(row.signature, row.output)
    facts = {
        "signature": row.signature,
        "output": "" if of_variable else row.output,
        "variable": row.output if of_variable else "",
        "dtype": spec.dtype if spec else "",
        "row": at if at is not None and at < min(rows) else None,
        "rows": min(rows) if rows else 0,
        "tolerance": ([0.0], [0.0]) if exact else (limit.absolute, limit.relative),
        "strings": {
            name: [base64.b64encode(one).decode() for one in rows.ravel().tolist()] for name, rows in texts.items()
        },
        "shapes": {name: rows.shape for name, rows in texts.items()},
        "source": _side(folder, "source", source),
        "candidate": _side(folder, "candidate", candidate),
    }
    np.savez(folder / PROBE, allow_pickle=False, **numbers)
    (folder / FACTS).write_text(json.dumps(facts, indent=1))
    shutil.copyfile(Path(__file__).with_name(SCRIPT), folder / SCRIPT)
    return folder / SCRIPT


def side_of(found: Found, given: ModelOptions, name: str, signature: Signature) -> Side | None:
    """Return the Side of a model as it was found; None for one that a script cannot open, as it needs code or another file."""
    kind: Literal["saver", "frozen", "saved_model", "keras"] | None = None
    if found.form.of_saver:
        kind = "saver" if found.meta is not None else None
    elif found.form.of_keras:
        kind = "keras"
    elif found.form in (Form.GRAPH_DEF, Form.SAVED_MODEL):
        kind = "frozen" if found.form is Form.GRAPH_DEF else "saved_model"
    if kind is None:
        return None
    pins = {f"{tensor.removesuffix(':0')}:0": value for tensor, value in given.pins.items()}
    return Side(name, kind, found.path, signature, graph=found.meta, tags=given.tags or ("serve",), pins=pins)


def source_of_run(graph: Path, prefix: Path, names: GraphNames, signature: str, assets: Path, name: str) -> Side:
    """Return the Side of a training run, which holds the source model flattened: its graph and a checkpoint."""
    return Side(
        name=name,
        kind="saver",
        path=prefix,
        signature=next((one for one in names.signatures if one.key == signature), None),
        graph=graph,
        table_init=names.table_init,
        assets={asset.tensor: assets / asset.filename for asset in names.assets},
    )


def _side(folder: Path, name: str, side: Side) -> dict[str, Any]:
    """Copy a form into the folder, if it is not too large, and return what the script reads of it."""
    if side.kind == "served":
        files: list[Path] = []
    elif side.path.is_dir():
        files = sorted(path for path in side.path.rglob("*") if path.is_file())
    elif side.path.is_file():
        files = [side.path]
    else:
        files = sorted(path for path in side.path.parent.glob(f"{side.path.name}*") if path.is_file())
    root = side.path if side.path.is_dir() else side.path.parent
    large = sum(path.stat().st_size for path in files) > _LARGEST
    place = folder / name
    place.mkdir()
    copied = {} if large else {path: place / "model" / path.relative_to(root) for path in files}
    for path, copy in copied.items():
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    where = side.path if large or not files else place / "model" / side.path.relative_to(root)
    return {
        "name": side.name,
        "form": side.kind,
        "path": str(where.relative_to(folder) if where.is_relative_to(folder) else where.absolute()),
        "sha256": {str(path): hash_file(path) for path in files} if large else {},
        "graph": _copied(folder, place, [side.graph]).get(side.graph) if side.graph else None,
        "tags": side.tags,
        "inputs": {alias: spec.tensor for alias, spec in side.signature.inputs.items()} if side.signature else {},
        "outputs": {alias: spec.tensor for alias, spec in side.signature.outputs.items()} if side.signature else {},
        "table_init": side.table_init if side.kind != "saved_model" else None,
        "assets": {
            tensor: _copied(folder, place / "assets", [path])[path]
            for tensor, path in (side.assets.items() if side.kind != "saved_model" else ())
        },
        "pins": {tensor: np.asarray(pinned).tolist() for tensor, pinned in side.pins.items()},
        "keys": dict(side.keys),
        "model": side.model,
    }


def _copied(folder: Path, place: Path, files: Iterable[Path]) -> dict[Path, str]:
    place.mkdir(exist_ok=True)
    return {path: str(Path(shutil.copyfile(path, place / path.name)).relative_to(folder)) for path in files}
