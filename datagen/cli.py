"""The command line: a group of commands that turns each error into its exit code."""

from __future__ import annotations

import runpy
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from datagen import __version__
from datagen.commands import building, proving, showing
from datagen.errors import INTERRUPTED, DatagenError, RecipeError, StorageError

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


def _failure(message: str, exit_code: int) -> click.ClickException:
    """An error of the library, on its way to the terminal."""
    failure = click.ClickException(message)
    vars(failure)["exit_code"] = exit_code
    return failure


class _Commands(click.Group):
    """A group whose commands end with the exit code that the error's class states."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DatagenError as error:
            raise _failure(str(error), error.exit_code) from error
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _failure(
                f"{error.filename or 'the system'}: {error.strerror or error}", StorageError.exit_code
            ) from error
        except KeyboardInterrupt:
            hint = "; give the same command again: it goes on where it was" if ctx.invoked_subcommand == "build" else ""
            raise _failure(f"interrupted{hint}", INTERRUPTED) from None


def main() -> NoReturn:
    """Run the command line and exit with its status."""
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(cli())


def _interrupt(signum: int, frame: object) -> NoReturn:  # noqa: ARG001  (a signal handler's signature)
    raise KeyboardInterrupt


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="datagen")
@click.option(
    "--with",
    "files",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE.py",
    help="Python file that defines more tasks; they are built and verified too. Its code is run.",
)
@click.pass_context
def cli(context: click.Context, files: tuple[Path, ...]) -> None:
    """Exact, provable datasets from labelled digit images: foreground, circles and mosaics.

    \b
    Exit codes: 0 done, 1 problems or differences found, 2 usage, 3 bad input or recipe, 4 not a dataset,
    5 damaged, 6 busy, 7 storage, 8 a source could not be had, 130 interrupted.
    """
    context.obj = [name for path in files for name in _register_tasks(path)]


def _register_tasks(path: Path) -> list[str]:
    """Run a file, make the tasks that it defines known, and give their names."""
    from datagen.tasks import Task, register

    try:
        values = runpy.run_path(str(path)).values()
    except Exception as error:
        raise RecipeError(f"the file cannot be run: {type(error).__name__}: {error}", path=path) from error
    defined = [value for value in values if isinstance(value, Task)]
    if not defined:
        raise RecipeError("the file defines no task", path=path, expected="a datagen.tasks.Task", found="none")
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

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "datagen", "_DATAGEN_COMPLETE").source())


for _command in _COMMANDS:
    cli.add_command(_command)
