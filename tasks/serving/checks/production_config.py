"""One model's entry of production's `--model_config_file`, cut down to what a smoke test can try. Runs in a child.

Source: tensorflow_serving/config/model_server_config.proto.
"""

from __future__ import annotations

from pathlib import Path

from tasks.errors import UsageError
from tasks.records.base import Record
from tasks.serving.embedded.errors import ServingError
from tasks.serving.embedded.model_configs import read_text_proto


class Entry(Record):
    """A ModelServerConfig with the one model under `$MODEL_BASE_PATH`, as text, and notes on what was left out."""

    text: str
    notes: tuple[str, ...]


def entry_of(file: Path, name: str, served_as: str) -> Entry:
    """Return the entry of model `name` in `file`, renamed to `served_as`.

    Version policy and labels are left out: they name versions that a test does not have.

    Raises:
        UsageError: the file is not a ModelServerConfig, or has no such entry.
    """
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    where = f"serving.model_config_file {file}"
    try:
        config = read_text_proto(file, model_server_config_pb2.ModelServerConfig())
    except ServingError as error:
        found = str(error.__cause__)[:300]
        raise UsageError(where, "a ModelServerConfig in text format", found, "correct the file.") from None
    entries = list(config.model_config_list.config)
    entry = next((one for one in entries if one.name == name), None)
    if entry is None:
        names = ", ".join(one.name for one in entries) or "none"
        raise UsageError(where, f"an entry for model {name}", names, "add one, or choose one of these with --name.")
    notes = []
    if entry.HasField("model_version_policy"):
        policy = text_format.MessageToString(entry.model_version_policy, as_one_line=True).strip()
        notes.append(f"the version policy of {name} was not tried: {policy}")
        if entry.model_version_policy.WhichOneof("policy_choice") == "specific":
            notes.append(f"{name} serves specific versions only: a new one is not loaded until the file names it")
    if entry.version_labels:
        notes.append(f"the version labels of {name} were not tried: {', '.join(sorted(entry.version_labels))}")
    entry.ClearField("model_version_policy")
    entry.ClearField("version_labels")
    entry.name, entry.base_path = served_as, "$MODEL_BASE_PATH"
    alone = model_server_config_pb2.ModelServerConfig()
    alone.model_config_list.config.add().CopyFrom(entry)
    return Entry(text=text_format.MessageToString(alone), notes=tuple(notes))
