"""Set up the embedded server: flags, models, gRPC, REST, and the signal that ends it.

As in tensorflow_serving/model_servers/server.cc, the first load of every model ends, successful or not, before a port
opens.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version as _version
from pathlib import Path
from types import FrameType

import uvicorn

from tasks.serving.embedded import flags, log, model_configs, monitoring
from tasks.serving.embedded.batching.session import BatchingParameters, read_parameters
from tasks.serving.embedded.core import Core
from tasks.serving.embedded.errors import Code, ServingError, invalid
from tasks.serving.embedded.flags import Flags
from tasks.serving.embedded.grpc import services
from tasks.serving.embedded.monitoring import Metrics
from tasks.serving.embedded.rest.api import RestApi
from tasks.serving.embedded.versions.load_version import VersionLoader
from tasks.serving.embedded.versions.manager import Manager
from tasks.serving.embedded.versions.retry import Loading
from tasks.serving.protos import ModelServerConfig

START_FAILED = 255
"""The real server's exit code when it cannot start, a failed first load included."""

_SWITCH_SECONDS = 0.0005
_SIGNAL_SECONDS = 0.5
_XLA_SWITCHES = {True: "_ZN10tensorflow20EnableXlaCompilationEv", False: "_ZN10tensorflow21DisableXlaCompilationEv"}


def serve(argv: Sequence[str], *, ready: Callable[[int, int], None] | None) -> int:
    """Serve until SIGTERM or SIGINT; return 128 + the signal's number, or 255 if the server cannot start.

    `ready(grpc_port, rest_port)` is called once both answer; `rest_port` is 0 without `--rest_api_port`. Must run in the
    main thread of a process that may have imported TensorFlow but not used it. The caller ends the process; threads that
    are still answering do not keep it alive.
    """
    try:
        return run(argv, ready=ready)
    except ServingError as error:
        log.error(f"Failed to start server. Error: {error}")
    except (OSError, RuntimeError) as error:
        log.error(f"Failed to start server. Error: UNKNOWN: {error}")
    return START_FAILED


def run(argv: Sequence[str], *, ready: Callable[[int, int], None] | None) -> int:
    """Do as `serve`, but raise if the server cannot start.

    Raises:
        ServingError: invalid flags or configuration, or a failed first load.
        OSError, RuntimeError: a port is in use.
    """
    # The threads that compute and send an answer take turns; the default of 5 ms a turn would become the p99.
    sys.setswitchinterval(_SWITCH_SECONDS)
    # Imported objects stay: a garbage collection that walks all of TensorFlow would delay requests.
    gc.freeze()
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # no deprecation warnings of its Python code
    with _termination() as ended:
        return _serve(flags.parse(argv), ready, ended)


class _Ended(threading.Event):
    """An event that a signal sets, with the signal's number."""

    signal_number = 0


@contextmanager
def _termination() -> Iterator[_Ended]:
    ended = _Ended()

    def end(signal_number: int, frame: FrameType | None) -> None:
        ended.signal_number = signal_number
        ended.set()

    previous = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield ended
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _serve(options: Flags, ready: Callable[[int, int], None] | None, ended: _Ended) -> int:
    if options.version:
        print(f"TensorFlow ModelServer: {_version('tfship')} (stand-in)\nTensorFlow Library: {_version('tensorflow')}")
        return 0
    _allow_xla(options.xla_cpu_compilation_enabled)
    metrics_path = monitoring.metrics_path(options.monitoring_config_file)
    metrics = Metrics()
    loader = VersionLoader(options, metrics, _batching(options))
    loading = Loading(loader, options.max_num_load_retries, options.load_retry_interval_micros / 1e6)
    manager = Manager(loading, poll_seconds=options.file_system_poll_wait_seconds)
    core = Core(manager, lenient_labels=options.allow_version_labels_for_unavailable_models)
    manager.start()
    try:
        core.reload(_config(options), given_up=ended.is_set)
        if not ended.is_set():
            _answer(options, core, metrics, metrics_path, ready, ended)
        return 128 + ended.signal_number
    finally:
        manager.stop()


