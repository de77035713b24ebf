"""The command line: a group of commands that turns each error into its exit code."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import click

from modeling.cli import applying, scoring, training
from modeling.cli.output import explain_output, failure, printable_lines
from modeling.errors import CLOSED_PIPE, INTERRUPTED, explain
from modeling.training.signals import raise_interrupts

# Imports of NumPy, torch and all above them stand inside the commands: `modeling --help` must
# answer at once.

_COMMANDS = (training.train, scoring.score, scoring.report, applying.predict, applying.export)


class _ClosedPipe(click.ClickException):
    """Nobody reads standard output any more, as behind `head`: no word, and the exit code that a
    shell would give.
    """

    exit_code = CLOSED_PIPE

    def __init__(self) -> None:
        super().__init__("standard output is a closed pipe")

    def show(self, file: Any = None) -> None:
        pass


class _Commands(click.Group):
    """A group whose commands end with the exit code that the error's class states."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        try:
            return super().make_context(*args, **extra)
        except BrokenPipeError:  # of a help text; click would end with 1
            raise _ClosedPipe from None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except BrokenPipeError:
            raise _ClosedPipe from None
        except KeyboardInterrupt:
            raise failure("interrupted", INTERRUPTED) from None
        except Exception as error:
            told = explain_output(error) or explain(error)
            if told is None:
                raise
            raise failure(str(told), told.exit_code) from error

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        """Run a command and exit with its status, whatever becomes of the streams that it writes
        to.
        """
        run = partial(super().main, *args, **{**extra, "standalone_mode": False})
        status = _status(run)
        _flush()
        sys.exit(status)


def _status(run: Callable[[], Any]) -> int:
    """Run a command: what the process is to end with. An error is told on standard error, if that
    is open.
    """
    try:
        done = run()
        return done if isinstance(done, int) else 0
    except (click.Abort, KeyboardInterrupt):
        error: click.ClickException = failure("interrupted", INTERRUPTED)
    except click.ClickException as raised:
        error = raised
    except OSError as raised:  # standard output took no more of a help text
        told = explain_output(raised) or explain(raised)
        assert told is not None
        error = failure(str(told), told.exit_code)
    vars(error)["message"] = printable_lines(error.message, sys.stderr)
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            error.show()
    return error.exit_code


def _flush() -> None:
    """Write out what was printed; what cannot be is dropped, or Python would try again as it ends,
    and complain.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def _fill_standard_streams() -> None:
    """Open what is closed of the three standard streams, to nowhere.

    Else the next file to be opened, such as the log of a run, would take its number, and with it
    the words of libraries that are meant for a terminal.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def main() -> NoReturn:
    """Run the command line and exit with its status."""
    raise_interrupts()
    _fill_standard_streams()
    cli()
    raise AssertionError("the command line exits")


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="datagen", prog_name="modeling")
def cli() -> None:
    """Train, score and show models of the three datasets: foreground, circles and mosaics.

    \b
    Exit codes: 0 done, 1 training cannot go on or an exported model computes something else, 2
    usage, 3 bad input or settings, or a package that is missing, 4 not a dataset or a run, 5
    damaged, 6 busy, 7 storage, or short of memory or threads, 130 interrupted, 141 standard output
    is a closed pipe.
    """


for _command in _COMMANDS:
    cli.add_command(_command)
