"""The program of the images that misbehave: `misbehave.py HOW`, a model server that is no good in one way.

It stands where tensorflow/serving's entry point stands, with the same environment and flags; see `images.py`.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SERVER = "/usr/bin/tf_serving_entrypoint.sh"
EXIT_CODE = 3
BLOCK = 32 * 1024 * 1024
ENOUGH = 64  # blocks: where nothing limits it, it stops by itself
THIRD = 3


def exits_at_once() -> None:
    """As a server whose flags are wrong."""
    print("misbehave: this server has no such flag", flush=True)
    sys.exit(EXIT_CODE)


def crashes() -> None:
    """As a server whose binary was built for another processor."""
    print("misbehave: about to execute what this processor does not have", flush=True)
    os.kill(os.getpid(), signal.SIGILL)


def never_opens_its_port() -> None:
    """As a server that waits for a file system."""
    print("misbehave: waiting", flush=True)
    time.sleep(3600)


def never_answers() -> None:
    """As a server in a deadlock: whoever connects is kept waiting."""
    listeners = [socket.create_server(("0.0.0.0", port), backlog=64) for port in (8500, 8501)]
    print(f"misbehave: listening on {[one.getsockname()[1] for one in listeners]}", flush=True)
    time.sleep(3600)


def answers_wrong_values() -> None:
    """As a server with other kernels: its answers are off, and everything else about it is right."""
    served, name = Path(os.environ["MODEL_BASE_PATH"]), os.environ["MODEL_NAME"]
    shutil.copytree(served / name, Path("/tmp/models") / name)
    for prefix in Path("/tmp/models").rglob("variables.index"):
        subprocess.run([sys.executable, __file__, "shift", str(prefix.with_suffix(""))], check=True)
    os.environ["MODEL_BASE_PATH"] = "/tmp/models"
    os.execv(SERVER, [SERVER, *sys.argv[2:]])


def shift(prefix: str) -> None:
    """Add one to every floating-point tensor of a bundle; in a process of its own, for it uses TensorFlow."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(prefix)
    names = sorted(reader.get_variable_to_shape_map())
    tensors = [reader.get_tensor(name) for name in names]
    shifted = [one + 1 if getattr(one, "dtype", None) is not None and one.dtype.kind == "f" else one for one in tensors]
    for path in Path(prefix).parent.iterdir():
        path.chmod(0o644)
    Path(prefix).parent.chmod(0o755)
    tf.raw_ops.SaveV2(prefix=prefix, tensor_names=names, shape_and_slices=[""] * len(names), tensors=shifted)


def dies_at_the_third_request() -> None:
    """As a server with a bug: the third Predict over gRPC is its last."""
    import grpc

    started: Callable[..., Any] = grpc.server

    class Counting(grpc.ServerInterceptor):  # type: ignore[misc]  # grpc ships no types
        asked = 0

        def intercept_service(self, continuation: Callable[[Any], Any], call: Any) -> Any:
            self.asked += call.method.endswith("/Predict")
            if self.asked == THIRD:
                os.abort()
            return continuation(call)

    grpc.server = lambda *positional, **named: started(*positional, interceptors=(Counting(),), **named)
    from tasks.serving.embedded.server import serve

    name = os.environ["MODEL_NAME"]
    base_path = f"--model_base_path={os.environ['MODEL_BASE_PATH']}/{name}"
    ports = ["--bind=0.0.0.0", "--port=8500", "--rest_api_port=8501"]
    os._exit(serve([*ports, f"--model_name={name}", base_path, *sys.argv[2:]], ready=None))


def outgrows_its_memory() -> None:
    """As a server with a model that is too large for it."""
    held = []
    for _ in range(ENOUGH):
        held.append(os.urandom(BLOCK))
        print(f"misbehave: {len(held) * BLOCK >> 20} MiB", flush=True)
    sys.exit(EXIT_CODE)


def ignores_sigterm() -> None:
    """As a server that is busy: the signal is blocked, and stays so in what it becomes."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    os.execv(SERVER, [SERVER, *sys.argv[2:]])


HOW: dict[str, Callable[[], None]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        exits_at_once,
        crashes,
        never_opens_its_port,
        never_answers,
        answers_wrong_values,
        dies_at_the_third_request,
        outgrows_its_memory,
        ignores_sigterm,
    )
}

if __name__ == "__main__":
    if sys.argv[1] == "shift":
        shift(sys.argv[2])
    else:
        HOW[sys.argv[1]]()
