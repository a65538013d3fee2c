"""Whether models may compile by XLA (`jit_compile=True`): unless a flag says so not, as in the real server.

The real server calls `DisableXlaCompilation` (tensorflow/compiler/jit/flags.h) unless it was started with
`--xla_cpu_compilation_enabled` (tensorflow_serving/model_servers/main.cc); what must be compiled is then answered with
INTERNAL `XLA compilation disabled` (tensorflow/compiler/jit/device_compiler.h). This is the same switch.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

from tasks.serving.embedded.errors import Code, ServingError

_SWITCHES = {True: "_ZN10tensorflow20EnableXlaCompilationEv", False: "_ZN10tensorflow21DisableXlaCompilationEv"}


def allow(compilation: bool) -> None:
    """Allow or forbid XLA's compilation in this process; TensorFlow's Python has no function for it.

    Raises:
        ServingError: the installed TensorFlow has no such switch: what a server would refuse could not be told.
    """
    import tensorflow as tf

    for library in sorted(Path(tf.sysconfig.get_lib()).glob("libtensorflow_cc.*")):
        switch = getattr(ctypes.CDLL(str(library)), _SWITCHES[compilation], None)
        if switch is not None:
            switch.restype = None
            switch()
            return
    raise ServingError(Code.UNIMPLEMENTED, "this TensorFlow has no switch for XLA compilation")
