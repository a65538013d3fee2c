"""What happens in a forked child: one function, its progress, its value or its error."""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import pickle
import signal
import socket
import struct
import traceback
from collections.abc import Mapping
from typing import Any, get_type_hints

from pydantic import TypeAdapter

from tasks.errors import EnvironmentFailure, PipelineError

_PR_SET_PDEATHSIG = 1
_reply: socket.socket | None = None


def progress(facts: Mapping[str, Any]) -> None:
    """Tell the caller how far this call is. `facts` is JSON. Outside a child it does nothing."""
    if _reply is not None:
        _send({"progress": dict(facts)})


def run(reply: socket.socket, log_fd: int) -> None:
    """Run the call that waits on `reply` and answer on it."""
    global _reply
    _reply = reply
    os.setsid()  # a group of its own, so that what it starts can be ended with it
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.dup2(log_fd, 1)
    os.dup2(log_fd, 2)
    os.close(log_fd)
    _send({"pid": os.getpid()})
    (length,) = struct.unpack("<Q", _receive(reply, 8))
    module, qualname, args, kwargs = pickle.loads(_receive(reply, length))
    try:
        function = importlib.import_module(module)
        for part in qualname.split("."):
            function = getattr(function, part)
        value = function(*args, **kwargs)
        returns = TypeAdapter(get_type_hints(function).get("return", Any))
        _send({"result": json.loads(returns.dump_json(value))})
    except PipelineError as error:
        _send({"error": error.encode()})
    except OSError as error:
        traceback.print_exc()
        _send({"error": EnvironmentFailure.from_os(error, f"{module}.{qualname}").encode()})
    except MemoryError:
        _send({"unexpected": {"type": "MemoryError", "message": "the system gave no more memory"}})
    except BaseException as error:
        traceback.print_exc()
        if "No space left on device" in str(error):  # TensorFlow's own classes for a full disk vary
            full = EnvironmentFailure.from_os(OSError(28, "No space left on device"), f"{module}.{qualname}")
            _send({"error": full.encode()})
        else:
            _send({"unexpected": {"type": type(error).__name__, "message": str(error)[:4000]}})


def _send(frame: Mapping[str, Any]) -> None:
    assert _reply is not None
    _reply.sendall(json.dumps(frame).encode() + b"\n")


def _receive(reply: socket.socket, length: int) -> bytes:
    parts = bytearray()
    while len(parts) < length:
        part = reply.recv(min(length - len(parts), 1 << 20))
        if not part:
            os._exit(0)  # the caller is gone before it said what to do
        parts += part
    return bytes(parts)
