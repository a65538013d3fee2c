"""The supported part of tensorflow_model_server's command line (`tensorflow_serving/model_servers/main.cc`)."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.serving.embedded import log
from tasks.serving.embedded.errors import invalid

THREADS = 4 * len(os.sched_getaffinity(0))
"""Four threads for each CPU that this process may use (`Server::Options`, tensorflow_serving/model_servers/server.h)."""

_TRUE = frozenset({"true", "1"})
_FALSE = frozenset({"false", "0"})


@dataclass(frozen=True)
class Flags:
    """The supported flags, with the real server's defaults except where noted."""

    port: int = 8500
    """gRPC port. 0 chooses a free one; the real server refuses 0."""
    rest_api_port: int | None = None
    """REST port. None is no REST API, as in the real server. 0 chooses a free one; for the real server 0 is off."""
    model_name: str = "default"
    model_base_path: str = ""
    model_config_file: str = ""
    model_config_file_poll_wait_seconds: int = 0
    max_num_load_retries: int = 5
    """0 or less: one try."""
    load_retry_interval_micros: int = 60_000_000
    file_system_poll_wait_seconds: int = 1
    rest_api_num_threads: int = THREADS
    """Further requests wait."""
    rest_api_timeout_in_ms: int = 30_000
    rest_api_max_body_bytes: int = 128 * 2**20
    """An extension: the real server has no limit, and a parsed body takes some twenty times its size here."""
    grpc_max_threads: int = THREADS
    """One of them waits for requests; requests beyond the others are refused."""
    grpc_channel_arguments: str = ""
    grpc_socket_path: str = ""
    enable_grpc_healthcheck_service: bool = False
    enable_batching: bool = False
    batching_parameters_file: str = ""
    tensorflow_session_parallelism: int = 0
    tensorflow_intra_op_parallelism: int = 0
    tensorflow_inter_op_parallelism: int = 0
    allow_version_labels_for_unavailable_models: bool = False
    monitoring_config_file: str = ""
    enable_model_warmup: bool = True
    num_request_iterations_for_warmup: int = 0
    """The number of runs of each warmup request; used only above 0."""
    saved_model_tags: str = "serve"
    xla_cpu_compilation_enabled: bool = False
    """Without it, a request that needs XLA compilation is answered with an error."""
    bind: str = "127.0.0.1"
    """Address of both ports; an extension. The real server listens on every interface."""
    version: bool = False
    """Print the version and exit."""

    @property
    def host(self) -> str:
        """`bind` in the form that a colon and a port can follow."""
        return f"[{self.bind}]" if ":" in self.bind else self.bind


def parse(argv: Sequence[str]) -> Flags:
    """Parse `--name=value`, `--name value` and `--switch`; warn about unknown flags and ignore them.

    Raises:
        ServingError: a known flag has no value or one of the wrong type.
    """
    known = {field.name: field for field in dataclasses.fields(Flags)}
    values: dict[str, object] = {}
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        name, given, text = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name not in known:
            log.warning(f"Ignoring unknown flag: {word}")
            if word.startswith("--") and not given and rest and not rest[0].startswith("--"):
                log.warning(f"Ignoring its value: {rest.pop(0)}")
            continue
        is_switch = isinstance(known[name].default, bool)
        if not given:
            if is_switch and not (rest and rest[0].lower() in _TRUE | _FALSE):
                text = "true"
            elif rest:
                text = rest.pop(0)
            else:
                raise invalid(f"Flag --{name} needs a value")
        values[name] = _converted(name, text, known[name].default)
    parsed = dataclasses.replace(Flags(), **values)  # type: ignore[arg-type]  # each value has its field's type by now
    channel_arguments(parsed.grpc_channel_arguments)
    return parsed


def _converted(name: str, text: str, default: object) -> object:
    if isinstance(default, bool):
        if text.lower() not in _TRUE | _FALSE:
            raise invalid(f"Couldn't interpret value {text} for flag {name}.")
        return text.lower() in _TRUE
    if isinstance(default, str):
        return text
    try:
        return int(text)
    except ValueError:
        raise invalid(f"Couldn't interpret value {text} for flag {name}.") from None


def channel_arguments(text: str) -> list[tuple[str, int | str]]:
    """Parse `--grpc_channel_arguments`: key=value, separated by commas, with integers converted.

    Raises:
        ServingError: an argument without a value.
    """
    arguments: list[tuple[str, int | str]] = []
    for argument in filter(None, text.split(",")):
        key, given, value = argument.partition("=")
        if not given:
            raise invalid(f"gRPC channel argument without a value: {argument}")
        arguments.append((key, int(value) if value.removeprefix("-").isdecimal() else value))
    return arguments
