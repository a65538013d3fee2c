"""The configuration of a run: defaults, a YAML file, the environment, the command line; later sources override earlier.

The only module that reads a configuration file or the environment variables of a run: TFSHIP_*, TF_CONFIG,
PREFECT_TASKS_REFRESH_CACHE. Variables of other programs are read in three places: TERM in `flows.telemetry`, Docker's
in `tasks.serving.runtimes.docker.address`, and TF_ENABLE_ONEDNN_OPTS in `tasks.parity.predictor`, in the child in
which TensorFlow reads it.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, field_validator
from pydantic_core import ErrorDetails

from tasks.errors import UsageError
from tasks.isolate import Limits, memory
from tasks.records.adoption import ModelFiles, ModelOptions, ProbeSource
from tasks.records.base import Record
from tasks.records.cluster import Cluster
from tasks.records.forms import Target
from tasks.records.parity import Tolerance
from tasks.records.release import Rule
from tasks.records.settings import LabelledData, Policy, Release, RunningServer, Selection, Serving, Training
from tasks.training import cluster as clusters
from tasks.user_code import source as sources
from tasks.user_code.source import ModelSource

PREFIX = "TFSHIP_"
_NOT_SETTINGS = {"TFSHIP_GOLDEN", "TFSHIP_CORPUS", "TFSHIP_DOCKER"}  # of the tests
_KINDS = {  # YAML's words for pydantic's types
    "model_type": "settings by name",
    "dict_type": "settings by name",
    "frozen_set_type": "a list",
    "tuple_type": "a list",
    "path_type": "a path",
    "string_type": "text",
}
STEPS = (
    "train",
    "adopt",
    "checkpoint",
    "restore_verify",
    "freeze",
    "export",
    "convert",
    "smoke_test",
    "rehearse",
    "promote",
    "report",
)


_MEMORY_SHARE = 0.75  # of the memory of this machine or container, where no limit is set


class LimitSettings(Record):
    """Limits of one piece of TensorFlow work: seconds, and resident bytes.

    `memory` is None for three quarters of this machine's memory (for training, all of it). `cluster_seconds` is how long
    a worker waits for the others.
    """

    seconds: float = Field(3600.0, gt=0)
    training_seconds: float = Field(7 * 86400.0, gt=0)
    cluster_seconds: float = Field(300.0, gt=0)
    memory: int | None = Field(None, gt=0)


class ReleaseSettings(Record):
    """Settings of promotion; see `tasks.records.settings.Release`."""

    promote: bool = True
    policy: Policy = Policy()
    waive: tuple[Rule, ...] = ()
    force: bool = False
    reason: str = ""
    label: str | None = None
    servers: tuple[RunningServer, ...] = ()
    server_root: Path | None = None
    signing_key: Path | None = None
    public_key: Path | None = None


class RehearsalSettings(Record):
    """Settings of a change of versions under traffic before promotion; `window` is its seconds before and after the change."""

    wanted: bool = False
    window: float = Field(default=3.0, gt=0)


class RetentionSettings(Record):
    """What `tfship gc` keeps besides what is needed: the newest versions of a model, and its newest runs. None keeps all."""

    versions: int | None = Field(default=None, ge=0)
    runs: int | None = Field(default=None, ge=0)


class PipelineConfig(Record):
    """All settings of a run. Relative paths are relative to the current folder at its start."""

    source: str = "sundaynet"
    name: str | None = None
    store: Path = Path(".tfship/store")
    serving_root: Path = Path(".tfship/serving")
    reports: Path = Path(".tfship/reports")
    metrics: Path | None = None
    training: Training = Training()
    given: ModelOptions = ModelOptions()
    probe: ProbeSource = ProbeSource()
    evaluate: LabelledData = LabelledData()
    selection: Selection = Selection()
    tolerance: Tolerance = Tolerance()
    serving: Serving = Serving()
    images: tuple[str, ...] = ()
    rehearsal: RehearsalSettings = RehearsalSettings()
    release: ReleaseSettings = ReleaseSettings()
    retention: RetentionSettings = RetentionSettings()
    limits: LimitSettings = LimitSettings()
    also: tuple[Target, ...] = ()
    until: str | None = None
    refresh: frozenset[str] = frozenset()

    @field_validator("also")
    @classmethod
    def _on_request(cls, also: tuple[Target, ...]) -> tuple[Target, ...]:
        if {Target.SAVED_MODEL, Target.FROZEN} & set(also):
            raise ValueError("forms that are not made anyway: saver_v2, saver_v1, keras, object_checkpoint")
        return also

    @field_validator("until")
    @classmethod
    def _a_step(cls, until: str | None) -> str | None:
        if until is not None and until not in STEPS:
            raise ValueError(f"a step among {', '.join(STEPS)}")
        return until

    @field_validator("refresh")
    @classmethod
    def _steps(cls, refresh: frozenset[str]) -> frozenset[str]:
        if refresh - {*STEPS, "all"}:
            raise ValueError(f"steps among {', '.join(STEPS)}, all")
        return refresh

    @property
    def files(self) -> ModelFiles | None:
        """The source model's files, None where `source` names code."""
        path = Path(self.source)
        # A prefix is not a file, but files begin with it. A path to nothing may be a mistyped name of an example.
        there = "/" in self.source or path.exists() or any(path.parent.glob(f"{glob.escape(path.name)}*"))
        if self.source in sources.EXAMPLES or not there or (":" in self.source and not path.exists()):
            return None
        requested = self.selection.which if isinstance(self.selection.which, int) else None
        return ModelFiles(name=_served_name(path), path=path, step=requested)

    @property
    def model(self) -> ModelSource:
        """The model that `source` names. Raises UsageError."""
        return sources.resolve(self.source, Path.cwd())

    @property
    def code(self) -> ModelSource | None:
        """The code that builds the graph of a source checkpoint. Raises UsageError."""
        return sources.resolve(self.given.model, Path.cwd()) if self.given.model else None

    @property
    def model_name(self) -> str:
        """The name under which the model is served."""
        files = self.files
        return self.name or (files.name if files else self.model.name)

    @property
    def promotion(self) -> Release:
        """The parameters of promote."""
        return self.promotion_as(self.model_name)

    def promotion_as(self, name: str) -> Release:
        """Return the parameters of promote, where the model is served under another name than its own."""
        return Release(serving_root=self.serving_root, name=name, **self.release.model_dump())

    @property
    def servings(self) -> tuple[Serving, ...]:
        """The settings of each server of the smoke test."""
        file = self.serving.model_config_file
        named = self.serving.model_copy(
            update={"model_name": self.serving.model_name or self.model_name if file else None}
        )
        return tuple(named.model_copy(update={"image": image}) for image in self.images) or (named,)

    @property
    def at_once(self) -> int:
        """The number of servers that this machine has the memory for."""
        return max(1, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") // self.serving.memory)

    @property
    def training_limits(self) -> Limits:
        """The limits of training."""
        return Limits(seconds=self.limits.training_seconds, memory=self.limits.memory)

    @property
    def cluster(self) -> Cluster:
        """The workers of TF_CONFIG; empty where nothing is trained.

        Raises:
            UsageError: TF_CONFIG is malformed.
        """
        if self.files is not None and self.training.start is None:
            return Cluster()
        return clusters.read(os.environ.get("TF_CONFIG", ""), self.limits.cluster_seconds)

    @property
    def child_limits(self) -> Limits:
        """The limits of all children except training: a file may make its reader hang or fill the memory."""
        most = self.limits.memory or int(_MEMORY_SHARE * memory().total)
        return Limits(seconds=self.limits.seconds, memory=most)


def _served_name(path: Path) -> str:
    """Return a valid name to serve under: the file's, or its folder's where the file's is a usual one, as `saved_model`."""
    path = path.absolute()
    usual = {"saved_model", "model", "checkpoint", "variables", "frozen_model", "frozen_graph", "graph", "export"}
    stem = re.sub(r"\.(pb|pbtxt|meta|index|h5|hdf5|keras|ckpt|data-\d{5}-of-\d{5})$", "", path.name)
    stem = re.sub(r"(\.ckpt)?(-\d+)?$", "", stem)
    named = next((part for part in (stem, path.parent.name) if part not in usual and not part.isdigit() and part), stem)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", named).strip("-._") or "model"


def load(file: Path | None, options: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> PipelineConfig:
    """Return the configuration from all its sources. `options` are nested as the file is.

    Environment variables are named by path: `TFSHIP_SERVING__RUNTIME=docker`, values in YAML.

    Raises:
        UsageError: the file is missing or not YAML, or a setting is unknown or has a wrong value.
    """
    settings: dict[str, Any] = {}
    merge(settings, _read(file) if file else {})
    for name, value in sorted(environment.items()):
        if name.startswith(PREFIX) and name not in _NOT_SETTINGS:
            nested: Any = _yaml(value, f"environment variable {name}")
            for part in reversed(name.removeprefix(PREFIX).lower().split("__")):
                nested = {part: nested}
            merge(settings, nested)
    if environment.get("PREFECT_TASKS_REFRESH_CACHE", "").lower() in ("1", "true", "yes"):
        merge(settings, {"refresh": ["all"]})
    merge(settings, options)
    try:
        config = PipelineConfig.model_validate(settings)
        config.promotion_as(config.name or "model")  # its rules span several settings
    except ValidationError as error:
        raise _wrong(error.errors()[0], environment) from None
    return config


def _wrong(detail: ErrorDetails, environment: Mapping[str, str]) -> UsageError:
    """Return the UsageError for an error of pydantic."""
    path = [part for part in detail["loc"] if not (isinstance(part, str) and "[" in part)]  # a union's alternatives
    where = "setting " + ".".join(str(part) for part in path)
    variable = PREFIX + "__".join(str(part) for part in path).upper()
    where += f" (environment variable {variable})" if variable in environment else ""
    remedy = "see `tfship run --help` and the settings in README.md."
    if detail["type"] == "extra_forbidden":
        *parents, name = path
        record: Any = PipelineConfig
        for parent in parents:
            known = getattr(record, "model_fields", {}).get(parent)
            record = known.annotation if known else None
        fields = ", ".join(getattr(record, "model_fields", ()))
        return UsageError(where, f"one of {fields}" if fields else "a setting", repr(name), remedy)
    said = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ").partition(", unable to")[0]
    said = _KINDS.get(detail["type"], said)
    if not path:  # a rule over several settings names what is missing
        return UsageError("the configuration", said, "none", remedy)
    found = detail["input"]
    if isinstance(found, frozenset):
        found = sorted(found)
    return UsageError(where, said[0].lower() + said[1:], repr(found), remedy)


def _read(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text()
    except OSError as error:
        raise UsageError(
            f"--config {file}", "a YAML file", error.strerror or str(error), "give the path of a YAML file."
        ) from None
    except UnicodeDecodeError:
        raise UsageError(
            f"--config {file}", "a YAML file", "bytes that are not UTF-8", "give the path of a YAML file."
        ) from None
    settings = _yaml(text, str(file)) or {}
    if not isinstance(settings, dict):
        raise UsageError(f"--config {file}", "settings by name", type(settings).__name__, "see the README's example.")
    return settings


def _yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
        at = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UsageError(where, "YAML", problem.replace("\n", " ") + at, "correct it.") from None


def merge(into: dict[str, Any], other: Mapping[str, Any], where: str = "") -> None:
    """Merge `other` into `into`, recursively; None changes nothing."""
    for name, value in other.items():
        if isinstance(value, Mapping):
            below = into.get(name) if into.get(name) is not None else {}
            if not isinstance(below, dict):
                remedy = "see `tfship run --help` and the settings in README.md."
                raise UsageError(f"setting {where}{name}", "settings by name", repr(below), remedy)
            into[name] = below
            merge(below, value, f"{where}{name}.")
        elif value is not None:
            into[name] = value
