"""Say what a fuzz target is, and hold a reader to the package's own errors."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

from fuzz_inputs import Mutate

from datagen.errors import DatagenError

MAX_MESSAGE = 20_000  # characters of an error, for any input
Arguments = ParamSpec("Arguments")
Taken = TypeVar("Taken")


@dataclass(frozen=True)
class Target:
    """Hold a reader to fuzz.

    `check` raises if an input shows a defect, `seeds` makes the first inputs, `words` are the
    tokens of the format. `max_bytes` bounds an input; `mutate` changes one as (data,
    max_bytes, seed, change of bytes). Coverage counts in `packages` too.
    """

    check: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    words: tuple[bytes, ...]
    max_bytes: int = 4096
    mutate: Callable[[bytes, int, int, Mutate], bytes] | None = None
    packages: tuple[str, ...] = ()


def taken(
    read: Callable[Arguments, Taken], *arguments: Arguments.args, **named: Arguments.kwargs
) -> Taken | None:
    """Return what `read` returns; None if it refuses with a printable error of the package."""
    try:
        return read(*arguments, **named)
    except DatagenError as error:
        message = str(error)
        assert len(message) <= MAX_MESSAGE, f"a message of {len(message):,} characters"
        assert message.replace("\n", "").isprintable(), (
            f"a message that cannot be printed: {message!r}"
        )
        return None


_SCRATCH = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
FOLDER = Path(_SCRATCH.name)


def written(data: bytes, name: str = "input") -> Path:
    """Write `data` to a file, the same one each time."""
    path = FOLDER / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
