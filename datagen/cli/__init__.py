"""The command `datagen`: commands parse, call the library and print; errors become exit codes.

Commands reach the library through `import datagen`, which imports modules when they are first used:
`--help` of every command answers at once, without NumPy.
"""

from __future__ import annotations

import errno
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from click.exceptions import Exit

import datagen
from datagen.cli import look, move, output, read, write
from datagen.cli.options import PATH, Choice, numbers_expected
from datagen.errors import (
    CLOSED_PIPE,
    INTERRUPTED,
    DatagenError,
    StorageError,
    naming_options,
    printable_lines,
)
from datagen.files import storage_error

_COMMANDS = (
    *(
        write.sources,
        write.fetch,
        write.plan,
        write.build,
        write.shards,
        write.finish,
        write.convert,
    ),
    *(read.info, read.verify, read.diff, look.show, look.sample, read.export, write.preview),
    *(look.report, look.browse, read.card),
    *(move.push, move.pull),
)
_CONTINUES = (
    "build",
    "convert",
    "export",
    "fetch",
    "finish",
    "pull",
    "push",
)  # commands that keep what they have done
_OUTPUT = Path("standard output")  # named in errors of writing that name no file
_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LESS_MEMORY = "end other programs, or use fewer --workers where the command has that option"


class _Commands(click.Group):
    """A group whose commands end with the exit code of the error's class."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        try:
            return super().make_context(*args, **extra)
        except BrokenPipeError:  # of --help; click would end with 1
            raise Exit(CLOSED_PIPE) from None

    def invoke(self, ctx: click.Context) -> Any:
        arguments = list(ctx.args)  # taken away meanwhile
        with naming_options():
            try:
                return super().invoke(ctx)
            except click.UsageError as error:
                command = self.get_command(ctx, ctx.invoked_subcommand or "")
                message = numbers_expected(error, command, arguments)
                if message is None:
                    raise
                raise click.UsageError(message, error.ctx) from error
            except (Exception, KeyboardInterrupt) as error:
                ending = _ending(error, ctx.invoked_subcommand)
                if ending is None:
                    raise
                raise ending from error


def _ending(error: BaseException, command: str | None = None) -> click.ClickException | Exit | None:
    """Turn `error` into a message with an exit code, or an exit; None for a bug in the program."""
    if isinstance(error, click.Abort) or _stems_from_interrupt(error):
        hint = "; give the same command again: it continues where it stopped"
        return _failure(f"interrupted{hint if command in _CONTINUES else ''}", INTERRUPTED)
    if isinstance(error, BrokenPipeError):
        return Exit(CLOSED_PIPE)
    explained = _explain(error)
    if explained is None:
        return None
    is_full = isinstance(explained.__cause__, OSError) and explained.__cause__.errno in _FULL
    hint = "; what is done so far is kept for the next run"
    kept = hint if is_full and command in _CONTINUES else ""
    return _failure(f"{explained}{kept}", explained.exit_code)


def _explain(error: BaseException) -> DatagenError | None:
    """Turn shortages of the machine and broken installations into errors of this package."""
    if isinstance(error, MemoryError):
        return StorageError("memory is short", remedy=_LESS_MEMORY)
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return StorageError("the system gives this process no more threads", remedy=_LESS_MEMORY)
    if isinstance(error, ImportError):
        return StorageError(
            f"a library cannot be loaded: {_reason(error)}",
            remedy="install datagen again, or make sure that memory is not short",
        )
    if isinstance(error, OSError):
        return storage_error(error, _OUTPUT if error.errno in _WRITING else None)
    return error if isinstance(error, DatagenError) else None


def _stems_from_interrupt(error: BaseException | None) -> bool:
    """Return whether `error` is an interruption, or what an import made of one."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _failure(message: str, exit_code: int) -> click.ClickException:
    """Make the error that click prints before it exits with `exit_code`."""
    failure = click.ClickException(message)
    vars(failure)["exit_code"] = exit_code
    return failure


def _reason(error: BaseException) -> str:
    """Return the first line of why an import failed: NumPy adds a page of advice."""
    while isinstance(error.__cause__, ImportError):
        error = error.__cause__
    return str(error).strip().partition("\n")[0]


def run() -> int:
    """Run the command line and return its exit status."""
    output.secure_streams()
    try:
        status = cli.main(standalone_mode=False)
        sys.stdout.flush()
    except Exit as exit_:
        status = exit_.exit_code
    except click.ClickException as failure:
        status = _show(failure)
    except Exception as error:
        ending = _ending(error)
        if ending is None:
            raise
        status = ending.exit_code if isinstance(ending, Exit) else _show(ending)
    output.drop_unwritable()
    return status if isinstance(status, int) else 0


_ERROR = "Error: "  # what click puts ahead of each message


def _show(failure: click.ClickException) -> int:
    """Print an error, if the stream is still open, and return its exit code."""
    # click quotes arguments, and one may be the name of somebody's file; help is our own text, and
    # an error of its own since click 8.2
    if type(failure).__name__ != "NoArgsIsHelpError":
        text = output.wrapped(f"{_ERROR}{printable_lines(failure.message)}", sys.stderr)
        vars(failure)["message"] = text.removeprefix(_ERROR)
    with suppress(OSError):
        failure.show()
    return failure.exit_code


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(datagen.__version__, prog_name="datagen")
@click.option(
    "--with",
    "files",
    multiple=True,
    type=PATH,
    metavar="FILE.py",
    help="Python file that defines more tasks; they are built and verified too. Its code is run.",
)
@click.pass_context
def cli(context: click.Context, files: tuple[Path, ...]) -> None:
    """Exact, verifiable datasets from labelled digit images: foreground, circles and mosaics.

    \b
    Exit codes: 0 done, 1 problems or differences found, 2 usage, 3 bad input or recipe, 4 not a
    dataset, 5 damaged, 6 busy, 7 storage or memory, 8 a source cannot be fetched, 9 the engine
    failed, 130 interrupted, 141 a closed pipe.
    """
    context.obj = [name for path in files for name in datagen.tasks.load_file(path)]


@cli.command()
@click.argument("shell", type=Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes commands in a shell.

    \b
    For bash:  datagen completion bash >> ~/.bashrc
    """
    from click.shell_completion import get_completion_class

    shell_class = get_completion_class(shell)
    assert shell_class is not None
    click.echo(shell_class(cli, {}, "datagen", "_DATAGEN_COMPLETE").source())


for _command in _COMMANDS:
    cli.add_command(_command)
