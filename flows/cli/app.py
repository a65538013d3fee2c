"""The command line: registers the commands and turns errors into one message with a remedy and an exit code."""

from __future__ import annotations

import os
import signal
import sys

import typer

from flows.cli import doctor, gc, init, plan, run, schedule, steps, termination
from flows.cli.models import inspect, predict, probe, verify
from flows.cli.serving import diff, evidence, promote, serve, versions
from tasks.errors import EnvironmentFailure, ExitCode, PipelineError, UsageError
from tasks.presentation.terminal import say

app = typer.Typer(
    name="tfship",
    help="Takes a TensorFlow model to a served version, with proof that every form of it computes the same.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
run.register(app)
plan.register(app)
schedule.register(app)
init.register(app)
steps.register(app)
promote.register(app)
versions.register(app)
diff.register(app)
evidence.register(app)
serve.register(app)
inspect.register(app)
verify.register(app)
predict.register(app)
probe.register(app)
doctor.register(app)
gc.register(app)


def answer() -> int:
    """Run the command line and return its exit code. An error is reported once, with `--json` as one document."""
    try:
        termination.clean_up_first()
        _require_text(sys.argv[1:])
        code = app(standalone_mode=False)
        if code == ExitCode.INTERRUPTED:  # typer's exit code for Ctrl-C
            raise KeyboardInterrupt
    except PipelineError as error:
        return _report(error)
    except BrokenPipeError:  # the reader of our output, `head` for example, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.STEP_FAILED
    except OSError as error:
        return _report(EnvironmentFailure.from_os(error, "tfship"))
    except (KeyboardInterrupt, typer.Abort):
        return termination.stopped(signal.SIGINT)
    except BaseException as error:
        if termination.is_termination(error):
            return termination.stopped(signal.SIGTERM)
        if shown := getattr(error, "format_message", None):  # typer's and click's own usage errors
            if text := shown():  # without a command there is the help instead
                say(f"tfship: {text}\nRemedy: see `tfship --help`.", file=sys.stderr)
                wrong = ("the command line", "what `tfship --help` says", text, "see `tfship --help`.")
                termination.failed(UsageError(*wrong).encode())
            return ExitCode.USAGE
        if isinstance(error, Exception):  # a bug in tfship: its traceback follows
            termination.failed(PipelineError("tfship", "no bug in tfship", repr(error), "please report it.").encode())
        raise
    return code if isinstance(code, int) else ExitCode.DONE


def _require_text(words: list[str]) -> None:
    """Raise UsageError for an argument in another encoding: no report, record or message could name it."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            remedy = "rename the file, or give a link to it: ln -s FILE NAME."
            raise UsageError("the command line", "text in UTF-8", ascii(word), remedy) from None


def _report(error: PipelineError) -> int:
    say(f"tfship: {error}", file=sys.stderr)
    termination.failed(error.encode())
    return error.exit_code
