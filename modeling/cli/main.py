"""The command `modeling`: a group of commands that turns each error into its exit code."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

import click
from click.exceptions import Exit

from modeling.cli import output, runs, train
from modeling.cli.options import Choice
from modeling.cli.output import explain_output, failure, printable_lines
from modeling.errors import CLOSED_PIPE, INTERRUPTED, explain, naming_options
from modeling.training.signals import raise_interrupts

_COMMANDS = (train.train, runs.score, runs.report, runs.compare, runs.predict, runs.export)


class _Commands(click.Group):
    """A group whose commands end with the exit code of the error's class."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        try:
            return super().make_context(*args, **extra)
        except BrokenPipeError:  # of --help; click would end with 1
            raise Exit(CLOSED_PIPE) from None

    def invoke(self, ctx: click.Context) -> Any:
        with naming_options():
            try:
                return super().invoke(ctx)
            except (Exception, KeyboardInterrupt) as error:
                ending = _ending(error)
                if ending is None or ending is error:
                    raise
                raise ending from error


def _ending(error: BaseException) -> click.ClickException | Exit | None:
    """Turn `error` into a message with an exit code, or an exit; None for a bug in the program."""
    if isinstance(error, click.ClickException | Exit):
        return error
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return failure("interrupted", INTERRUPTED)
    if isinstance(error, BrokenPipeError):
        return Exit(CLOSED_PIPE)
    explained = explain_output(error) or explain(error)
    return None if explained is None else failure(str(explained), explained.exit_code)


def run() -> int:
    """Run the command line and return its exit status."""
    raise_interrupts()
    output.secure_streams()
    try:
        status = cli.main(standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        ending = _ending(error)
        if ending is None:
            raise
        status = ending.exit_code if isinstance(ending, Exit) else _show(ending)
    output.drop_unwritable()
    return status if isinstance(status, int) else 0


_ERROR = "Error: "  # what click puts ahead of each message


def _show(error: click.ClickException) -> int:
    """Print an error, if the stream is still open, and return its exit code."""
    # click quotes arguments, and one may be the name of somebody's file
    text = f"{_ERROR}{printable_lines(error.message, sys.stderr)}"
    vars(error)["message"] = output.wrapped(text, sys.stderr).removeprefix(_ERROR)
    with suppress(OSError):
        error.show()
    return error.exit_code


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="datagen", prog_name="modeling")
def cli() -> None:
    """Train, score and show models of the three datasets: foreground, circles and mosaics.

    \b
    Exit codes: 0 done, 1 training cannot continue or an exported model computes something else, 2
    usage, 3 bad input or settings, or a package that is missing, 4 not a dataset or a run, 5
    damaged, 6 busy, 7 storage, or short of memory or threads, 130 interrupted, 141 standard output
    is a closed pipe.
    """


@cli.command()
@click.argument("shell", type=Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes commands in a shell.

    \b
    For bash:  modeling completion bash >> ~/.bashrc
    """
    from click.shell_completion import get_completion_class

    shell_class = get_completion_class(shell)
    assert shell_class is not None
    click.echo(shell_class(cli, {}, "modeling", "_MODELING_COMPLETE").source())


for _command in _COMMANDS:
    cli.add_command(_command)
