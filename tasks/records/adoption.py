"""A model that the user brings: which files it is, what he says of it, what is found in it and proposed for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from tasks.records.base import Record
from tasks.records.forms import Form
from tasks.records.signature import Signature


class Found(Record):
    """What a path turned out to be, by its structure.

    `path` is the model's own folder or file, for a checkpoint its prefix; `files` are all that belong to it; `meta` the
    `.meta` beside a checkpoint. `chosen` says which checkpoint was taken and why, `available` names all that are there, `notes` what the user should know.
    """

    form: Form
    path: Path
    files: tuple[Path, ...]
    meta: Path | None = None
    chosen: str = ""
    available: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class ModelFiles(Record):
    """Where a brought model is, and under which name it goes; `step` chooses among several checkpoints.

    The path is not part of the record's JSON, and so of no key: a model that was moved is the same model.
    """

    name: str
    path: Path = Field(exclude=True)
    step: int | None = None


class Given(Record):
    """What the user says of a model that he brings; what he leaves out is taken from the model, or asked for.

    `inputs` and `outputs` are `NAME[:shape[:dtype]]` or `ALIAS=NAME…`, where NAME is a tensor or an operation; `pins`
    are values for placeholders that are no inputs (dropout's keep probability); `signature` chooses among those that
    the model declares, `tags` the MetaGraph of a SavedModel. `graph` is a GraphDef file for a checkpoint without one,
    `model` Python code (`module:Model`) for one, `var_map` a YAML or JSON file: variable's name -> checkpoint's key.
    `allow_nonfinite` declares that NaN and infinities are legitimate answers. Paths are in no key; what they hold is.
    """

    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    pins: dict[str, Any] = Field(default_factory=dict)
    signature: str | None = None
    tags: tuple[str, ...] | None = None
    graph: Path | None = Field(None, exclude=True)
    model: str | None = None
    var_map: Path | None = Field(None, exclude=True)
    allow_nonfinite: bool = False


class ProbeSource(Record):
    """Where the probe comes from: a file, else warmup requests, else drawn with a seed."""

    file: Path | None = Field(None, exclude=True)
    rows: int = Field(default=50, ge=1)
    seed: int = 0


class Candidate(Record):
    """A tensor that may be an input, an output or want a pin, and why it is thought so.

    `value` is the proposed pin. Candidates come ranked, the likeliest first.
    """

    tensor: str
    dtype: str
    shape: tuple[int | None, ...] | None
    why: str
    value: Any = None


class Proposal(Record):
    """What a graph says, or lets guess, of its signatures.

    `declared` are its SignatureDefs; `collected` tensors that its collections name as inputs or outputs; `inputs`,
    `outputs` and `pins` are guesses by rank. A guess is never shipped unasked.
    """

    declared: tuple[Signature, ...] = ()
    collected: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    inputs: tuple[Candidate, ...] = ()
    outputs: tuple[Candidate, ...] = ()
    pins: tuple[Candidate, ...] = ()


class OpsFound(Record):
    """What a scan of a graph and its function library found, without running anything.

    `unknown`: op -> the library that is known to define it ("" where none is); `no_kernel`: registered ops that have no
    CPU kernel here. `unsafe`: `node (op)` of what touches files or runs Python, as far as the given targets reach it;
    `train_mode`: nodes that behave otherwise while training.
    """

    counts: dict[str, int] = Field(default_factory=dict)
    unknown: dict[str, str] = Field(default_factory=dict)
    no_kernel: tuple[str, ...] = ()
    unsafe: tuple[str, ...] = ()
    train_mode: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()


class Adopted(Record):
    """How a brought model was read: `adopted.json` in the run that adopt leaves.

    `source` names the file or folder, `chosen` says which checkpoint and why; `pins` are what was pinned, by tensor.
    """

    form: Form
    source: str
    chosen: str
    available: tuple[str, ...] = ()
    pins: dict[str, Any] = Field(default_factory=dict)
    probe: str = ""
    written_by: str = ""
    notes: tuple[str, ...] = ()
