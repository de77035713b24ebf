"""Tiny sources with known content, tiny recipes, and helpers to look at folders and processes."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
import pytest
import zarr

from datagen import recipe as recipes
from datagen.dataset import Dataset
from datagen.recipe import Recipe
from datagen.sources.base import UInt8
from datagen.stores import Array

COUNTS = {"train": 40, "val": 8, "test": 12}
# Shards of 256 samples: three, one and two; the last of each is not full.
MOSAICS = {"train": 700, "val": 64, "test": 300}
FORMATS = ("zarr", "hdf5")


def digits(count: int, tile: tuple[int, int] = (5, 4), salt: str = "") -> tuple[UInt8, UInt8]:
    """Make distinct images, always the same, and labels 0 to 9 in turn.

    The first is empty, the second has a single bright pixel, the third is constant (as far as
    `count` goes); the others are noise from SHAKE-128 of `salt`.
    """
    height, width = tile
    noise = hashlib.shake_128(f"digits {salt}".encode()).digest(count * height * width)
    images = np.frombuffer(noise, np.uint8).reshape(count, height, width).copy()
    images[:1] = 0
    images[1:2] = 0
    images[1:2, height // 2, width // 2] = 255
    images[2:3] = 200
    return images, np.arange(count, dtype=np.uint8) % 10


def split_digits(
    counts: Mapping[str, int] = COUNTS, tile: tuple[int, int] = (5, 4)
) -> dict[str, tuple[UInt8, UInt8]]:
    """Make digits of each split; the first three are in train only, so that none is dropped."""
    made = {}
    for split, count in counts.items():
        images, labels = digits(count + 3, tile, split)
        first = 0 if split == "train" else 3
        made[split] = images[first : first + count], labels[:count]
    return made


def save_source(path: Path, parts: Mapping[str, tuple[UInt8, UInt8]]) -> Path:
    """Write the parts as a .npz source."""
    arrays = {f"{split}_images": images for split, (images, _) in parts.items()}
    arrays |= {f"{split}_labels": labels for split, (_, labels) in parts.items()}
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    return path


def tiny_source(
    folder: Path,
    counts: Mapping[str, int] = COUNTS,
    tile: tuple[int, int] = (5, 4),
    name: str = "digits.npz",
) -> Path:
    """Write a .npz source with `counts` digits in each split."""
    return save_source(folder / name, split_digits(counts, tile))


def tiny_table(source: Path | str, **changes: Any) -> dict[str, Any]:
    """Make a recipe as nested values; `changes` are keys of any of its tables, as `shard_size`."""
    spec = f"npz:{source}" if isinstance(source, Path) else source
    table: dict[str, Any] = {
        "source": spec,
        "mosaics": {"grid": [2, 2], **MOSAICS},
        "storage": {"format": "zarr", "shard_size": 256, "compression": "none"},
    }
    for key, value in changes.items():
        home = next(
            (inner for inner in (table["mosaics"], table["storage"]) if key in inner), table
        )
        home[key] = value
    return table


def tiny_recipe(source: Path | str, **changes: Any) -> Recipe:
    """Make the recipe of `tiny_table`."""
    return recipes.from_table(tiny_table(source, **changes), origin="tiny")


def save_recipe(path: Path, source: Path | str, **changes: Any) -> Path:
    """Write the recipe of `tiny_table` as TOML."""
    path.write_text(recipes.to_toml(tiny_recipe(source, **changes)))
    return path


def tree(root: Path) -> dict[str, bytes]:
    """Read all files below `root`, hidden ones too: path -> bytes, b"" for empty folders."""
    entries = {
        str(path.relative_to(root)): path
        for path in root.rglob("*")
        if not path.is_dir() or not any(path.iterdir())
    }
    return {
        name: path.read_bytes() if path.is_file() else b"" for name, path in sorted(entries.items())
    }


def hidden(root: Path) -> list[str]:
    """List hidden files and folders below `root`: a build's progress and temporary files."""
    return sorted(str(path.relative_to(root)) for path in root.rglob(".*"))


def columns(root: Path) -> dict[tuple[str, str, str], Array]:
    """Read every column of a finished dataset, whole, with `Dataset`."""
    dataset = Dataset(root)
    return {
        (task, split, column.name): dataset.rows(task, split, column.name, 0, of.count)
        for (task, split), of in dataset.splits.items()
        for column in of.columns
    }


