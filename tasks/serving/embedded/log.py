"""Log to stderr, one message a line, flushed at once: the process that started the server reads them while it runs."""

import sys
import threading
import time

_lock = threading.Lock()


def info(message: str) -> None:
    """Log an event."""
    _write("I", message)


def warning(message: str) -> None:
    """Log a problem that is ignored."""
    _write("W", message)


def error(message: str) -> None:
    """Log a failure."""
    _write("E", message)


def _write(level: str, message: str) -> None:
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    with _lock:
        print(f"{stamp}: {level} {message}", file=sys.stderr, flush=True)
