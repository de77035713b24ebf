"""Plans: manifests of what is to be built, without tasks. What a folder was begun for, and what two
plans differ in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from datagen import files
from datagen import manifest as manifests
from datagen.errors import FormatError, RecipeError
from datagen.layout import DRAFT, MANIFEST, MAX_MANIFEST_BYTES, RECIPE
from datagen.manifest import Manifest
from datagen.split import Split

_FRAME_FACTS = 1 << 17  # bytes of the manifest that are kept for the facts of files
_TABLE_FACTS = 256  # bytes of the manifest that the facts of a table take, at most
_ROOT = 64  # bytes of the manifest that a content root takes
_MAX_LISTED = 5  # things that a message names


def existing_plan(root: Path) -> Manifest | None:
    """The manifest in `root`, of a dataset or of a build in progress; None without one. Raises what
    reading it does.
    """
    for _ in range(2):  # another process may give the draft its name between the two looks
        if files.look(root / MANIFEST):
            return manifests.load(root)
        if files.look(root / DRAFT):
            return read_draft(root)
    return None


def read_draft(root: Path) -> Manifest:
    """The manifest of the build in progress in `root`. Raises DamagedError or StorageError where it
    cannot be read.
    """
    path = root / DRAFT
    return manifests.from_bytes(manifests.read_bounded(path, MAX_MANIFEST_BYTES), path=path)


def require_free(root: Path, plan: Manifest) -> None:
    """Raise FormatError where `root` is a folder that holds anything but a dataset, begun or
    finished, of this plan.
    """
    with files.storage_errors(root):
        if not root.is_dir():
            return
        # Listed first: what another process begins here from now on, part of the same build, is no
        # stranger.
        strangers = [entry.name for entry in root.iterdir() if not files.is_temporary(entry.name)]
    present = existing_plan(root)
    if present is None:
        if RECIPE in strangers and any((root / entry).is_dir() for entry in strangers):
            raise FormatError(
                "holds what is left of a dataset whose manifest is gone",
                path=root,
                expected=f"a file {MANIFEST}",
                found=", ".join(sorted(strangers)[:_MAX_LISTED]),
                remedy="bring the manifest back, or remove the folder yourself and give the command again",
            )
        if strangers:
            raise FormatError(
                "holds something else",
                path=root,
                expected="a new or empty folder, or a dataset of the same recipe",
                found=", ".join(sorted(strangers)[:_MAX_LISTED]),
                remedy="choose another folder",
            )
    elif present.plan != plan.plan:
        expected, found = manifests.difference(plan, present)
        raise FormatError(
            "holds a dataset of another recipe or source",
            path=root,
            expected=expected,
            found=found,
            remedy="choose another folder, or remove this one yourself",
        )


def require_storable(plan: Manifest, splits: Sequence[Split]) -> None:
    """Raise RecipeError unless a manifest can state these splits: a task may declare anything."""
    try:
        problems = [problem for split in splits for problem in manifests.split_problems(split)]
        columns = [column for split in splits for column in split.columns]
        planned = replace(plan, splits={(split.task, split.name): split for split in splits})
        size = len(manifests.to_bytes(planned))
    except TypeError as error:
        problems = [str(error)]
    if problems:
        raise RecipeError(f"no dataset can hold what its tasks declare: {'; '.join(problems)}")
    size += _TABLE_FACTS * len(splits) + _ROOT * len(columns)
    if size > MAX_MANIFEST_BYTES - _FRAME_FACTS:
        raise RecipeError(
            "what the source says of itself does not fit a manifest",
            expected=f"at most {MAX_MANIFEST_BYTES - _FRAME_FACTS:,} bytes",
            found=f"{size:,}",
            remedy="give the classes shorter names",
        )
