"""What was found in an image, as plain values; and these as words and as rows of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from modeling.inference.overlays import plain_name

Record = Mapping[str, Any]


def describe(
    task: str, classes: Sequence[str], name: str, arrays: Mapping[str, npt.NDArray[Any]]
) -> dict[str, Any]:
    """The entry of one image in `predictions.json`, from the arrays that were predicted for it."""
    mask, confidence = arrays["mask"], arrays["confidence"]
    record: dict[str, Any] = {"name": name, "size": list(mask.shape)}
    if task == "mosaics":
        counts = np.bincount(mask.ravel(), minlength=1 + len(classes))
        found = [
            {
                "label": label,
                "class": classes[label],
                "pixels": int(count),
                "confidence": float(sure),
            }
            for label, (count, sure) in enumerate(zip(counts[1:], confidence[1:], strict=True))
            if count
        ]
        return {**record, "classes": found}
    record |= {"pixels": int(mask.sum()), "confidence": float(confidence)}
    if task == "circles":
        label, circle = int(arrays["label"]), arrays["circle"].tolist()
        place = dict(zip("xyr", circle, strict=True)) if circle[2] >= 0 else None
        record |= {"label": label, "class": classes[label], "circle": place}
    return record


def words(found: Record) -> str:
    """What was found in an image as a line of ASCII."""
    if "circle" in found:
        name = plain_name(found["class"], found["label"])
        circle = found["circle"]
        place = (
            "  ".join(f"{axis} {value:.2f}" for axis, value in circle.items())
            if circle
            else "no circle"
        )
        return f"{name}  {found['confidence']:.1%}   {place}"
    parts = found.get("classes", [found])
    return f"{sum(each['pixels'] for each in parts):,} pixels of foreground"


def rows(record: Record) -> list[list[str]]:
    """The table of all that was found, a head first: a row for each image."""
    heads = {
        "foreground": ["foreground pixels", "confidence"],
        "circles": ["class", "confidence", "x", "y", "r"],
        "mosaics": ["classes by area, with confidence"],
    }
    head = ["image", "size", *heads[record["run"]["task"]]]
    return [
        head,
        *([each["name"], format_size(each["size"]), *_cells(each)] for each in record["images"]),
    ]


def _cells(found: Record) -> list[str]:
    if "classes" in found:
        by_area = sorted(found["classes"], key=lambda each: -each["pixels"])
        return [", ".join(f"{each['class']} {each['confidence']:.1%}" for each in by_area) or "-"]
    if "circle" in found:
        circle = found["circle"] or {}
        places = (f"{circle[axis]:.2f}" if circle else "-" for axis in "xyr")
        return [found["class"], f"{found['confidence']:.1%}", *places]
    return [f"{found['pixels']:,}", f"{found['confidence']:.1%}"]


def format_size(size: Sequence[int]) -> str:
    """Height and width for people: 28 x 28."""
    return f"{size[0]} x {size[1]}"