def through_library(root: Path, task: str, split: str, column: str) -> Array:
    """Read a whole column as a user of zarr or h5py does."""
    folder = root / task / split
    if (folder / "zarr.json").exists():
        group: Any = zarr.open_group(folder, mode="r")
        return np.asarray(group[column][:])
    import hdf5plugin  # noqa: F401  (the import lets h5py read zstd)

    shards = []
    for path in sorted(folder.glob("*.h5")):
        with h5py.File(path) as file:
            shards.append(file[column][:])
    return np.concatenate(shards)


def flip(path: Path, position: int) -> None:
    """Invert the lowest bit of the byte at `position`; a negative one counts from the end."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Start the command line in a process and a session of its own, with its output in pipes."""
    # A shell's background jobs ignore SIGINT, what nohup starts ignores SIGHUP, and so would the
    # process; a handler is not inherited.
    before = {
        number: signal.signal(number, signal.default_int_handler)
        for number in (signal.SIGINT, signal.SIGHUP)
    }
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "datagen", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "DATAGEN_SOURCE_DIR": ""} | options.pop("env", {}),
            **options,
        )
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Death(BaseException):
    """Raised by every change of the disk after the moment of death."""


class Disk:
    """Context that counts the calls of `os` that change the disk: `calls` lists (name, path).

    Call number `dies_before` and all later ones raise Death instead: no clean-up succeeds, as after
    SIGKILL. Call number i of `fails` = (i, errno) fails with that error.
    """

    CHANGES = (
        "open",
        "write",
        "pwrite",
        "pwritev",
        "fsync",
        "replace",
        "rename",
        "unlink",
        "rmdir",
        "mkdir",
    )

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        *,
        dies_before: int | None = None,
        fails: tuple[int, int] | None = None,
    ) -> None:
        self.calls: list[tuple[str, Path]] = []
        self._dies_before = dies_before
        self._fails = fails
        self._monkeypatch = monkeypatch
        self._opened: dict[int, Path] = {}

    def __enter__(self) -> Self:
        self._real = {name: getattr(os, name) for name in self.CHANGES}
        for name in self.CHANGES:
            self._monkeypatch.setattr(os, name, self._watched(name, self._real[name]))
        return self

    def __exit__(self, *_: object) -> None:
        for name, call in self._real.items():
            self._monkeypatch.setattr(os, name, call)

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(first: Any, *others: Any, **options: Any) -> Any:
            path = (
                self._opened.get(first)
                if isinstance(first, int)
                else Path(others[0] if name == "replace" else first)
            )
            looks = (name == "open" and not others[0] & os.O_CREAT) or (
                name == "mkdir" and Path(first).is_dir()
            )
            if not looks:
                self._step(name, path or Path())
            result = call(first, *others, **options)
            if name == "open":
                self._opened[result] = Path(first)
            return result

        return watched

    def _step(self, name: str, path: Path) -> None:
        number = len(self.calls)
        if self._dies_before is not None and number >= self._dies_before:
            raise Death
        self.calls.append((name, path))
        if self._fails is not None and number == self._fails[0]:
            raise OSError(self._fails[1], os.strerror(self._fails[1]), str(path))


def forkserver() -> ForkServerContext:
    """Return a context whose processes are forks of one that has imported torch, which is slow."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo", "modeling.training.loop"])
    return context


@contextmanager
def on_one_thread() -> Iterator[None]:
    """Let torch compute on one thread, and restore their number in the end."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_shell(
    *arguments: object, shell: str = "", **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run the command line with streams redirected by `shell`, such as "2>&-" or "| true"."""
    line = options.pop("prefix", "") + shlex.join(
        [sys.executable, "-m", "datagen", *map(str, arguments)]
    )
    env = {**os.environ, "DATAGEN_SOURCE_DIR": ""} | options.pop("env", {})
    script = f"set -o pipefail\n{options.pop('before', '')}\n{line} {shell}"
    return subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        env=env,
        timeout=120,
        check=False,
        **options,
    )


def without_privileges() -> str:
    """Return a command prefix that makes even the superuser obey permissions."""
    if os.geteuid():
        return ""
    if shutil.which("setpriv") is None:
        pytest.skip("permissions do not bind the superuser")
    rights = "-dac_override,-dac_read_search"
    return f"setpriv --bounding-set {rights} --inh-caps {rights} "
