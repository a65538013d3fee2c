"""One model's entry in `models.config`, which people edit too: all that is not about its versions stays as they wrote it.

The file is a ModelServerConfig in text format (tensorflow_serving/config/model_server_config.proto). protobuf's parser judges
it before and after an edit.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.errors import EnvironmentFailure, UsageError
from tasks.records.base import Record
from tasks.releases import text_fields

FILE = "models.config"
_LIST = "model_config_list"
_DEEPEST = 100  # messages in messages, as protobuf recommends
_SHOWN = 300


class Entry(Record):
    """What a configuration says of a model: `versions` are those of a `specific` policy, None under any other.

    Under any other, a server takes the `highest` so many versions: one, unless the policy says otherwise.
    """

    base_path: str
    versions: tuple[int, ...] | None
    labels: dict[str, int]
    highest: int = 1


def text(serving_root: Path) -> str:
    """Return the configuration of a serving root as it is written, line ends and all; empty where there is none.

    Raises:
        UsageError: it is not text.
        EnvironmentFailure: it cannot be read.
    """
    file = serving_root / FILE
    try:
        return file.read_bytes().decode() if file.exists() else ""
    except OSError as error:
        raise EnvironmentFailure.from_os(error, str(file)) from None
    except UnicodeDecodeError:
        remedy = "correct the file, or restore it from a backup."
        raise UsageError(str(file), "a ModelServerConfig in text format", "bytes that are not UTF-8", remedy) from None


def entry(text: str, name: str) -> Entry | None:
    """Return what the configuration says of model `name`, or None where it has no entry for it.

    Raises:
        UsageError: the text is no ModelServerConfig, has a custom_model_config, or names a model twice.
    """
    for model in _parsed(text).model_config_list.config:
        if model.name == name:
            policy = model.model_version_policy
            versions = tuple(policy.specific.versions) if policy.HasField("specific") else None
            highest = sys.maxsize if policy.HasField("all") else max(1, policy.latest.num_versions)
            labels = dict(model.version_labels)
            return Entry(base_path=model.base_path, versions=versions, labels=labels, highest=highest)
    return None


def changed(text: str, name: str, base_path: str, versions: Sequence[int], labels: Mapping[str, int]) -> str:
    """Return the text in which model `name` has exactly these versions and labels; `base_path` is for a new entry.

    A policy or labels that already say so stay as they are written.

    Raises:
        UsageError: as for `entry`, or the edited text would not say exactly this.
    """
    wanted = _parsed(text)
    models = wanted.model_config_list.config
    position = next((at for at, model in enumerate(models) if model.name == name), len(models))
    if position == len(models):
        new = {"name": name, "base_path": base_path, "model_platform": "tensorflow"}
        text = _with_entry(text, [_line(**{field: value}) for field, value in new.items()])
        models.add(**new)
    model, said = models[position], _model()
    said.CopyFrom(model)
    policy = {"specific": {"versions": versions}}
    lines = {
        "model_version_policy": [_line(model_version_policy=policy)],
        "version_labels": [_line(version_labels={label: labels[label]}) for label in sorted(labels)],
    }
    for field in lines:
        model.ClearField(field)
    model.MergeFrom(_model(model_version_policy=policy, version_labels=dict(labels)))
    stale = {field: lines[field] for field in lines if getattr(said, field) != getattr(model, field)}
    text = _with_fields(text, position, stale)
    if _parsed(text) != wanted:
        found = "one that would say something else afterwards"
        raise UsageError(FILE, f"an entry of {name} that can be edited", found, "write each of its fields on a line.")
    return text


def _with_entry(text: str, fields: list[str]) -> str:
    end, step = text_fields.line_end(text), text_fields.step(text)
    if not text_fields.read(text).all(_LIST):
        text += (end if text[-1:] not in ("", "\n") else "") + f"{_LIST} {{{end}}}{end}"
    models = text_fields.read(text).all(_LIST)[0]
    lines = ["config {", *(step + field for field in fields), "}"]
    return text_fields.edited(text, [text_fields.appended(text, models, lines)])


def _with_fields(text: str, position: int, fields: Mapping[str, list[str]]) -> str:
    model = text_fields.read(text).all(_LIST)[0].all("config")[position]
    edits: list[text_fields.Edit] = []
    missing: list[str] = []
    for name, lines in fields.items():
        old = [field for field in model.fields if field.name == name]
        for at, field in enumerate(old):
            edits += text_fields.replaced(text, field, [] if at else lines)
        missing += [] if old else lines
    return text_fields.edited(text, [*edits, text_fields.appended(text, model, missing)])


def _parsed(text: str) -> Any:
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    config = model_server_config_pb2.ModelServerConfig()
    try:
        text_format.Parse(text, config, max_recursion_depth=_DEEPEST)
    except (text_format.ParseError, ValueError) as error:  # ValueError: the number of an enum does not fit into it
        where, found = FILE, str(error)
        if located := re.match(r"(\d+):(\d+) : ", found):
            where = f"{FILE}, line {located[1]}, column {located[2]}"
            line = text.split("\n")[int(located[1]) - 1]
            found = found[located.end() :].removeprefix(f"'{line}': ")
        found = found[:_SHOWN].rstrip(".")
        raise UsageError(where, "a ModelServerConfig in text format", found, "correct the file.") from None
    if config.WhichOneof("config") == "custom_model_config":
        remedy = f"list the models in a {_LIST}: the server takes nothing else."
        raise UsageError(FILE, f"a {_LIST}", "a custom_model_config", remedy)
    for name, count in Counter(model.name for model in config.model_config_list.config).items():
        if count > 1:
            remedy = "leave one of them: the server refuses such a file."
            raise UsageError(FILE, f"one entry for model {name}", str(count), remedy)
    return config


def _model(**fields: Any) -> Any:
    from tensorflow_serving.config import model_server_config_pb2

    return model_server_config_pb2.ModelConfig(**fields)


def _line(**fields: Any) -> str:
    from google.protobuf import text_format

    return str(text_format.MessageToString(_model(**fields), as_one_line=True)).strip()
