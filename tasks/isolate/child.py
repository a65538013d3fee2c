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

PR_SET_PDEATHSIG = 1
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
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:  # the server died before prctl
        return
    os.dup2(log_fd, 1)
    os.dup2(log_fd, 2)
    os.close(log_fd)
    _send({"pid": os.getpid()})
    (length,) = struct.unpack("<Q", _receive(reply, 8))
    request = _receive(reply, length)
    _answer(request, scratch)


def _raised_at(error: BaseException) -> str:
    """Return the innermost line outside installed packages, usually one of the user's model."""
    installed = tuple(sysconfig.get_path(kind) for kind in ("purelib", "platlib", "stdlib"))
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith((*installed, "<"))
    ]
    return f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else ""


def _answer(request: bytes, scratch: str) -> None:
    try:
        module, qualname, args, kwargs, folder = pickle.loads(request)
    except Exception as error:  # a class that cannot be imported here
        _send_text(_unexpected(error))
        return

    def work() -> str:
        Path(scratch).mkdir()
        os.environ["TMPDIR"] = tempfile.tempdir = scratch
        os.chdir(folder)  # the caller's, so that its relative paths hold
        function: Any = importlib.import_module(module)
        for part in qualname.split("."):
            function = getattr(function, part)
        return encoded(function, function(*args, **kwargs))

    _send_text(answer_of(f"{module}.{qualname}", work))


def answer_of(name: str, work: Callable[[], str]) -> str:
    """Return the frame that answers a call of the function `name`: what `work` returned, or what it raised."""
    try:
        return '{"result": ' + work() + "}"
    except PipelineError as error:
        return json.dumps({"error": error.encode()})
    except OSError as error:
        traceback.print_exc()
        return json.dumps({"error": EnvironmentFailure.from_os(error, name, function=name).encode()})
    except MemoryError:
        return json.dumps({"unexpected": {"type": "MemoryError", "message": "the system gave no more memory"}})
    except BaseException as error:  # the process ends after this, so every error is reported
        if "No space left on device" in str(error):  # TensorFlow raises several classes for a full disk
            traceback.print_exc()
            full = EnvironmentFailure.from_os(OSError(28, "No space left on device"), name, function=name)
            return json.dumps({"error": full.encode()})
        return _unexpected(error)


def _unexpected(error: BaseException) -> str:
    traceback.print_exc()
    told = {"type": type(error).__name__, "message": str(error)[:4000], "at": _raised_at(error)}
    return json.dumps({"unexpected": told})


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
