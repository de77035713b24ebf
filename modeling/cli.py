"""The command line: a group of commands that turns each error into its exit code."""

from __future__ import annotations

import signal
import sys
from typing import Any, NoReturn

import click

from modeling.commands import applying, scoring, training
from modeling.errors import INTERRUPTED, InputError, ModelingError, StorageError
from modeling.terminal import failure

# Imports of NumPy, torch and all above them stand inside the commands: `modeling --help` must answer at once.

_COMMANDS = (training.train, scoring.score, scoring.report, applying.predict, applying.export)
_OPTIONAL = {"torch", "safetensors"}


class _Commands(click.Group):
    """A group whose commands end with the exit code that the error's class states."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ModelingError as error:
            raise failure(str(error), error.exit_code) from error
        except ModuleNotFoundError as error:
            if error.name not in _OPTIONAL:
                raise
            message = f"{error.name} is not installed; pip install 'datagen[train]', or give 'make train-all'"
            raise failure(message, InputError.exit_code) from error
        except BrokenPipeError:
            raise
        except OSError as error:
            raise failure(
                f"{error.filename or 'the system'}: {error.strerror or error}", StorageError.exit_code
            ) from error
        except KeyboardInterrupt:
            raise failure("interrupted", INTERRUPTED) from None


def main() -> NoReturn:
    """Run the command line and exit with its status."""
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(cli())


def _interrupt(signum: int, frame: object) -> NoReturn:  # noqa: ARG001  (a signal handler's signature)
    raise KeyboardInterrupt


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="datagen", prog_name="modeling")
def cli() -> None:
    """Train, score and show models of the three datasets: foreground, circles and mosaics.

    \b
    Exit codes: 0 done, 1 training cannot go on or an exported model computes something else, 2 usage,
    3 bad input or settings, 4 not a dataset or a run, 5 damaged, 6 busy, 7 storage, 130 interrupted.
    """


for _command in _COMMANDS:
    cli.add_command(_command)
