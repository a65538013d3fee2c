"""The embedded server for a person at a terminal: it says where it answers and how to ask, and why it cannot start.

`tfship serve` becomes this program (`python -m tasks.serving.embedded.local FLAGS`): one process, so that Ctrl-C,
SIGTERM and SIGKILL end what they mean to end.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:  # what is imported at the top is imported before a signal ends this program in good order
    from tasks.serving.embedded.flags import Flags

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - to be recognised
_EXAMPLE_BYTES = 2000
_ANSWER_SECONDS = 10.0
_ZEROS: dict[str, object] = {"DT_STRING": "", "DT_BOOL": False, "DT_FLOAT": 0.0, "DT_DOUBLE": 0.0}


def serve(argv: list[str]) -> int:
    """Serve until SIGTERM or SIGINT; the exit code.

    Raises:
        Refusal: the model does not load, in the server's words.
        EnvironmentFailure: a port cannot be had.
    """
    from tasks.errors import EnvironmentFailure, Refusal
    from tasks.serving.embedded import flags
    from tasks.serving.embedded.errors import ServingError
    from tasks.serving.embedded.server import run

    options = flags.parse(argv)
    try:
        return run(argv, ready=lambda grpc_port, rest_port: _announce(options, grpc_port, rest_port))
    except ServingError as error:
        remedy = f"`tfship inspect {shlex.quote(options.model_base_path)}/VERSION` says what is in it."
        raise Refusal(f"serving {options.model_name}", "a version that loads", error.message, remedy) from None
    except (OSError, RuntimeError) as error:
        remedy = "choose others with --port and --rest-port, or another --bind."
        where = f"ports {options.port} and {options.rest_api_port} of {options.bind}"
        raise EnvironmentFailure(where, "both free", str(error), remedy) from None


def _announce(options: Flags, grpc_port: int, rest_port: int) -> None:
    host = _WILDCARDS.get(options.host, options.host)
    url = f"http://{host}:{rest_port}/v1/models/{quote(options.model_name)}"
    print(f"REST    {url}\ngRPC    {host}:{grpc_port}\ntry     {_example(url)}\nend     Ctrl-C", flush=True)


def _example(url: str) -> str:
    """A curl line that has been tried: a request of zeros, or where the model has none the question for its status."""
    import httpx

    with httpx.Client(timeout=_ANSWER_SECONDS, trust_env=False) as client:
        try:
            signatures = client.get(f"{url}/metadata").json()["metadata"]["signature_def"]["signature_def"]
            for key in sorted(signatures, key=lambda key: key != "serving_default"):
                body = json.dumps({"signature_name": key, "inputs": _zeros(signatures[key]["inputs"])})
                if len(body) <= _EXAMPLE_BYTES and client.post(f"{url}:predict", content=body).is_success:
                    return f"curl -d {shlex.quote(body)} {shlex.quote(f'{url}:predict')}"
        except (httpx.HTTPError, ValueError, KeyError):
            pass  # an example is a courtesy: the server answers all the same
    return f"curl {shlex.quote(url)}"


def _zeros(inputs: dict[str, Any]) -> dict[str, object]:
    """A zero for every value of every input, an unknown dimension being 1 long; nothing of what would be too long."""
    example: dict[str, object] = {}
    for alias, info in inputs.items():
        sizes = [max(int(dim["size"]), 1) for dim in info["tensor_shape"]["dim"]]
        value = _ZEROS.get(info["dtype"], 0)
        for size in reversed(sizes):
            value = [value] * min(size, _EXAMPLE_BYTES)
        example[alias] = value
    return example


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)


def main() -> None:
    """Serve, and leave at once with the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    from tasks.errors import PipelineError

    try:
        code = serve(sys.argv[1:])
    except PipelineError as error:
        print(f"tfship: {error}", file=sys.stderr)
        code = int(error.exit_code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # TensorFlow's and gRPC's threads would be waited for


if __name__ == "__main__":
    main()
