"""Labelled sources of a few images, with duplicates and conflicting labels, in memory and as .npz
files.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from datagen.sources.base import MAX_CLASSES, Part, Source, UInt8
from datagen.sources.base import NOT_STATED
from datagen.testing._images import Shape, distinct, shapes

_FEW_CLASSES = 10
LAYOUTS = (("train", "val", "test"), ("train", "test"), ("all",))
# Images of a part that are nowhere else, so that each split can keep one: train may give to val,
# all gives to both, by key, and with few images few seeds do.
_OWN = {"all": 5, "train": 2, "val": 1, "test": 1}


@st.composite
def sources(
    draw: st.DrawFn,
    *,
    parts: tuple[str, ...] | None = None,
    shape: Shape | None = None,
    max_classes: int = MAX_CLASSES,
    max_images: int = 6,
    duplicates: bool = True,
) -> Source:
    """Labelled sources: `Source` records of a few images of one shape, just as `npz:FILE` reads
    them.

    `parts` is one of `LAYOUTS`, `shape` (height, width); None draws them. A part has up to
    `max_images` distinct images, "all" at least five. With `duplicates` some images come again, in
    the same part or in another, and perhaps with another label. Some recipe can divide every one of
    them (see `recipes`), but not every recipe can: `divide` may raise InputError or RecipeError.

    >>> from hypothesis import given
    >>> @given(sources(parts=("train", "test"), shape=(4, 3)))
    ... def test_images_are_tiles(source):
    ...     assert source.parts["train"].images.shape[1:] == (4, 3)
    >>> test_images_are_tiles()
    """
    names = draw(st.sampled_from(LAYOUTS)) if parts is None else parts
    tile = draw(shapes()) if shape is None else shape
    counts = [draw(st.integers(_OWN[name], max(_OWN[name], max_images))) for name in names]
    unused = iter(draw(distinct(tile, sum(counts), sum(counts))))
    own = {
        name: list(itertools.islice(unused, count))
        for name, count in zip(names, counts, strict=True)
    }
    shared = [image for name in names for image in own[name][_OWN[name] :]] if duplicates else []
    classes = draw(class_counts(max_classes))
    delivered = {}
    for name in names:
        again = draw(st.lists(st.sampled_from(range(len(shared))), max_size=2)) if shared else []
        rows = [*own[name], *(shared[number] for number in again)]
        first = draw(st.integers(0, len(rows) - 1))
        rows = [*rows[first:], *rows[:first]]
        delivered[name] = Part(np.stack(rows), draw(labels_of(len(rows), classes)))
    digests = {name: _digest(name, array) for name, array in _arrays(delivered).items()}
    return Source(
        "npz", delivered, tuple(map(str, range(classes))), digests, NOT_STATED, NOT_STATED
    )


def save_source(source: Source, path: Path) -> Path:
    """Write a source as the .npz file from which `npz:FILE` reads the same source; returns its
    path.

    >>> save_source(source, tmp_path / "digits.npz")  # doctest: +SKIP
    """
    with path.open("wb") as file:
        np.savez(
            file, allow_pickle=False, classes=np.array(source.classes), **_arrays(source.parts)
        )
    return path


def class_counts(most: int) -> st.SearchStrategy[int]:
    """How many classes there are: few, or as many as can be."""
    return st.integers(1, min(most, _FEW_CLASSES)) | st.just(most)


@lru_cache(256)
def labels_of(count: int, classes: int) -> st.SearchStrategy[UInt8]:
    """Labels uint8 (count,) below `classes`."""
    labels = st.lists(st.integers(0, classes - 1), min_size=count, max_size=count)
    return labels.map(lambda drawn: np.array(drawn, np.uint8))


def _arrays(parts: Mapping[str, Part]) -> dict[str, UInt8]:
    named: dict[str, UInt8] = {}
    for name, part in parts.items():
        prefix = "" if name == "all" else f"{name}_"
        named |= {f"{prefix}images": part.images, f"{prefix}labels": part.labels}
    return named


def _digest(name: str, array: UInt8) -> str:
    """The digest that the reader of .npz files gives to an array."""
    return hashlib.sha256(
        f"{name} {'x'.join(map(str, array.shape))}\n".encode() + array.tobytes()
    ).hexdigest()
