"""Describe the kind of a dataset's images: bands, depth, and how their foreground is known.

`docs/format.md` defines the rule. The arrays here are NumPy's; `networks.pixels` computes the same
in torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
UInt8 = npt.NDArray[np.uint8]

BINS = 256  # ranges of equal width that the values of pixels are counted in
IGNORE = 255  # in a mask of classes: neither a class nor ground
LUMA = (299, 587, 114)  # thousandths of red, green and blue

_RULE = ("values", "side", "by", "level", "masks")
_BLOCK = 1 << 22  # numbers that are converted at once
_PERCENT = (1, 99)  # percentiles that are shown as black and white


@dataclass(frozen=True)
class Kind:
    """The kind of the images of a dataset.

    `bands` is None for images without an axis of bands, `dtype` is "|u1" or "<u2". `values`,
    `side`, `by`, `level` and `masks` are those of the recipe's rule of the foreground.

    >>> str(Kind()), str(Kind(3, "<u2")), Kind(3, "<u2").most
    ('grey of 8 bits', 'RGB of 16 bits', 65535)
    """

    bands: int | None = None
    dtype: str = "|u1"
    values: str = "grey"
    side: str = "above"
    by: str = "otsu"
    level: int | None = None
    masks: str | None = None

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Kind:
        """Read the kind from the facts of a run, which may lack what is at its default."""
        rule = {name: facts.get("foreground", {}).get(name) for name in _RULE}
        given = {name: value for name, value in rule.items() if value is not None}
        return cls(facts.get("bands"), facts.get("dtype", "|u1"), **given)

    def facts(self) -> dict[str, Any]:
        """Give what is not at its default as plain values, which `of` reads back."""
        plain: dict[str, Any] = {}
        if self.bands is not None:
            plain["bands"] = self.bands
        if self.dtype != GREY.dtype:
            plain["dtype"] = self.dtype
        rule = {name: getattr(self, name) for name in _RULE}
        if rule != {name: getattr(GREY, name) for name in _RULE}:
            plain["foreground"] = {name: each for name, each in rule.items() if each is not None}
        return plain

    @property
    def most(self) -> int:
        """The largest number that a pixel can have: 255 or 65,535."""
        return int(np.iinfo(self.dtype).max)

    @property
    def bits(self) -> int:
        """The depth of a band."""
        return 8 * np.dtype(self.dtype).itemsize

    @property
    def given(self) -> bool:
        """True where the source gives masks, so that no threshold decides."""
        return self.by == "given"

    @property
    def classes_given(self) -> bool:
        """True where the masks that the source gives are of classes."""
        return self.given and self.masks == "classes"

    @cached_property
    def reads(self) -> str:
        """The value of a pixel: `values`, or where masks are given and it does not fit, the usual.

        That is grey of images without bands, luma of three bands, and the mean of others.
        """
        bands = self.bands
        if bands is None:
            return "grey"
        fits = {"grey": False, "luma": bands == 3, "mean": True, "max": True}
        number = self.values.removeprefix("band ")
        if fits.get(self.values, number.isdecimal() and int(number) < bands):
            return self.values
        return "luma" if bands == 3 else "mean"

    def __str__(self) -> str:
        many = {None: "grey", 1: "1 band", 3: "RGB"}.get(self.bands, f"{self.bands} bands")
        return f"{many} of {self.bits} bits"

    @property
    def rule(self) -> str:
        """The rule of the foreground in a few words.

        >>> Kind(3, values="luma", side="below").rule, Kind(by="given", masks="classes").rule
        ("foreground below Otsu's threshold of luma", 'foreground by given masks (classes)')
        """
        if self.given:
            return f"foreground by given masks ({self.masks})"
        limit = "Otsu's threshold of" if self.level is None else f"{self.level:,} in"
        return f"foreground {self.side} {limit} {self.reads}"

    def problems(self) -> list[str]:
        """List in what the rule contradicts the images, by docs/format.md."""
        found = []
        if self.given != (self.masks is not None) or (self.by == "fixed") != (
            self.level is not None
        ):
            found.append(f"a foreground by {self.by!r} with {self.masks!r} and {self.level!r}")
        if not self.given and self.reads != self.values:
            found.append(f"{self.values!r} of images with {self.bands or 'no'} bands")
        if self.level is not None and self.level > self.most:
            found.append(f"the level {self.level:,} where the images go to {self.most:,}")
        return found

    def same_images(self, other: Kind) -> bool:
        """Return whether the images of both have the same bands and the same depth."""
        return (self.bands, self.dtype) == (other.bands, other.dtype)


GREY = Kind()


def kind_of(image: Array) -> Kind:
    """Tell the kind of an image (H, W) or (H, W, C), whose rule is unknown.

    >>> str(kind_of(np.zeros((5, 5, 4), np.uint16)))
    '4 bands of 16 bits'
    """
    return Kind(
        image.shape[2] if image.ndim == 3 else None, image.dtype.newbyteorder("<").str, by="given"
    )


def values(images: Array, kind: Kind) -> Array:
    """Compute the value of each pixel: (n, H, W) or (n, H, W, C) -> (n, H, W), of the same dtype.

    >>> values(np.array([[[[10, 20, 60]]]], np.uint8), Kind(3, values="luma")).tolist()
    [[[22]]]
    """
    if kind.reads == "grey":
        return images
    if kind.reads == "max":
        return np.asarray(images.max(axis=3))
    if kind.reads.startswith("band "):
        return np.asarray(images[..., int(kind.reads[5:])])
    out = np.empty(images.shape[:3], images.dtype)
    step = max(1, _BLOCK // images[:1].size)
    for start in range(0, len(images), step):
        some = images[start : start + step].astype(np.uint32)
        if kind.reads == "luma":
            total = sum(some[..., band] * np.uint32(LUMA[band]) for band in range(3))
            out[start : start + step] = (total + np.uint32(500)) // np.uint32(1000)
        else:
            bands = np.uint32(images.shape[3])
            out[start : start + step] = (2 * some.sum(axis=3, dtype=np.uint32) + bands) // (
                2 * bands
            )
    return out


def bins(images: Array, kind: Kind) -> UInt8:
    """Sort the value of each pixel into 256 ranges of equal width: uint8 (n, H, W).

    The range of a value v is v * 256 // (M + 1), M being the largest one possible.
    """
    found = values(images, kind)
    return found if found.dtype == np.uint8 else (found >> 8).astype(np.uint8)


def as_rgb(image: Array) -> UInt8:
    """Show an image (H, W) or (H, W, C) as RGB, uint8 (H, W, 3); `shown_as` says how.

    Three bands of 16 bits are stretched by one range for all three, so that colours stay.

    >>> as_rgb(np.array([[7, 9]], np.uint8)).tolist()
    [[[7, 7, 7], [9, 9, 9]]]
    """
    if image.ndim == 3 and image.shape[2] != 3:
        image = image[..., :3] if image.shape[2] > 3 else image[..., 0]
        image = _stretched(image, (0, 1))
    elif image.dtype != np.uint8:
        image = _stretched(image, None)
    return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image


def shown_as(kind: Kind) -> str:
    """Say how `as_rgb` shows images of a kind; "" where it shows them as they are.

    >>> shown_as(Kind(13, "<u2"))
    'the first three bands, each stretched from its 1st to its 99th percentile'
    """
    stretched = "stretched from its 1st to its 99th percentile"
    together = "stretched from their common 1st to 99th percentile"
    if kind.bands is not None and kind.bands != 3:
        return (
            f"the first three bands, each {stretched}"
            if kind.bands > 3
            else (f"the first band, {stretched}")
        )
    if kind.dtype == GREY.dtype:
        return ""
    return f"grey, {stretched}" if kind.bands is None else f"three bands, {together}"


def _stretched(image: Array, axes: tuple[int, int] | None) -> UInt8:
    """Stretch an image from its 1st to its 99th percentile to 0 to 255.

    The percentiles are taken along `axes`: (0, 1) gives each band its own, None all one.
    """
    low, high = (np.percentile(image, share, axis=axes) for share in _PERCENT)
    span = np.where(high > low, high - low, 1.0)
    return np.rint(np.clip((image - low) / span, 0, 1) * 255).astype(np.uint8)


def negative(images: Array, kind: Kind) -> Array:
    """Give the negative of images: M - v, M being the largest number that a pixel can have."""
    return np.asarray(np.array(kind.most, images.dtype) - images)
