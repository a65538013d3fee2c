"""What a user can set for a step: the step parameters, with their defaults. `flows/config.py` reads them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from tasks.records.base import Record


class SaverPolicy(Record):
    """How often and how `tf.compat.v1.train.Saver` writes checkpoints, in its own words.

    A checkpoint is written every `every_steps` optimiser updates, or every `every_seconds` seconds where that is
    given, and always after the last one. `var_list` names the variables to save (None: all of them).
    """

    max_to_keep: int = Field(default=5, ge=1)
    keep_checkpoint_every_n_hours: float = Field(default=10000.0, gt=0)
    every_steps: int = Field(default=100, ge=1)
    every_seconds: float | None = Field(default=None, gt=0)
    sharded: bool = False
    write_version: Literal["V1", "V2"] = "V2"
    var_list: tuple[str, ...] | None = None


class SessionOptions(Record):
    """What every session that computes a baseline or an exact comparison runs on; 0 threads lets TensorFlow decide.

    `device` (`/CPU:0`, `/GPU:1`) is the only one that may compute; without it TensorFlow places operations as it likes.
    `memory_growth` takes a GPU's memory as it is needed, `allow_soft_placement` runs elsewhere what a device cannot.
    """

    intra_op_threads: int = Field(default=0, ge=0)
    inter_op_threads: int = Field(default=0, ge=0)
    device: str | None = Field(default=None, pattern=r"^/(device:)?(CPU|GPU):\d+$")
    memory_growth: bool = True
    allow_soft_placement: bool = True


class Training(Record):
    """How to train. `steps` is the final global step (None: the model's own), `hyperparameters` override the model's.

    `data` names files beyond those the model declares; their contents are part of train's key.

    `start` is a checkpoint that training begins from (a prefix, its file or its folder; `start_step` chooses among
    several). Where code builds the graph, its variables are restored that `restore` names, by name or pattern (None:
    every model variable that is the same there), and the rest is initialised. Without code training goes on in the
    checkpoint's own graph: `batches` is a file with what the train op is fed, cut into `batch_size` rows a step;
    `train_op` and `loss` name what the graph's collections leave open. What the files hold is part of the key, their
    paths are not.
    """

    steps: int | None = Field(default=None, ge=0)
    seed: int = 0
    hyperparameters: dict[str, Any] = Field(default_factory=dict)
    data: tuple[Path, ...] = ()
    start: Path | None = Field(default=None, exclude=True)
    start_step: int | None = Field(default=None, ge=0)
    restore: tuple[str, ...] | None = None
    batches: Path | None = Field(default=None, exclude=True)
    batch_size: int = Field(default=32, ge=1)
    train_op: str | None = None
    loss: str | None = None
    saver: SaverPolicy = SaverPolicy()
    session: SessionOptions = SessionOptions()


class LabelledData(Record):
    """Rows with labels, on which the model's quality is measured: any file that a probe may come from.

    `label` names the labels in it (None: the usual names). What the file holds is part of the key, its path is not.
    """

    file: Path | None = Field(default=None, exclude=True)
    label: str | None = None
    batch: int = Field(default=64, ge=1)


class Target(StrEnum):
    """A form that a run can write: the first two always, the others on request."""

    SAVED_MODEL = "saved_model"
    FROZEN = "frozen"
    SAVER_V2 = "saver_v2"
    SAVER_V1 = "saver_v1"
    KERAS = "keras"


class Selection(Record):
    """Which checkpoint to pin: `latest`, `best` by a validation metric, or a global step."""

    which: Literal["latest", "best"] | int = "latest"
    metric: str = "accuracy"
    mode: Literal["max", "min"] = "max"


class RuntimeChoice(StrEnum):
    """Which model server to test in."""

    AUTO = "auto"
    DOCKER = "docker"
    BINARY = "binary"
    EMBEDDED = "embedded"


Pull = Literal["missing", "always", "never"]


_OUR_FLAGS = {"port", "rest_api_port", "model_name", "model_base_path", "model_config_file"}


class Serving(Record):
    """How to smoke-test. Times in seconds, memory in bytes."""

    runtime: RuntimeChoice = RuntimeChoice.AUTO
    image: str | None = None
    pull: Pull = "missing"
    binary: Path | None = None
    load_timeout: float = Field(default=60.0, gt=0)
    request_timeout: float = Field(default=10.0, gt=0)
    latency_requests: int = Field(default=50, ge=1)
    memory: int = Field(default=4 * 2**30, gt=0)
    cpus: float = Field(default=2.0, gt=0)
    flags: tuple[str, ...] = ()

    @field_validator("flags")
    @classmethod
    def _ours(cls, flags: tuple[str, ...]) -> tuple[str, ...]:
        taken = sorted({flag.lstrip("-").partition("=")[0] for flag in flags} & _OUR_FLAGS)
        if taken:
            raise ValueError(f"flags that say neither what is served nor where, not {', '.join(taken)}")
        return flags


class Release(Record):
    """Where and how to promote. `force` needs a `reason`, which the journal keeps."""

    serving_root: Path
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    promote: bool = True
    allow_stand_in: bool = True
    force: bool = False
    reason: str = ""

    @model_validator(mode="after")
    def _forced_for_a_reason(self) -> Release:
        if self.force and not self.reason:
            raise ValueError("a reason where a promotion is forced (--force --reason TEXT)")
        return self
