"""Errors that are about the machine and say nothing about a model's bytes: a verdict from one must never be kept."""

from __future__ import annotations

import errno
import re

from tasks.errors import EnvironmentFailure

# TensorFlow's own classes (tensorflow/python/framework/errors_impl.py).
_CLASSES = frozenset(
    {"ResourceExhaustedError", "AbortedError", "CancelledError", "UnavailableError", "DeadlineExceededError"}
)
_NUMBERS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EIO, errno.EAGAIN, errno.ESTALE)
# TensorFlow's readers keep of an operating system's error only its words: strerror(3), as glibc writes them
# (tensorflow/python/training/py_checkpoint_reader.py: whatever it does not know is an OpError of the code UNKNOWN).
_WORDS = re.compile(
    "Too many open files|Cannot allocate memory|No space left on device|Input/output error"
    "|Resource temporarily unavailable|Stale file handle"
)


def transient(error: BaseException) -> bool:
    """Return True if an error may disappear when the same bytes are read again: no file descriptors, no memory, a failing device."""
    if isinstance(error, MemoryError) or type(error).__name__ in _CLASSES:
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _NUMBERS
    return bool(_WORDS.search(str(error)))


def failure(error: Exception, where: str) -> EnvironmentFailure:
    """Return the error to raise for one that is `transient`."""
    if isinstance(error, OSError) and error.errno is not None:
        return EnvironmentFailure.from_os(error, where)
    found = f"{type(error).__name__}: {str(error).splitlines()[0][:300] if str(error) else ''}"
    remedy = "free what it names (files: ulimit -n; memory; the disk), then run again."
    return EnvironmentFailure(where, "a machine that can read it", found, remedy)
