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


_OUR_FLAGS = {"port", "rest_api_port", "model_name", "model_base_path"}
FILE_FLAGS = ("model_config_file", "batching_parameters_file", "monitoring_config_file")


def batches(flag: str) -> bool:
    """Whether a server's flag switches batching on."""
    return flag.lstrip("-") in ("enable_batching", "enable_batching=true")


class Gates(Record):
    """What a measured server may take at most, else the model is refused; None is no gate.

    `max_p99_ms` holds for every signature, protocol and batch size, one request at a time, `max_load_seconds` from the server's start to AVAILABLE,
    `max_rss_bytes` for the resident memory at its peak.
    """

    max_p99_ms: float | None = Field(default=None, gt=0)
    max_load_seconds: float | None = Field(default=None, gt=0)
    max_rss_bytes: int | None = Field(default=None, gt=0)


class Serving(Record):
    """How to smoke-test. Times in seconds, memory in bytes.

    `image` is the docker image to test in (None: TensorFlow Serving of the installed TensorFlow's minor version). `flags` are the server's own; `model_config_file`, `batching_parameters_file` and
    `monitoring_config_file` are production's files of these names: their contents are part of the key, their paths are
    not. `model_name` says which entry of `model_config_file` is meant. `environment`, `mounts` (folder here: absolute path in the container, read-only), `gpus` (a count or `all`),
    `memory`, `cpus` and `pids` apply to a container.
    """

    runtime: RuntimeChoice = RuntimeChoice.AUTO
    image: str | None = None
    pull: Pull = "missing"
    binary: Path | None = None
    load_timeout: float = Field(default=60.0, gt=0)
    request_timeout: float = Field(default=10.0, gt=0)
    latency_requests: int = Field(default=50, ge=1)
    memory: int = Field(default=4 * 2**30, gt=0)
    cpus: float = Field(default=2.0, gt=0)
    pids: int = Field(default=1024, ge=1)
    flags: tuple[str, ...] = ()
    environment: dict[str, str] = Field(default_factory=dict)
    mounts: dict[Path, str] = Field(default_factory=dict)
    gpus: int | Literal["all"] | None = None
    model_name: str | None = None
    model_config_file: Path | None = Field(default=None, exclude=True)
    batching_parameters_file: Path | None = Field(default=None, exclude=True)
    monitoring_config_file: Path | None = Field(default=None, exclude=True)
    gates: Gates = Gates()

    @model_validator(mode="before")
    @classmethod
    def _batching(cls, given: Any) -> Any:
        """A batching file without the switch is refused by the server (tensorflow_serving/model_servers/server.cc)."""
        flags = tuple(given.get("flags") or ()) if isinstance(given, dict) else ()
        if not isinstance(given, dict) or not given.get("batching_parameters_file") or any(map(batches, flags)):
            return given
        return given | {"flags": (*flags, "--enable_batching=true")}

    @field_validator("flags")
    @classmethod
    def _ours(cls, flags: tuple[str, ...]) -> tuple[str, ...]:
        names = {flag.lstrip("-").partition("=")[0] for flag in flags}
        if taken := sorted(names & _OUR_FLAGS):
            raise ValueError(f"flags that say neither what is served nor where, not {', '.join(taken)}")
        if files := sorted(names & set(FILE_FLAGS)):
            raise ValueError(
                f"{', '.join(files)} as a setting of that name beside `flags`, so that the file is brought along"
            )
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
