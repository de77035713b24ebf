"""Import the packages of extras when a file needs them, and turn what they raise into errors."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from datagen.errors import DatagenError, InputError, installs
from datagen.files import require_enough

_MAX_SHOWN = 200  # characters of a package's message


def package(name: str, extra: str, path: Path | None = None) -> Any:
    """Import a module of the packages of `extra`; raise InputError if it is not installed.

    >>> package("json", "medical").loads("[1]")
    [1]
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(
            f"a file that needs the package {name.partition('.')[0]}",
            path=path,
            remedy=installs(extra),
        ) from error


@contextmanager
def foreign(problem: str, path: Path | None = None) -> Iterator[None]:
    """Turn what a package raises over a file into an InputError, and suppress its warnings.

    >>> with foreign("a damaged number"):
    ...     int("one")
    Traceback (most recent call last):
    datagen.errors.InputError: a damaged number: invalid literal for int() with base 10: 'one'
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except (DatagenError, MemoryError):
        raise
    except Exception as error:  # over damaged bytes a package may raise anything
        require_enough(error)
        raise InputError(f"{problem}: {str(error)[:_MAX_SHOWN]}", path=path) from error
