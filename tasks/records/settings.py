"""Step parameters that a user can set, with their defaults. `flows/config.py` reads them."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from tasks.records.base import Record
from tasks.records.release import Rule


class SaverPolicy(Record):
    """When and how `tf.compat.v1.train.Saver` writes checkpoints, in its own terms.

    A checkpoint is written every `every_steps` optimiser updates, or every `every_seconds` seconds if that is set, and
    always after the last update. `var_list` names the variables to save (None: all of them).
    """

    max_to_keep: int = Field(default=5, ge=1)
    keep_checkpoint_every_n_hours: float = Field(default=10000.0, gt=0)
    every_steps: int = Field(default=100, ge=1)
    every_seconds: float | None = Field(default=None, gt=0)
    sharded: bool = False
    write_version: Literal["V1", "V2"] = "V2"
    var_list: tuple[str, ...] | None = None


class SessionOptions(Record):
    """Options of every session that computes a baseline or an exact comparison; 0 threads lets TensorFlow decide.

    `device` (`/CPU:0`, `/GPU:1`) is the only device that may compute; without it TensorFlow places operations.
    `memory_growth` allocates the memory of a GPU as it is needed, `allow_soft_placement` moves operations that a device
    cannot run.
    """

    intra_op_threads: int = Field(default=0, ge=0)
    inter_op_threads: int = Field(default=0, ge=0)
    device: str | None = Field(default=None, pattern=r"^/(device:)?(CPU|GPU):\d+$")
    memory_growth: bool = True
    allow_soft_placement: bool = True


class Training(Record):
    """Training options. `steps` is the final global step (None: the model's own), `hyperparameters` override the model's.

    `data` names files in addition to those that the model declares; their contents are part of train's key.

    `start` is a checkpoint from which training begins (a prefix, its file or its folder; `start_step` selects one of
    several). If code builds the graph, the variables that match `restore`, by name or pattern, are restored (None: every
    model variable with the same name, dtype and shape), and the others are initialised. Without code, training continues
    in the checkpoint's own graph: `batches` is a file of training data, split into `batch_size` rows per step;
    `train_op` and `loss` name tensors that the graph's collections do not. The contents of the files are part of the
    key, their paths are not.
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
    """Labelled rows on which the quality of the model is measured, in any file format of a probe.

    `label` names the labels in the file (None: the usual names). The contents are part of the key, the path is not.
    """

    file: Path | None = Field(default=None, exclude=True)
    label: str | None = None
    batch: int = Field(default=64, ge=1)


class Selection(Record):
    """The checkpoint to pin: `latest`, `best` by a validation metric, or a global step."""

    which: Literal["latest", "best"] | int = "latest"
    metric: str = "accuracy"
    mode: Literal["max", "min"] = "max"


class RuntimeChoice(StrEnum):
    """The kind of model server to test in."""

    AUTO = "auto"
    DOCKER = "docker"
    BINARY = "binary"
    EMBEDDED = "embedded"


Pull = Literal["missing", "always", "never"]


_OUR_FLAGS = {"port", "rest_api_port", "model_name", "model_base_path"}
FILE_FLAGS = ("model_config_file", "batching_parameters_file", "monitoring_config_file")


def batches(flag: str) -> bool:
    """Return True if a flag of the server enables batching."""
    return flag.lstrip("-") in ("enable_batching", "enable_batching=true")


class Gates(Record):
    """Limits above which a model is refused; None is no limit.

    `max_p99_ms` applies to every signature, protocol and batch size, with one request at a time; `max_load_seconds` is
    the time from the start of the server to AVAILABLE, `max_rss_bytes` the peak of the resident memory, and `max_rejected`
    the share, in percent, of attempts that a full server turned away while several requests were in flight.
    """

    max_p99_ms: float | None = Field(default=None, gt=0)
    max_load_seconds: float | None = Field(default=None, gt=0)
    max_rss_bytes: int | None = Field(default=None, gt=0)
    max_rejected: float | None = Field(default=None, ge=0, le=100)


class Serving(Record):
    """Options of the smoke test. Times are in seconds, memory is in bytes.

    `image` is the docker image to test in (None: TensorFlow Serving of the installed TensorFlow's minor version).
    `flags` are passed to the server; `model_config_file`, `batching_parameters_file` and `monitoring_config_file` are
    the files that production uses: their contents are part of the key, their paths are not. `model_name` selects an
    entry of `model_config_file`. `environment`, `mounts` (local folder: absolute path in the container, read-only),
    `gpus` (a count or `all`), `memory`, `cpus` and `pids` apply to a container.
    """

    runtime: RuntimeChoice = RuntimeChoice.AUTO
    image: str | None = None
    pull: Pull = "missing"
    binary: Path | None = None
    load_timeout: float = Field(default=60.0, gt=0)
    request_timeout: float = Field(default=10.0, gt=0)
    latency_requests: int = Field(default=50, ge=1)
    latency_seconds: float = Field(default=10.0, gt=0)
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
        """Enable batching if there is a batching file: the server refuses the file without the flag
        (tensorflow_serving/model_servers/server.cc)."""
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
                f"{', '.join(files)} as settings of these names instead of `flags`, so that the files are copied too"
            )
        return flags