def _allow_xla(compilation: bool) -> None:
    """Allow or forbid XLA compilation (`jit_compile=True`) in this process.

    The real server calls `DisableXlaCompilation` (tensorflow/compiler/jit/flags.h) unless it was started with
    `--xla_cpu_compilation_enabled` (tensorflow_serving/model_servers/main.cc); what must be compiled is then answered with
    INTERNAL `XLA compilation disabled` (tensorflow/compiler/jit/device_compiler.h). TensorFlow's Python has no such
    function, so the library's own is called.

    Raises:
        ServingError: the installed TensorFlow has no such switch, so a model that a server would refuse would pass here.
    """
    import tensorflow as tf

    for library in sorted(Path(tf.sysconfig.get_lib()).glob("libtensorflow_cc.*")):
        switch = getattr(ctypes.CDLL(str(library)), _XLA_SWITCHES[compilation], None)
        if switch is not None:
            switch.restype = None
            switch()
            return
    raise ServingError(Code.UNIMPLEMENTED, "this TensorFlow has no switch for XLA compilation")


def _answer(
    options: Flags,
    core: Core,
    metrics: Metrics,
    metrics_path: str | None,
    ready: Callable[[int, int], None] | None,
    ended: _Ended,
) -> None:
    grpc_server, grpc_port = services.serve(core, metrics, options)
    log.info(f"Running gRPC ModelServer at {options.host}:{grpc_port} ...")
    rest_port = 0
    if options.rest_api_port is not None:
        rest_port = _serve_rest(RestApi(core, metrics, options, metrics_path), options.bind, options.rest_api_port)
        log.info(f"Exporting HTTP/REST API at:{options.host}:{rest_port} ...")
    if options.model_config_file and options.model_config_file_poll_wait_seconds > 0:
        threading.Thread(target=_reload_forever, args=(options, core, ended), daemon=True).start()
    if ready is not None:
        ready(grpc_port, rest_port)
    # In turns: the kernel may hand a signal to another thread, and this one would handle it only when it wakes.
    while not ended.wait(_SIGNAL_SECONDS):
        pass
    grpc_server.stop(grace=None)


def _config(options: Flags) -> ModelServerConfig:
    from tensorflow_serving.config import model_server_config_pb2

    if options.model_config_file:
        config: ModelServerConfig = model_configs.read_text_proto(
            Path(options.model_config_file), model_server_config_pb2.ModelServerConfig()
        )
        return config
    if not options.model_base_path:
        raise invalid("Both server_options.model_base_path and server_options.model_config_file are empty!")
    return model_configs.single_model(options.model_name, options.model_base_path)


def _batching(options: Flags) -> BatchingParameters | None:
    if not options.enable_batching:
        if options.batching_parameters_file:
            raise invalid(
                "server_options.batching_parameters_file is set without setting server_options.enable_batching to true."
            )
        return None
    file = options.batching_parameters_file
    return read_parameters(Path(file)) if file else BatchingParameters()


def _serve_rest(api: RestApi, bind: str, port: int) -> int:
    # asyncio disables Nagle's algorithm only on sockets declared as TCP; with it each answer would wait 40 ms.
    family = socket.getaddrinfo(bind, port, type=socket.SOCK_STREAM)[0][0]
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((bind, port))
    listener.listen(1024)
    config = uvicorn.Config(
        api,
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=3600,  # the real server closes no idle connection
    )
    server = uvicorn.Server(config)
    threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True, name="rest").start()
    chosen: int = listener.getsockname()[1]
    return chosen


def _reload_forever(options: Flags, core: Core, ended: _Ended) -> None:
    """Reload `--model_config_file` periodically; a fault in it is logged and changes nothing."""
    while not ended.wait(options.model_config_file_poll_wait_seconds):
        try:
            core.reload(_config(options), given_up=ended.is_set)
        except ServingError as error:
            log.error(f"PollFilesystemAndReloadConfig failed to ReloadConfig: {error.message}")
