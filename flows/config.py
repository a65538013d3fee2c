"""The configuration of a run: defaults, a YAML file, the environment, the command line, the later over the earlier.

The only place that reads a configuration file or the environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from tasks.errors import UsageError
from tasks.isolate import Limits
from tasks.models import source as sources
from tasks.models.source import ModelSource
from tasks.records.base import Record
from tasks.records.parity import Tolerance
from tasks.records.settings import Release, Selection, Serving, Training

PREFIX = "TFSHIP_"
_NOT_SETTINGS = {"TFSHIP_GOLDEN", "TFSHIP_CORPUS", "TFSHIP_DOCKER"}  # what the tests read
STEPS = ("train", "checkpoint", "restore_verify", "freeze", "export", "smoke_test", "promote", "report")


class LimitSettings(Record):
    """What one piece of TensorFlow work may take: seconds, and resident bytes (None: as much as there is)."""

    seconds: float = Field(24 * 3600.0, gt=0)
    memory: int | None = Field(None, gt=0)


class ReleaseSettings(Record):
    """Whether and how to promote; see `tasks.records.settings.Release`."""

    promote: bool = True
    allow_stand_in: bool = True
    force: bool = False
    reason: str = ""


class PipelineConfig(Record):
    """Everything a run can be told. Relative paths are relative to the folder the run is started in."""

    source: str = "sundaynet"
    name: str | None = None
    store: Path = Path(".tfship/store")
    serving_root: Path = Path(".tfship/serving")
    reports: Path = Path(".tfship/reports")
    training: Training = Training()
    selection: Selection = Selection()
    tolerance: Tolerance = Tolerance()
    serving: Serving = Serving()
    release: ReleaseSettings = ReleaseSettings()
    limits: LimitSettings = LimitSettings()
    refresh: frozenset[str] = frozenset()

    @property
    def model(self) -> ModelSource:
        """The model that `source` names. Raises UsageError."""
        return sources.resolve(self.source, Path.cwd())

    @property
    def model_name(self) -> str:
        """The name under which it is served."""
        return self.name or self.model.name

    @property
    def promotion(self) -> Release:
        """Promote's own parameters."""
        return Release(serving_root=self.serving_root, name=self.model_name, **self.release.model_dump())

    @property
    def child_limits(self) -> Limits:
        """The limits of every child."""
        return Limits(seconds=self.limits.seconds, memory=self.limits.memory)


def load(file: Path | None, options: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> PipelineConfig:
    """The configuration from all its sources. `options` are nested as the file is.

    Environment variables are named by path: `TFSHIP_SERVING__RUNTIME=docker`, values in YAML.

    Raises:
        UsageError: the file is missing or not YAML, or a setting is unknown or has a wrong value.
    """
    settings: dict[str, Any] = {}
    _merge(settings, _read(file) if file else {})
    for name, value in environment.items():
        if name.startswith(PREFIX) and name not in _NOT_SETTINGS:
            nested: Any = _yaml(value, f"environment variable {name}")
            for part in reversed(name.removeprefix(PREFIX).lower().split("__")):
                nested = {part: nested}
            _merge(settings, nested)
    if environment.get("PREFECT_TASKS_REFRESH_CACHE", "").lower() in ("1", "true", "yes"):
        _merge(settings, {"refresh": ["all"]})
    _merge(settings, options)
    try:
        config = PipelineConfig.model_validate(settings)
        unknown = sorted(config.refresh - {*STEPS, "all"})
        if unknown:
            raise UsageError("--refresh", f"one of {', '.join(STEPS)}, all", unknown[0], "name a step as it is listed.")
        config.promotion  # noqa: B018  # its rules span several settings
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the configuration"
        given = repr(first["input"]) if first["type"] != "extra_forbidden" else "an unknown setting"
        said = first["msg"].removeprefix("Value error, ")
        remedy = "see `tfship run --help` and the README's table of settings."
        raise UsageError(f"setting {where}", said[0].lower() + said[1:], given, remedy) from None
    return config


def _read(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {file}", "a YAML file", str(error), "give the path of one.") from None
    settings = _yaml(text, str(file)) or {}
    if not isinstance(settings, dict):
        raise UsageError(f"--config {file}", "settings by name", type(settings).__name__, "see the README's example.")
    return settings


def _yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(where, "YAML", str(error).replace("\n", " "), "mend it.") from None


def _merge(into: dict[str, Any], other: Mapping[str, Any]) -> None:
    """Lay `other` over `into`; None says nothing."""
    for name, value in other.items():
        if isinstance(value, Mapping):
            if not isinstance(into.get(name), dict):
                into[name] = {}
            _merge(into[name], value)
        elif value is not None:
            into[name] = value
