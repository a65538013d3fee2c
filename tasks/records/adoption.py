"""A source model: its files, the options that the user gives for it, and what is found in it and proposed for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from tasks.records.base import Record
from tasks.records.forms import Form
from tasks.records.signature import Impurity, Signature


class Found(Record):
    """The model that a path holds, detected by structure.

    `path` is the model's own folder or file, or the prefix of a checkpoint; `files` are all files that belong to it;
    `meta` is the `.meta` file of a checkpoint. `chosen` says which checkpoint was selected and why, `available` lists
    all of them, `notes` holds remarks for the user.
    """

    form: Form
    path: Path
    files: tuple[Path, ...]
    meta: Path | None = None
    chosen: str = ""
    available: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class ModelFiles(Record):
    """The path and the name of a source model; `step` selects one of several checkpoints.

    The path is not part of the record's JSON and so of no key: a model that was moved is the same model.
    """

    name: str
    path: Path = Field(exclude=True)
    step: int | None = None


class ModelOptions(Record):
    """Options for a source model. Those left out are taken from the model or requested from the user.

    `inputs` and `outputs` are `NAME[:shape[:dtype]]` or `ALIAS=NAME…`, where NAME is a tensor or an operation. `pins`
    are values of placeholders that are not inputs (the keep probability of dropout). `signature` selects one of the
    signatures that the model declares, `tags` the MetaGraph of a SavedModel. `graph` is a GraphDef file for a checkpoint
    without `.meta`, `model` is Python code (`module:Model`) for one, `var_map` a YAML or JSON file that maps names of
    variables to keys of the checkpoint. `allow_nonfinite` declares that NaN and infinities are legitimate answers, `impure`
    that outputs may depend on more than the inputs.
    Paths are in no key; the contents of the files are.
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
    impure: tuple[Impurity, ...] = ()


class ProbeSource(Record):
    """The source of the probe: a file, otherwise the model's warmup requests, otherwise drawn with a seed."""

    file: Path | None = Field(None, exclude=True)
    rows: int = Field(default=50, ge=1)
    seed: int = 0


class Candidate(Record):
    """A tensor proposed as an input, an output or a pin, and the reason.

    `value` is the proposed value of a pin. Candidates are ranked, the likeliest first.
    """

    tensor: str
    dtype: str
    shape: tuple[int | None, ...] | None
    why: str
    value: Any = None


class Proposal(Record):
    """The signatures that a graph declares or suggests.

    `declared` are its SignatureDefs; `collected` are tensors that its collections name as inputs or outputs; `inputs`,
    `outputs` and `pins` are ranked guesses. A guess is never shipped without the user's consent.
    """

    declared: tuple[Signature, ...] = ()
    collected: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    inputs: tuple[Candidate, ...] = ()
    outputs: tuple[Candidate, ...] = ()
    pins: tuple[Candidate, ...] = ()


class OpsFound(Record):
    """The result of scanning a graph and its function library, without running anything.

    `unknown` maps an unregistered op to the library that is known to define it, or to ""; `no_kernel` are registered ops
    that have no CPU kernel here. `unsafe` lists, as `node (op)`, what touches files or the network or runs Python and is
    reached from the targets, `of_saver` those among them that save and restore checkpoints, as every Saver's do; `train_mode` lists nodes that behave differently during training.
    """

    counts: dict[str, int] = Field(default_factory=dict)
    unknown: dict[str, str] = Field(default_factory=dict)
    no_kernel: tuple[str, ...] = ()
    unsafe: tuple[str, ...] = ()
    of_saver: tuple[str, ...] = ()
    train_mode: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()


class Adopted(Record):
    """How a source model was read: `adopted.json` in the training run that adopt leaves.

    `source` names the file or folder, `chosen` says which checkpoint was selected and why; `pins` maps tensors to their
    pinned values.
    """

    form: Form
    source: str
    chosen: str
    available: tuple[str, ...] = ()
    pins: dict[str, Any] = Field(default_factory=dict)
    probe: str = ""
    written_by: str = ""
    notes: tuple[str, ...] = ()
