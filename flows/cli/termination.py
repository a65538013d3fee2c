"""The end of a command: one message on stderr, with `--json` one document on stdout, and an exit code.

The first module of the console script. It imports nothing slow, because signals are handled from here on.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any, NoReturn

_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
_REMEDY = "run again to go on from here."
_SOON = 0.02
_shown = False  # True once this command's document is printed
_raised: signal.Signals | None = None  # the signal for which an exception was raised
_waits = True  # False: skip the exit handlers of libraries


class Terminated(BaseException):
    """SIGTERM as an exception, so that work in progress is stopped and cleaned up while it propagates."""


def is_termination(error: BaseException) -> bool:
    """Return True for SIGTERM as an exception: ours, or Prefect's inside a flow, where Prefect is imported."""
    of_prefect = getattr(sys.modules.get("prefect.exceptions"), "TerminationSignal", Terminated)
    return isinstance(error, (Terminated, of_prefect))


def begin() -> None:
    """Start a command. Nothing is in progress, so a signal ends the process at once."""
    global _raised, _shown, _waits
    _raised, _shown, _waits = None, False, True
    _answer(signal.SIGINT, _end)
    _answer(signal.SIGTERM, _end)


def clean_up_first() -> None:
    """Raise signals as KeyboardInterrupt or Terminated from now on, because work may be in progress."""
    _answer(signal.SIGINT, _interrupt)
    _answer(signal.SIGTERM, _terminate)


def raise_lost() -> None:
    """Raise once more what a signal raised, if anything: to be called where nothing is in progress.

    An exception out of the middle of other code may be lost there: extensions in C clear what they do not expect.
    """
    if _raised is signal.SIGINT:
        raise KeyboardInterrupt
    if _raised is signal.SIGTERM:
        raise Terminated


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """End the process at once on a signal inside the block, where nothing is in progress yet.

    For long imports: an exception that a signal raises inside one is often caught there and becomes an ImportError.
    """
    before = {number: signal.getsignal(number) for number in _WORDS}
    for number in _WORDS:
        _answer(number, _end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def show(document: str) -> None:
    """Print the document of `--json`."""
    global _shown
    from tasks.presentation.terminal import say

    _shown = True
    say(document)


def failed(error: Mapping[str, Any]) -> None:
    """Print `{"error": …}`, the error as `PipelineError.encode` has it, with `--json` and where no document was shown."""
    if _wanted() and not _shown:
        from pydantic_core import to_json

        show(to_json({"error": error}, indent=1, inf_nan_mode="null").decode())


def wait_for_nothing() -> None:
    """Make `leave` end the process without the exit handlers of libraries."""
    global _waits
    _waits = False


def leave(code: int) -> NoReturn:
    """End the process."""
    if not _waits:
        from tasks import isolate

        isolate.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def stopped(number: signal.Signals) -> int:
    """Report that a signal ended the command, and return its exit code."""
    sys.stderr.write(f"{_message(number)}\n")
    failed(_error(number))
    return 128 + number


def _wanted() -> bool:
    words = sys.argv[1:]
    return "--json" in words[: words.index("--") if "--" in words else None]


def _answer(number: signal.Signals, handler: Any) -> None:
    """Set a signal handler, unless our parent had the signal ignored, as a shell does for a job behind `&`."""
    if signal.getsignal(number) is not signal.SIG_IGN:
        signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> None:
    """Report the signal with `os.write`, which needs no lock that an import may hold, and end the process."""
    name = signal.Signals(number)
    os.write(2, f"{_message(name)}\n".encode())
    if _wanted() and not _shown:
        os.write(1, (json.dumps({"error": _error(name)}, indent=1) + "\n").encode())
    os._exit(128 + number)


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _raised
    if not _postponed(number, frame):
        _raised = signal.SIGINT
        signal.default_int_handler(number, frame)


def _postponed(number: int, frame: FrameType | None) -> bool:
    """Send the signal again later, if it comes during an import.

    An exception that is raised there may be lost: the compiler of Python itself drops it, and modules catch it.
    """
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    if frame is None:
        return False
    later = threading.Timer(_SOON, os.kill, (os.getpid(), number))
    later.daemon = True
    later.start()
    return True


def _terminate(number: int, frame: FrameType | None) -> None:
    if _postponed(number, frame):
        return
    global _raised
    _raised = signal.SIGTERM
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second signal must not interrupt the cleanup
    raise Terminated


def _message(number: signal.Signals) -> str:
    return f"tfship: {_WORDS[number]}; {_REMEDY}"


def _error(number: signal.Signals) -> dict[str, Any]:
    return {
        "error": _WORDS[number].capitalize(),
        "where": "tfship",
        "expected": "to come to its end",
        "found": number.name,
        "remedy": _REMEDY,
        "facts": {},
    }
