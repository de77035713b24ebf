"""Name and number EMNIST's classes by its mapping, which gives the characters of each label."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from datagen.errors import split_lines
from datagen.sources import base
from datagen.sources.base import MAX_CLASSES, UInt8


def mapped(content: str, path: Path) -> dict[int, str]:
    """Parse a mapping: label -> name of the class, in the order of its lines.

    A line is a label and the codes of its characters: two if capital and small letters are one
    class, else one. Raises InputError, about the file `path`, if a line is something else.

    >>> mapped("1 65 97", Path("emnist-letters-mapping.txt"))
    {1: 'Aa'}
    """
    classes: dict[int, str] = {}
    problems = []
    for number, line in enumerate(split_lines(content), 1):
        numbers = line.split()
        if not numbers:
            continue
        if len(numbers) < 2 or not all(re.fullmatch("[0-9]{1,6}", digits) for digits in numbers):
            problems.append(
                f"line {number}: {line[:60]!r} where a label and codes of characters should be"
            )
            continue
        label, *codes = map(int, numbers)
        if label in classes or label >= MAX_CLASSES:
            problems.append(
                f"line {number}: the label {numbers[0]} is there before, or above {MAX_CLASSES - 1}"
            )
        else:
            classes[label] = "".join(map(chr, codes))
    base.raise_if_any(problems or ([] if classes else ["no class in it"]), path)
    base.raise_if_any(
        base.name_problems(list(classes.values()), [f"label {label}" for label in classes]), path
    )
    return classes


def renumbered(
    labels: Mapping[str, UInt8], known: Sequence[int], path: Path, remedy: str
) -> dict[str, UInt8]:
    """Replace each label by its place among `known`: uint8 (n,) by part.

    Raises InputError, about the file `path` and with the remedy, if a label is not among them.

    >>> renumbered({"all": np.array([2, 1], np.uint8)}, [1, 2], Path("mapping"), "")["all"].tolist()
    [1, 0]
    """
    numbers = np.full(256, 255, np.uint8)
    numbers[list(known)] = np.arange(len(known))
    found = {name: numbers[own] for name, own in labels.items()}
    problems = []
    for name, own in found.items():
        wrong = np.flatnonzero(own == 255)
        if wrong.size:
            first = f"the first at {wrong[0]}: {labels[name][wrong[0]]}"
            problems.append(f"{name}: {wrong.size:,} labels that are not in it, {first}")
    base.raise_if_any(problems, path, remedy)
    return found
