"""What lies in a folder: every entry by its path, looked at without opening it or following a
link.
"""

from __future__ import annotations

import os
import stat
from functools import cached_property
from pathlib import Path, PurePosixPath

from datagen.files import LINK_REMEDY, require_enough

LINK, SPECIAL, EMPTY, DEEP, CLOSED = -1, -2, -3, -4, -5
_KINDS = {
    LINK: f"a link ({LINK_REMEDY})",
    SPECIAL: "a pipe, socket or device",
    EMPTY: "an empty folder",
    DEEP: "a folder too deep",
    CLOSED: "something that cannot be looked at",
}
_DEPTH = 12  # folders; the deepest file of a dataset, a Zarr shard, lies in 7


class Inventory(dict[str, int]):
    """Path relative to the dataset -> size of a regular file, or one of the negative kinds."""

    @cached_property
    def folders(self) -> frozenset[str]:
        """Every folder with entries, once all are there."""
        return frozenset(str(folder) for path in self for folder in PurePosixPath(path).parents)


def inventory(root: Path) -> Inventory:
    """Every entry below `root` that is no folder with entries; no link is followed, and no folder
    deeper than 12.

    Raises OSError where `root` itself cannot be opened.
    """
    there = Inventory()
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(root / folder) as entries:
                found = list(entries)
        except OSError as error:
            if not folder:
                raise
            require_enough(error)
            there[folder.rstrip("/")] = CLOSED
            continue
        if folder and not found:
            there[folder.rstrip("/")] = EMPTY
        for entry in found:
            path = f"{folder}{entry.name}"
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                there[path] = CLOSED
                continue
            if not stat.S_ISDIR(status.st_mode):
                there[path] = _size(status)
            elif path.count("/") < _DEPTH:
                folders.append(f"{path}/")
            else:
                there[path] = DEEP
    return there


def described(path: str, there: Inventory) -> str:
    """Say in words what there is at `path`."""
    size = there.get(path)
    if size is None and any(
        there.get(str(folder)) == CLOSED for folder in PurePosixPath(path).parents
    ):
        return "nothing that can be seen"
    if size is None:
        return "a folder" if path in there.folders else "nothing"
    return _KINDS[size] if size < 0 else f"{size:,} bytes"


def _size(status: os.stat_result) -> int:
    if stat.S_ISREG(status.st_mode):
        return status.st_size
    return LINK if stat.S_ISLNK(status.st_mode) else SPECIAL
