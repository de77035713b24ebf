"""The command line: a group of commands that turns each error into its exit code."""

from __future__ import annotations

import errno
import os
import runpy
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from click.exceptions import Exit

from datagen import __version__
from datagen.cli import building, output, proving, showing
from datagen.cli.options import PATH
from datagen.errors import (
    CLOSED_PIPE,
    INTERRUPTED,
    DatagenError,
    RecipeError,
    StorageError,
    printable_list,
)
from datagen.files import kind, storage_error, storage_errors

_COMMANDS = (
    building.sources,
    building.fetch,
    building.build,
    building.shards,
    building.finish,
    building.convert,
    proving.info,
    proving.verify,
    proving.diff,
    showing.show,
    showing.sample,
    showing.preview,
)


# commands that keep what they have done when they are interrupted
_GOES_ON = ("build", "convert", "fetch", "finish")
_OUTPUT = Path("standard output")  # of an error in writing that names no file: those of files do
_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LESS_MEMORY = "end other programs, or use fewer --workers where the command has that option"


class _Commands(click.Group):
    """A group whose commands end with the exit code that the error's class states."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        try:
            return super().make_context(*args, **extra)
        except BrokenPipeError:  # of --help; click would end with 1
            raise Exit(CLOSED_PIPE) from None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (Exception, KeyboardInterrupt) as error:
            ending = _ending(error, ctx.invoked_subcommand)
            if ending is None:
                raise
            raise ending from error


def _ending(error: BaseException, command: str | None = None) -> click.ClickException | Exit | None:
    """Make of `error` a message and its exit code, or an exit; None where it is a mistake of
    ours.
    """
    if isinstance(error, click.Abort) or _stems_from_interrupt(error):
        hint = (
            "; give the same command again: it goes on where it was" if command in _GOES_ON else ""
        )
        return _failure(f"interrupted{hint}", INTERRUPTED)
    if isinstance(error, BrokenPipeError):
        return Exit(CLOSED_PIPE)
    if isinstance(error, MemoryError):
        error = StorageError("memory is short", remedy=_LESS_MEMORY)
    elif isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        error = StorageError("the system gives this process no more threads", remedy=_LESS_MEMORY)
    elif isinstance(error, ImportError):
        error = StorageError(
            f"a library cannot be loaded: {_reason(error)}",
            remedy="install datagen anew, or see to it that memory is not short",
        )
    elif isinstance(error, OSError):
        error = storage_error(error, _OUTPUT if error.errno in _WRITING else None)
    if not isinstance(error, DatagenError):
        return None
    is_full = isinstance(error.__cause__, OSError) and error.__cause__.errno in _FULL
    hint = (
        "; what is done so far is kept for the next run" if is_full and command in _GOES_ON else ""
    )
    return _failure(f"{error}{hint}", error.exit_code)


def _stems_from_interrupt(error: BaseException | None) -> bool:
    """Tell whether `error` is an interruption, or what an import made of one that came in the
    middle of it.
    """
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _failure(message: str, exit_code: int) -> click.ClickException:
    """An error of the library, on its way to the terminal."""
    failure = click.ClickException(message)
    vars(failure)["exit_code"] = exit_code
    return failure


def _reason(error: BaseException) -> str:
    """The first words of why something could not be imported: NumPy wraps them in a page of
    advice.
    """
    while isinstance(error.__cause__, ImportError):
        error = error.__cause__
    return str(error).strip().partition("\n")[0]


def run() -> int:
    """Run the command line; its exit status."""
    output.secure_streams()
    try:
        status = cli.main(standalone_mode=False)
        output.flush()
    except Exit as exit_:
        status = exit_.exit_code
    except click.ClickException as failure:
        status = _show(failure)
    except Exception as error:
        ending = _ending(error)
        if ending is None:
            raise
        status = ending.exit_code if isinstance(ending, Exit) else _show(ending)
    output.abandon_what_cannot_be_written()
    return status if isinstance(status, int) else 0


def _show(failure: click.ClickException) -> int:
    """Print an error, if anybody can still read it; its exit code."""
    # an argument may be the name of somebody's file
    vars(failure)["message"] = printable_list(failure.message)
    with suppress(OSError):
        failure.show()
    return failure.exit_code


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="datagen")
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
    """Exact, provable datasets from labelled digit images: foreground, circles and mosaics.

    \b
    Exit codes: 0 done, 1 problems or differences found, 2 usage, 3 bad input or recipe, 4 not a
    dataset, 5 damaged, 6 busy, 7 storage or memory, 8 a source could not be had, 130 interrupted,
    141 a closed pipe.
    """
    context.obj = [name for path in files for name in _register_tasks(path)]


def _register_tasks(path: Path) -> list[str]:
    """Run a file, make the tasks that it defines known, and give their names."""
    from datagen.tasks import Task, register

    found = kind(Path(os.path.realpath(path)))
    if found != "a file":
        raise RecipeError("no such file", path=path, expected="a file of Python", found=found)
    with storage_errors(path), path.open("rb"):
        pass  # can be read: any other trouble is the file's own
    try:
        values = runpy.run_path(str(path)).values()
    except (Exception, SystemExit) as error:
        raise RecipeError(
            f"the file cannot be run: {type(error).__name__}: {error}", path=path
        ) from error
    defined = [value for value in values if isinstance(value, Task)]
    if not defined:
        raise RecipeError(
            "the file defines no task", path=path, expected="a datagen.tasks.Task", found="none"
        )
    for task in defined:
        register(task)
    return [task.name for task in defined]


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
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
