"""The embedded server for a person at a terminal: it prints its addresses and a request to try, or why it cannot start.

`tfship serve` becomes this program (`python -m tasks.serving.embedded.local FLAGS`): a single process, so that Ctrl-C,
SIGTERM and SIGKILL reach the server itself.
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

if TYPE_CHECKING:  # a module imported at the top is imported before the signal handlers are set
    from tasks.serving.embedded.flags import Flags

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - to be recognised
_EXAMPLE_BYTES = 2000
_ANSWER_SECONDS = 10.0
_ZEROS: dict[str, object] = {"DT_STRING": "", "DT_BOOL": False, "DT_FLOAT": 0.0, "DT_DOUBLE": 0.0}


def serve(argv: list[str]) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code.

    Raises:
        Refusal: the model does not load, with the server's message.
        EnvironmentFailure: a port is in use.
    """
    from tasks.errors import EnvironmentFailure, Refusal
    from tasks.serving.embedded import flags
    from tasks.serving.embedded.errors import ServingError
    from tasks.serving.embedded.server import run

    options = flags.parse(argv)
    try:
        return run(argv, ready=lambda grpc_port, rest_port: _announce(options, grpc_port, rest_port))
    except ServingError as error:
        remedy = f"run `tfship inspect {shlex.quote(options.model_base_path)}/VERSION` to see what it holds."
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
    """Return a curl command that was tried: a request of zeros, or a status request if the model does not answer that."""
    import httpx

    with httpx.Client(timeout=_ANSWER_SECONDS, trust_env=False) as client:
        try:
            signatures = client.get(f"{url}/metadata").json()["metadata"]["signature_def"]["signature_def"]
            for key in sorted(signatures, key=lambda key: key != "serving_default"):
                body = json.dumps({"signature_name": key, "inputs": _zeros(signatures[key]["inputs"])})
                if len(body) <= _EXAMPLE_BYTES and client.post(f"{url}:predict", content=body).is_success:
                    return f"curl -d {shlex.quote(body)} {shlex.quote(f'{url}:predict')}"
        except (httpx.HTTPError, ValueError, KeyError):
            pass  # the example is optional
    return f"curl {shlex.quote(url)}"


def _zeros(inputs: dict[str, Any]) -> dict[str, object]:
    """Return zeros for every input, with length 1 in unknown dimensions and long ones cut."""
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
    """Serve, then exit at once."""
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
    os._exit(code)  # sys.exit would wait for TensorFlow's and gRPC's threads


if __name__ == "__main__":
    main()
