"""Compare what commands print with what a page shows, and give them few digits."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from isolation import ROOT

from datagen.sources import strokes
from datagen.sources.base import Source


def masked(line: str, *, is_exact: bool) -> str:
    """Hide the seconds and rates of a line; of what a network does, all numbers and spaces."""
    return re.sub(r"[\d.,]+ (s|[kMG]B/s)\b" if is_exact else r"[\d.,:]+|\s+", "#", line)


def absent(command: str, shown: list[str], output: list[str]) -> list[str]:
    """List the lines shown that a command does not print; `...` stands for the rest of a line."""
    is_exact = command.startswith("datagen")
    known = {masked(line, is_exact=is_exact) for line in output}
    begun = [line.removesuffix("...") for line in shown if line.endswith("...")]
    lines = [line for line in shown if not line.endswith("...")]
    return [line for line in lines if masked(line, is_exact=is_exact) not in known] + [
        line for line in begun if not any(one.startswith(line) for one in output)
    ]


def few_strokes() -> Source:
    """Draw a few digits of strokes: of 2,600 in train, 500 become val (`small_recipes`)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strokes, "TRAIN", 2600)
        patch.setattr(strokes, "TEST", 300)
        return strokes.load()


def small_recipes(place: Path) -> Path:
    """Copy the packaged recipes; that of strokes gets a small val, and as many, smaller shards."""
    shutil.copytree(ROOT / "datagen/recipes", place, dirs_exist_ok=True)
    text = (place / "strokes.toml").read_text("utf-8")
    for line, small in (("val = 5000", "val = 500"), ("shard_size = 32768", "shard_size = 2048")):
        assert text.count(line) == 1
        text = text.replace(line, small)
    (place / "strokes.toml").write_text(text)
    return place
