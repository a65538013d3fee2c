"""Log lines on stderr, one a line and flushed at once: whoever started the server reads them while it runs."""

import sys
import threading
import time

_lock = threading.Lock()


def info(message: str) -> None:
    """Log what happened."""
    _write("I", message)


def warning(message: str) -> None:
    """Log what is odd and ignored."""
    _write("W", message)


def error(message: str) -> None:
    """Log what failed."""
    _write("E", message)


def _write(level: str, message: str) -> None:
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    with _lock:
        print(f"{stamp}: {level} {message}", file=sys.stderr, flush=True)
