"""Production's `--model_config_file`, as far as one model's test can go by it. Runs in a child: the protos.

(tensorflow_serving/config/model_server_config.proto.)
"""

from __future__ import annotations

from pathlib import Path

from tasks.errors import UsageError
from tasks.records.base import Record


class Entry(Record):
    """One model's entry as the text of a configuration of its own, under `$MODEL_BASE_PATH`, and what was left out."""

    text: str
    notes: tuple[str, ...]


def entry_of(file: Path, name: str, served_as: str) -> Entry:
    """The entry of model `name` in `file`, to be served as `served_as`.

    Version policy and labels are left out: they name versions that a test does not have.

    Raises:
        UsageError: the file is no ModelServerConfig, or has no such entry.
    """
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    where = f"serving.model_config_file {file}"
    config = model_server_config_pb2.ModelServerConfig()
    try:
        text_format.Parse(file.read_text(), config)
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise UsageError(where, "a ModelServerConfig as text", str(error)[:300], "mend the file.") from None
    entries = list(config.model_config_list.config)
    found = next((one for one in entries if one.name == name), None)
    if found is None:
        names = ", ".join(one.name for one in entries) or "none"
        raise UsageError(where, f"an entry for model {name}", names, "add one, or name the model with --name.")
    notes = []
    if found.HasField("model_version_policy"):
        policy = text_format.MessageToString(found.model_version_policy, as_one_line=True).strip()
        notes.append(f"the version policy of {found.name} was not tried: {policy}")
        if found.model_version_policy.WhichOneof("policy_choice") == "specific":
            notes.append(f"{found.name} serves specific versions only: a new one is not loaded until the file names it")
    if found.version_labels:
        notes.append(f"the version labels of {found.name} were not tried: {', '.join(sorted(found.version_labels))}")
    found.ClearField("model_version_policy")
    found.ClearField("version_labels")
    found.name, found.base_path = served_as, "$MODEL_BASE_PATH"
    alone = model_server_config_pb2.ModelServerConfig()
    alone.model_config_list.config.add().CopyFrom(found)
    return Entry(text=text_format.MessageToString(alone), notes=tuple(notes))
