"""`tfship serve`: serves a model's versions with the embedded server, for local development."""

from __future__ import annotations

import ipaddress
import os
import shlex
import socket
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from flows.cli.options import Options, command
from tasks.presentation.terminal import say

_LOOPBACK = "127.0.0.1"


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "serve", serve)


def serve(
    name: Annotated[str, typer.Argument(help="The model: a folder of versions under the serving root.")],
    options: Options,
) -> NoReturn:
    """Serve a model here over gRPC and REST as TF Serving does, and follow its versions, until Ctrl-C.

    Stdout gets the addresses and a curl line that works, stderr the server's log. This process becomes the server.
    """
    root = options.settings().serving_root
    port, rest_port, bind = options["port"], options["rest_port"], options["bind"]
    base_path = _base_path(root, name)
    _require_free(bind, port, rest_port)
    if not _is_loopback(bind):
        say(f"warning: listening on {bind}: everybody who can reach this machine can query the model.", file=sys.stderr)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # hides TensorFlow's remarks on CPU instructions
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(  # noqa: S606 - a program of ours, from a list
        sys.executable,
        [
            # -P: a folder `tasks` in the current folder is not ours.
            *(sys.executable, "-P", "-m", "tasks.serving.embedded.local", "--max_num_load_retries=0"),
            *(f"--model_name={name}", f"--model_base_path={base_path}"),
            *(f"--port={port}", f"--rest_api_port={rest_port}", f"--bind={bind}"),
        ],
    )


def _base_path(root: Path, name: str) -> Path:
    """Return the model's folder.

    Raises:
        UsageError: the serving root has no such model, or the model has no version.
    """
    from tasks.errors import UsageError

    folders = [path for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    known = sorted(path.name for path in folders if any(child.name.isdecimal() for child in path.iterdir()))
    if name not in known:
        where = f"model {name}"
        remedy = "choose one of these, give another --serving-root, or promote it first: `tfship run`."
        raise UsageError(where, f"a model with a version in {root}", ", ".join(known) or "none", remedy)
    return (root / name).resolve()


def _require_free(bind: str, *ports: int) -> None:
    """Raise EnvironmentFailure where a port is in use, UsageError where the address is invalid: before the long start."""
    from tasks.errors import EnvironmentFailure, UsageError

    given = [port for port in ports if port]
    if len(set(given)) < len(given):
        raise UsageError("--rest-port", "another port than --port", str(given[0]), "give two different ports.")
    for port in given:
        try:
            (family, kind, protocol, _, address), *_ = socket.getaddrinfo(bind, port, type=socket.SOCK_STREAM)
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server's own sockets
                probe.bind(address)
        except socket.gaierror as error:
            remedy = f"give an address of this machine, for example {_LOOPBACK}."
            raise UsageError(f"--bind {shlex.quote(bind)}", "an address", str(error.strerror), remedy) from None
        except OSError as error:
            remedy = "end the process that listens there (ss -ltnp shows it), or choose other ports with --port and --rest-port."
            raise EnvironmentFailure(f"port {port} of {bind}", "a free port", str(error.strerror), remedy) from None


def _is_loopback(bind: str) -> bool:
    try:
        return ipaddress.ip_address(bind).is_loopback
    except ValueError:
        return bind == "localhost"
