"""Read and validate a `ModelServerConfig`, and resolve the labels it assigns.

Source: tensorflow_serving/model_servers/server_core.cc and tensorflow_serving/config/model_server_config.proto.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tasks.serving.embedded.errors import Code, ServingError, invalid
from tasks.serving.embedded.versions.aspired import (
    AllVersions,
    LatestVersions,
    ServedModel,
    SpecificVersions,
    VersionPolicy,
)
from tasks.serving.protos import ModelConfig, ModelServerConfig, VersionPolicyProto

_PLATFORM = "tensorflow"
_TENSORFLOW_TYPE = 1

Labels = dict[str, dict[str, int]]
"""Version by label, by model."""


def read_text_proto(file: Path, message: Any) -> Any:
    """Parse a text proto file into an empty message.

    Raises:
        ServingError: the file cannot be read or parsed; its `__cause__` says why and where.
    """
    from google.protobuf import text_format

    try:
        return text_format.Parse(file.read_text(), message)
    except OSError as error:
        raise ServingError(Code.NOT_FOUND, f"{file}; {error.strerror}") from error
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise invalid(f"Invalid protobuf file: '{file}'") from error


def single_model(name: str, base_path: str) -> ModelServerConfig:
    """Return the configuration that `--model_name` and `--model_base_path` stand for."""
    from tensorflow_serving.config import model_server_config_pb2

    config: ModelServerConfig = model_server_config_pb2.ModelServerConfig()
    config.model_config_list.config.add(name=name, base_path=base_path, model_platform=_PLATFORM)
    return config


def validate(config: ModelServerConfig, current: ModelServerConfig) -> None:
    """Validate a configuration before any of it is applied.

    Raises:
        ServingError: a duplicate model, a path that is not absolute, a changed platform, or no model list.
    """
    kind = config.WhichOneof("config")
    if current.WhichOneof("config") not in (None, "model_config_list") or kind not in (None, "model_config_list"):
        raise ServingError(
            Code.FAILED_PRECONDITION,
            "Cannot transition to requested config. It is only legal to transition from one ModelConfigList to another.",
        )
    names: set[str] = set()
    for model in config.model_config_list.config:
        if model.name in names:
            raise invalid(f"Illegal to list model {model.name} multiple times in config list")
        names.add(model.name)
    for model in config.model_config_list.config:
        if not model.base_path.startswith("/"):
            raise invalid(
                f"Expected model {model.name} to have an absolute path or URI; got base_path()={model.base_path}"
            )
    platforms = {model.name: _platform(model) for model in current.model_config_list.config}
    for model in config.model_config_list.config:
        if model.name in platforms and _platform(model) != platforms[model.name]:
            raise invalid(
                f"Illegal to change a model's platform. For model {model.name} platform was {platforms[model.name]}"
                f" and new platform requested is {_platform(model)}"
            )


def _platform(model: ModelConfig) -> str:
    if model.model_type:
        if model.model_platform:
            raise invalid(
                "Illegal setting both ModelServerConfig::model_type (deprecated) and ModelServerConfig::model_platform."
            )
        if model.model_type != _TENSORFLOW_TYPE:
            raise invalid(f"ModelServerConfig::model_type choice {model.model_type} not supported.")
        return _PLATFORM
    if not model.model_platform:
        raise invalid(
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform."
        )
    return str(model.model_platform)


def served_models(config: ModelServerConfig) -> list[ServedModel]:
    """Return the entries of a configuration.

    Raises:
        ServingError: an unsupported platform.
    """
    for model in config.model_config_list.config:
        platform = _platform(model)
        if platform != _PLATFORM:
            raise invalid(f"Model {model.name} requests unsupported platform {platform}")
    return [
        ServedModel(model.name, Path(model.base_path), _policy(model.model_version_policy))
        for model in config.model_config_list.config
    ]


def _policy(policy: VersionPolicyProto) -> VersionPolicy:
    kind = policy.WhichOneof("policy_choice")
    if kind == "all":
        return AllVersions()
    if kind == "specific":
        return SpecificVersions(frozenset(policy.specific.versions))
    return LatestVersions(max(policy.latest.num_versions, 1))


def labels(
    config: ModelServerConfig,
    current: Mapping[str, Mapping[str, int]],
    is_available: Callable[[str, int], bool],
    *,
    lenient: bool,
) -> Labels:
    """Return the labels that a configuration assigns.

    A label needs its version AVAILABLE. `lenient` (`--allow_version_labels_for_unavailable_models`) lets a label be
    assigned early, but not moved early.

    Raises:
        ServingError: FAILED_PRECONDITION, naming version and model.
    """
    assigned: Labels = {}
    for model in config.model_config_list.config:
        for label, version in sorted(model.version_labels.items()):
            existing = current.get(model.name, {}).get(label)
            early = lenient and existing in (None, version)
            if not early and not is_available(model.name, version):
                raise ServingError(
                    Code.FAILED_PRECONDITION,
                    f"Request to assign label to version {version} of model {model.name},"
                    " which is not currently available for inference",
                )
            assigned.setdefault(model.name, {})[label] = version
    return assigned