class RunningServer(Record):
    """The addresses of a server in operation: gRPC as host:port, and REST as http://host:port where it is to be asked too."""

    grpc: str
    rest: str = ""

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, given: Any) -> Any:
        """Read `HOST:PORT` or `HOST:PORT,REST_PORT`."""
        if not isinstance(given, str):
            return given
        found = re.fullmatch(r"(?P<host>[^\s,/]+):(?P<grpc>\d{1,5})(,(?P<rest>\d{1,5}))?", given)
        if found is None:
            raise ValueError("HOST:PORT of gRPC, or HOST:PORT,REST_PORT")
        rest = f"http://{found['host']}:{found['rest']}" if found["rest"] else ""
        return {"grpc": f"{found['host']}:{found['grpc']}", "rest": rest}


LESS_IS_BETTER = frozenset({"mae", "rmse"})


class MetricRule(Record):
    """How good a new version must be on the labelled rows of `evaluate`.

    At least `floor` (of an error: at most), and not worse by more than `margin` than the served version on the same rows. `name`
    is a number of an Evaluation.
    """

    name: Literal["accuracy", "macro_f1", "r2", "mae", "rmse"] = "accuracy"
    floor: float | None = Field(default=None, allow_inf_nan=False)
    margin: float | None = Field(default=0.0, ge=0, allow_inf_nan=False)


class Policy(Record):
    """Rules of a promotion, each on or off; a promotion that breaks one is refused by its name.

    `real_server`: the smoke test was not in the stand-in. `images`: it was in one of these images, by digest. `signatures`:
    what clients of the served version send is accepted, and what they read is answered. `refuse_ops`: names of ops that must
    not be in the graph, with `*`. `max_bytes` limits the files, `gates` what the smoke test measured as production is set up.
    `signed`: version and evidence are signed, by a key that `public_key` verifies. `approval`: a person has approved these files.
    """

    real_server: bool = False
    images: tuple[str, ...] = ()
    signatures: bool = True
    metric: MetricRule | None = None
    refuse_ops: tuple[str, ...] = ()
    max_bytes: int | None = Field(default=None, gt=0)
    gates: Gates = Gates()
    signed: bool = False
    approval: bool = False


class Release(Record):
    """Options of a promotion. `force` and `waive` require a `reason`, which the journal records.

    `label` is moved to the new version, which is then served beside the others; without it, clients that name neither
    version nor label get the new one. `servers` run over this serving root, which they see as `server_root` (None: under
    the same path): promotion waits for the version there, asks them the probe, and takes the version back if they fail.

    `signing_key` is the private key (PEM) that signs the evidence of a version, `public_key` the one that must have signed
    it: what is published, and what a rollback serves again, is verified with it.
    """

    serving_root: Path
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    promote: bool = True
    policy: Policy = Policy()
    waive: tuple[Rule, ...] = ()
    force: bool = False
    reason: str = ""
    label: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*$")
    servers: tuple[RunningServer, ...] = ()
    server_root: Path | None = None
    signing_key: Path | None = None
    public_key: Path | None = None

    @model_validator(mode="after")
    def _forced_for_a_reason(self) -> Release:
        if self.force and not self.reason:
            raise ValueError("a reason where a promotion is forced (--force --reason TEXT)")
        if self.waive and not self.reason:
            raise ValueError("a reason where a rule is waived (--waive RULE --reason TEXT)")
        return self
