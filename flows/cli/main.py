"""The console script: arguments in, exit code out; errors as one message with a remedy."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

import typer

from flows.cli import doctor, gc, init, inspect, plan, predict, releases, run, serve, steps, verify
from tasks.errors import EnvironmentFailure, ExitCode, PipelineError

app = typer.Typer(
    name="tfship",
    help="Takes a TensorFlow model to a served version, with proof that every form of it computes the same.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
run.register(app)
plan.register(app)
init.register(app)
steps.register(app)
releases.register(app)
serve.register(app)
inspect.register(app)
verify.register(app)
predict.register(app)
doctor.register(app)
gc.register(app)


class Terminated(BaseException):
    """SIGTERM, as an exception: everything that is under way is ended and cleaned up on its way out."""


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough; what follows must finish
    raise Terminated


def main() -> None:
    """Run the command line and leave with its exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(_run())


def _run() -> int:
    try:
        code = app(standalone_mode=False)
        if code == ExitCode.INTERRUPTED:  # which is what typer makes of Ctrl-C
            raise KeyboardInterrupt
    except PipelineError as error:
        return _say(error)
    except BrokenPipeError:  # whoever read our output, `head` for one, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.STEP_FAILED
    except OSError as error:
        return _say(EnvironmentFailure.from_os(error, "tfship"))
    except (KeyboardInterrupt, typer.Abort):
        print("tfship: interrupted; run again to go on from here.", file=sys.stderr)
        return ExitCode.INTERRUPTED
    except BaseException as error:
        if type(error).__name__ in ("Terminated", "TerminationSignal"):  # ours, or Prefect's inside a flow
            print("tfship: terminated; run again to go on from here.", file=sys.stderr)
            return ExitCode.TERMINATED
        if shown := getattr(error, "format_message", None):  # typer's and click's own usage errors
            if said := shown():  # without a command there is the help instead
                print(f"tfship: {said}\nRemedy: see `tfship --help`.", file=sys.stderr)
            return ExitCode.USAGE
        raise
    return code if isinstance(code, int) else ExitCode.DONE


def _say(error: PipelineError) -> int:
    print(f"tfship: {error}", file=sys.stderr)
    return error.exit_code
