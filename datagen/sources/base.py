"""What every source delivers: labelled tiles, in named parts, with digests that pin them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

UInt8 = npt.NDArray[np.uint8]

Report = Callable[[str], None]  # hears of what went wrong on the way
Progress = Callable[[str, int, int | None], None]  # file name, bytes done, bytes in all if known

MAX_SIDE = 512  # pixels; the circle's integers fit int64 up to this height and width
MAX_CLASSES = 254  # the semantic mask holds class + 1 in a byte, and 255 stays free for "ignore"


@dataclass(frozen=True)
class Part:
    """A run of labelled tiles as its source delivers it.

    `images` is uint8 (n, height, width), C-contiguous and read-only by convention; `labels` is
    uint8 (n,).
    """

    images: UInt8
    labels: UInt8


@dataclass(frozen=True)
class Source:
    """A source of labelled tiles, loaded.

    `parts` has the keys "train" and "test", perhaps "val", where the source comes split, and the
    single key "all" where it does not. `classes` names the classes in the order of their labels.
    `digests` maps the name of each thing that was read to the SHA-256 (hex) of its decoded content,
    so that the same images in another container agree.
    """

    name: str
    parts: Mapping[str, Part]
    classes: tuple[str, ...]
    digests: Mapping[str, str]
    licence: str
    attribution: str
