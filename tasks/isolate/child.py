"""Run one function in a forked child and report its progress, its value or its error."""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import pickle
import signal
import socket
import struct
import sysconfig
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter

from tasks.errors import EnvironmentFailure, PipelineError

_PR_SET_PDEATHSIG = 1
_reply: socket.socket | None = None
_sending = threading.Lock()


def progress(facts: Mapping[str, Any]) -> None:
    """Report progress to the caller as JSON values. Does nothing outside a child."""
    if _reply is not None:
        _send({"progress": dict(facts)})


def run(reply: socket.socket, log_fd: int, server: int, scratch: str) -> None:
    """Run the call that waits on `reply` and answer on it.

    `server` is the process that forked this one; it removes `scratch`, this call's temporary folder, afterwards.
    """
    global _reply
    _reply = reply
    os.setsid()  # a group of its own, so that its subprocesses can be ended with it
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:  # the server died before prctl
        return
    os.dup2(log_fd, 1)
    os.dup2(log_fd, 2)
    os.close(log_fd)
    _send({"pid": os.getpid()})
    (length,) = struct.unpack("<Q", _receive(reply, 8))
    request = _receive(reply, length)
    try:
        _answer(request, scratch)
    except BaseException as error:  # the process ends here, so every error is reported
        traceback.print_exc()
        _send({"unexpected": {"type": type(error).__name__, "message": str(error)[:4000], "at": _raised_at(error)}})


def _raised_at(error: BaseException) -> str:
    """Return the innermost line outside installed packages, usually one of the user's model."""
    installed = tuple(sysconfig.get_path(kind) for kind in ("purelib", "platlib", "stdlib"))
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith((*installed, "<"))
    ]
    return f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else ""


def _answer(request: bytes, scratch: str) -> None:
    module, qualname, args, kwargs, folder = pickle.loads(request)
    name = f"{module}.{qualname}"
    try:
        Path(scratch).mkdir()
        os.environ["TMPDIR"] = tempfile.tempdir = scratch
        os.chdir(folder)  # the caller's, so that its relative paths hold
        function: Any = importlib.import_module(module)
        for part in qualname.split("."):
            function = getattr(function, part)
        _send_text('{"result": ' + encoded(function, function(*args, **kwargs)) + "}")
    except PipelineError as error:
        _send({"error": error.encode()})
    except OSError as error:
        traceback.print_exc()
        _send({"error": EnvironmentFailure.from_os(error, name, function=name).encode()})
    except MemoryError:
        _send({"unexpected": {"type": "MemoryError", "message": "the system gave no more memory"}})
    except BaseException as error:
        if "No space left on device" not in str(error):  # TensorFlow raises several classes for a full disk
            raise
        traceback.print_exc()
        full = EnvironmentFailure.from_os(OSError(28, "No space left on device"), name, function=name)
        _send({"error": full.encode()})


def encoded(function: Callable[..., Any], value: Any) -> str:
    """Serialize the return value of `function` as one line of JSON."""
    # In a tuple, because a record's own adapter takes no configuration; without it NaN would become null.
    returns: Any = tuple[get_type_hints(function).get("return", Any)]  # type: ignore[misc]
    adapter: TypeAdapter[Any] = TypeAdapter(returns, config=ConfigDict(ser_json_inf_nan="constants"))
    return adapter.dump_json((value,)).decode()


def _send(frame: Mapping[str, Any]) -> None:
    _send_text(json.dumps(frame))


def _send_text(line: str) -> None:
    assert _reply is not None
    with _sending:  # frames of several threads must not mix
        _reply.sendall(line.encode() + b"\n")


def _receive(reply: socket.socket, length: int) -> bytes:
    parts = bytearray()
    while len(parts) < length:
        part = reply.recv(min(length - len(parts), 1 << 20))
        if not part:
            os._exit(0)  # the caller ended before it sent the call
        parts += part
    return bytes(parts)
